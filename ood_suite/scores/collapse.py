"""Scores that rest on neural collapse: ID features gather at class means, in few dimensions."""

from typing import Self

import numpy as np

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner
from ood_suite.scores.logits import log_sum_exp, max_logit
from ood_suite.scores.neighbors import lengths, norms


class CTM(Learner):
    """-max_c cos(x, mean_c): the angle to the nearest class mean.

    Attributes:
        directions_: float64 (classes, d), the class means scaled to length 1.

    Fails: where classes overlap in angle, as on networks far from neural collapse.

    Defaults: none, it has no parameters.

    Reference: Ngoc-Hieu et al., "A Cosine Similarity-based Method for Out-of-Distribution
        Detection", 2023, equation 2 (arXiv 2306.14920). The authors' code does the same; a later
        version of it leaves training examples that are classified wrongly out of the means.
    """

    LEARNED = {"directions_": 2}

    def fit(self, features: Array, labels: Array) -> Self:
        """Learns from training features (n, d) and labels (n,), every class with an example."""
        features = checks.matrix("features", features, what="features")
        labels, classes = checks.class_labels(labels, len(features))
        means = checks.class_means(features, labels, classes)
        self.directions_ = means / lengths(means)[:, None]
        return self

    def score(self, features: Array) -> Array:
        """float64 (n,), in [-1, 1]."""
        features = checks.matrix("features", features, self.directions_.shape[1], "features")

        def score(_, rows):
            return -(rows @ self.directions_.T).max(axis=1) / lengths(rows)

        return checks.each("features", features, score)


class NECO(Learner):
    """-|P s| / |s| * max_c z_c, with s the standardised feature and P its first principal
    components: the share of a feature's length that lies in the subspace of ID data.

    Args:
        dimension: number of principal components; 0 for the number of classes.
        with_logit: whether the share is multiplied by the largest logit.

    Attributes:
        mean_, deviation_: float64 (d,), of each training feature. components_: float64 (d, k).

    Defaults: `dimension` is ours, and next to the classes - 1 dimensions that full collapse leaves;
        the authors tune it per network. They multiply by the largest logit too, but for CNNs whose
        features do not collapse.

    Fails: with a dimension near the number of features, where the share is 1 for all; and with
        negative largest logits, which turn its order round.

    Reference: Ben Ammar et al., "NECO: Neural Collapse Based Out-of-distribution Detection", ICLR
        2024, equation 6.
    """

    LEARNED = {"mean_": 1, "deviation_": 1, "components_": 2}

    def __init__(self, dimension: int = 0, with_logit: bool = True) -> None:
        self.dimension = dimension
        self.with_logit = with_logit

    def fit(self, features: Array, head_kernel: Array) -> Self:
        """Learns from training features (n, d) and the head's number of classes, in two passes."""
        features = checks.matrix("features", features, what="features")
        if not len(features):
            raise ValueError("A subspace cannot be fitted to no examples.")
        kernel, _ = checks.head(features, head_kernel)
        width = features.shape[1]
        dimension = self.dimension or min(kernel.shape[1], width - 1)
        if not 0 < dimension < width:
            raise ValueError(
                f"`dimension` must lie in 1..{width - 1}, below the number of features. Received: "
                f"{dimension}."
            )
        self.mean_ = checks.column_means(features)
        moment = checks.second_moment("features", features, lambda _, rows: rows - self.mean_)
        deviation = np.sqrt(np.diag(moment) / len(features))
        varies = deviation > 1e-12 * np.abs(self.mean_)  # beyond rounding
        self.deviation_ = np.where(varies, deviation, 1.0)  # a constant feature stays 0
        _, vectors = np.linalg.eigh(moment / np.outer(self.deviation_, self.deviation_))
        self.components_ = vectors[:, width - dimension :]
        return self

    def score(self, features: Array, logits: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, len(self.mean_), "features")
        largest = -max_logit(logits)
        checks.same_length(features, largest)

        def score(_, rows):
            standard = (rows - self.mean_) / self.deviation_
            return -norms(standard @ self.components_) / lengths(standard)

        scores = checks.each("features", features, score)
        return scores * largest if self.with_logit else scores


class CADRef(Learner):
    """e_p / E(z) + e_n / mean E: the relative distance to the predicted class's mean, in two parts.

    With p the predicted class, e = x - mean_p and s = sign(W[:, p]):

        e_p = sum_d max(s_d e_d, 0) / |x|_1    what raises the logit of p
        e_n = sum_d max(-s_d e_d, 0) / |x|_1   what lowers it

    E = log sum exp of the logits, whose mean is that of the training data. Class means are of the
    predicted classes; that of a class that no training example was predicted as is the origin.

    Attributes:
        means_: float64 (classes, d). mean_energy_: float64.

    Defaults: the energy as the score of the logits, the authors' best on CNNs; they offer the
        largest logit, GEN and MSP as well.

    Fails: where E is near zero or negative, as on networks with few classes and small logits.

    Reference: Ling et al., "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled
        Relative Feature Leveraging", CVPR 2025, equations 8 to 12.
    """

    LEARNED = {"means_": 2, "mean_energy_": 0}

    def fit(self, features: Array, logits: Array) -> Self:
        """Learns from training features (n, d) and logits (n, classes)."""
        features = checks.matrix("features", features, what="features")
        logits = checks.matrix("logits", logits, what="classes")
        checks.same_length(features, logits)
        if not len(features):
            raise ValueError("A mean cannot be fitted to no examples.")
        predicted, total = np.empty(len(logits), np.int64), 0.0
        for part, rows in checks.chunks("logits", logits):
            predicted[part] = rows.argmax(axis=1)
            total += log_sum_exp(rows).sum()
        classes = logits.shape[1]
        counts = np.bincount(predicted, minlength=classes)
        sums = checks.class_sums(features, predicted, classes)
        self.means_ = sums / np.maximum(counts, 1)[:, None]
        self.mean_energy_ = np.float64(total / len(logits))
        return self

    def score(self, features: Array, logits: Array, head_kernel: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.means_.shape[1], "features")
        logits = checks.raw_logits(logits, len(self.means_))
        kernel, _ = checks.head(features, head_kernel)
        checks.same_classes(logits, kernel)
        checks.same_length(features, logits)
        signs = np.sign(kernel.T)

        def score(part, rows):
            z = checks.rows_of("logits", logits, part)
            predicted = z.argmax(axis=1)
            away = (rows - self.means_[predicted]) * signs[predicted]
            size = np.maximum(np.abs(rows).sum(axis=1), 1e-12)
            raising = np.maximum(away, 0.0).sum(axis=1) / size
            lowering = np.maximum(-away, 0.0).sum(axis=1) / size
            return raising / log_sum_exp(z) + lowering / self.mean_energy_

        return checks.each("features", features, score, beside=logits.shape[1])
