"""Scores that compare features with means of training features and with the head's weights."""

from typing import Self

import numpy as np

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner
from ood_suite.scores.logits import log_sum_exp
from ood_suite.scores.neighbors import lengths

TABLE_CLASSES = 4096  # whose distances are computed once; 128 MiB
MANY_CLASSES_ROWS = 256  # of more classes: examples whose distances are computed at a time


class SHE(Learner):
    """-x . S_c, with S_c the mean of the correctly classified training features of the predicted
    class c.

    Attributes:
        patterns_: float64 (classes, d).

    Defaults: none, it has no parameters. The inner product is the paper's, and OpenOOD's default;
        the cosine in its place is `ctm`, but for which examples make a mean.

    Fails: where OOD features are longer than those of ID data, whatever their direction, since
        nothing divides by |x| (.332 for MNIST on the demo's network); and on classes without a
        correctly classified training example, which are refused.

    Reference: Zhang et al., "Out-of-Distribution Detection based on In-Distribution Data Patterns
        Memorization with Modern Hopfield Energy", ICLR 2023, equation 5 (simplified).
    """

    LEARNED = {"patterns_": 2}

    def fit(self, features: Array, labels: Array, logits: Array) -> Self:
        """Learns from training features (n, d), labels (n,) and logits (n, classes)."""
        features = checks.matrix("features", features, what="features")
        logits = checks.matrix("logits", logits, what="classes")
        labels, _ = checks.class_labels(labels, len(features), logits.shape[1])
        self.patterns_, _ = checks.correct_means(features, labels, logits)
        return self

    def score(self, features: Array, logits: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.patterns_.shape[1], "features")
        logits = checks.raw_logits(logits, len(self.patterns_))
        checks.same_length(features, logits)

        def score(part, rows):
            predicted = checks.rows_of("logits", logits, part).argmax(axis=1)
            return -np.vecdot(rows, self.patterns_[predicted])

        return checks.each("features", features, score, beside=logits.shape[1])


class MeanFeature(Learner):
    """What fDBD and NCI learn.

    Attributes:
        mean_: float64 (d,), of the training features.
    """

    LEARNED = {"mean_": 1}

    def fit(self, features: Array) -> Self:
        """Learns from training features (n, d)."""
        features = checks.matrix("features", features, what="features")
        self.mean_ = checks.column_means(features)
        return self


class FDBD(MeanFeature):
    """-mean over c != p of (z_p - z_c) / (|w_p - w_c| |x - mean|), p the predicted class: the
    average distance to the decision boundaries, relative to that from the training mean.

    Defaults: none, it has no parameters. Dividing by the distance from the mean is the paper's;
        OpenOOD lets validation OOD data choose between it and |x|.

    Fails: on OOD data whose features lie near the training mean, as short ones do: a small divisor
        makes them look far from boundaries (.808 for Gaussian noise on the demo's network, where
        the energy has .870). It sees nothing across the boundaries, in directions that the head
        ignores.

    Reference: Liu, Qin, "Fast Decision Boundary based Out-of-Distribution Detector", ICML 2024,
        equations 4 and 5.
    """

    def score(self, features: Array, logits: Array, head_kernel: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, len(self.mean_), "features")
        logits = checks.raw_logits(logits)
        checks.same_length(features, logits)
        kernel, _ = checks.head(features, head_kernel)
        checks.same_classes(logits, kernel)
        if kernel.shape[1] < 2:
            raise ValueError("A head of one class has no boundaries.")
        few, squares = kernel.shape[1] <= TABLE_CLASSES, np.einsum("ij,ij->j", kernel, kernel)
        table = inverse_distances(kernel, squares, slice(None) if few else [])

        def score(part, rows):
            z = checks.rows_of("logits", logits, part)
            predicted = z.argmax(axis=1)
            gaps = z[np.arange(len(z)), predicted][:, None] - z
            nearer = table[predicted] if few else inverse_distances(kernel, squares, predicted)
            distances = np.vecdot(gaps, nearer) / (z.shape[1] - 1)
            return -distances / np.maximum(lengths(rows - self.mean_), 1e-8)

        rows = 0 if few else MANY_CLASSES_ROWS
        return checks.each("features", features, score, beside=logits.shape[1], rows=rows)


def inverse_distances(kernel, squares, rows):
    """(rows, classes): 1 / |w_a - w_b| for some classes a, 0 for a class and itself, or its copy:
    no boundary.
    """
    found = kernel.T[rows] @ kernel
    found *= -2.0
    scale = squares[rows, None] + squares
    found += scale
    found[found <= 1e-12 * scale] = np.inf  # the difference of such numbers is their rounding
    return np.divide(1.0, np.sqrt(found, out=found), out=found)


class NCI(MeanFeature):
    """-(w_p . (x - mean)) / |x - mean| - alpha |x|_1, p the predicted class.

    Args:
        alpha: weight of the features' L1 norm, >= 0.

    Defaults: 0.001 is ours; OpenOOD starts at 0.0001 and searches up to 0.1.

    Fails: far from neural collapse, where features do not point along weights.

    Reference: Liu, Qin, "Detecting Out-of-Distribution Through the Lens of Neural Collapse", CVPR
        2025, equations 5 and 7.
    """

    def __init__(self, alpha: float = 0.001) -> None:
        self.alpha = alpha

    def score(self, features: Array, logits: Array, head_kernel: Array) -> Array:
        """float64 (n,)."""
        checks.within("alpha", self.alpha, 0.0, np.inf, "[)")
        features = checks.matrix("features", features, len(self.mean_), "features")
        logits = checks.raw_logits(logits)
        checks.same_length(features, logits)
        kernel, _ = checks.head(features, head_kernel)
        checks.same_classes(logits, kernel)
        weights = np.ascontiguousarray(kernel.T)

        def score(part, rows):
            predicted = checks.rows_of("logits", logits, part).argmax(axis=1)
            centred = rows - self.mean_
            pull = np.vecdot(weights[predicted], centred) / lengths(centred)
            return -pull - self.alpha * np.abs(rows).sum(axis=1)

        return checks.each("features", features, score, beside=logits.shape[1])


class HIMPLoS(Learner):
    """-log sum_k exp(s z'_k): the energy of logits of masked and clipped features, smoothed by the
    similarity to the predicted class's prototype.

    With p the class predicted from the original logits:

        mask   M[p, d] = 1 where W[d, p] >= the `mask_percentile`-th percentile of W[:, p]
        clip   g = min(x * M[p], clip)
        logits z' = W^T g + b, of all classes
        smooth s = cos(prototype_p, x) of the unmasked feature

    The prototype of a class is the mean of its training features, of right and wrong predictions
    alike. Each of the three steps can be switched off.

    Args:
        mask_percentile: of signed weights, linearly interpolated; 0 keeps all features.
        clip: upper bound of features; 0 for the `clip_percentile`-th percentile of all training
            features (our choice: the authors give constants for their networks, and their 1.6 is
            the 98th percentile of a CIFAR-10 DenseNet).
        clip_percentile: 100 for no clipping.
        smooth: whether logits are multiplied by the similarity.

    Defaults: mask_percentile 60 and the percentile of clip 1.6, the authors' for a DenseNet on
        CIFAR.

    Fails: where weights are mostly alike within a class, so that a mask drops what counts.

    Attributes:
        prototypes_: float64 (classes, d). clip_: float64.

    Reference: Sun et al., "Classifier-head Informed Feature Masking and Prototype-based Logit
        Smoothing for Out-of-Distribution Detection", 2023. The authors' settings: mask_percentile
        60, clip 1.6 (CIFAR, DenseNet), 30 and 0.8 (ImageNet, ResNet-50).
    """

    LEARNED = {"prototypes_": 2, "clip_": 0}

    def __init__(
        self,
        mask_percentile: float = 60.0,
        clip: float = 0.0,
        clip_percentile: float = 98.0,
        smooth: bool = True,
    ) -> None:
        self.mask_percentile = mask_percentile
        self.clip = clip
        self.clip_percentile = clip_percentile
        self.smooth = smooth

    def fit(self, features: Array, labels: Array) -> Self:
        """Learns from training features (n, d) and labels (n,)."""
        features = checks.matrix("features", features, what="features")
        labels, classes = checks.class_labels(labels, len(features))
        checks.within("mask_percentile", self.mask_percentile, 0.0, 100.0)
        self.clip_ = _upper_bound(features, self.clip, self.clip_percentile)
        self.prototypes_ = checks.class_means(features, labels, classes)
        return self

    def score(self, features: Array, logits: Array, head_kernel: Array, head_bias: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.prototypes_.shape[1], "features")
        logits = checks.raw_logits(logits, len(self.prototypes_))
        checks.same_length(features, logits)
        kernel, bias = checks.head(features, head_kernel, head_bias)
        checks.same_classes(logits, kernel)
        mask = kernel >= np.percentile(kernel, self.mask_percentile, axis=0)  # (d, classes)

        def score(part, rows):
            predicted = checks.rows_of("logits", logits, part).argmax(axis=1)
            shaped = np.minimum(rows * mask.T[predicted], self.clip_) @ kernel + bias
            if self.smooth:
                prototypes = self.prototypes_[predicted]
                norms = lengths(prototypes) * lengths(rows)
                shaped *= (np.vecdot(prototypes, rows) / norms)[:, None]
            return -log_sum_exp(shaped)

        return checks.each("features", features, score, beside=logits.shape[1])


def _upper_bound(features, clip, clip_percentile):
    """float64: `clip`, or if it is 0 the percentile of all features, infinity for the 100th."""
    checks.within("clip", clip, 0.0, np.inf, "[)")
    share = checks.within("clip_percentile", clip_percentile, 0.0, 100.0) / 100.0
    return np.float64(clip or (checks.quantile(features, share) if share < 1.0 else np.inf))


class LINe(Learner):
    """-log sum_k exp(z_k), the energy of logits made by the neurons that matter to one class.

    Features are clipped, x <- min(x, clip); p is the class that the head predicts of them. With
    C[c, d] = W[d, c] * (mean of feature d over training examples of class c), a neuron d counts if

        C[p, d] > the `activation_percentile`-th percentile of C[p, :],

    and a weight W[d, k] counts if |C[p, d]| W[d, k] > the `weight_percentile`-th percentile of that
    matrix. For a linear head C is exactly the neuron's mean Shapley value (its Taylor term).

    Args:
        activation_percentile, weight_percentile: in 0..100, below 100.
        clip_percentile: of all training features; 100 for no clipping.
        clip: a constant in its place, as the authors have; 0 for the percentile, see HIMPLoS.

    Defaults: 10 and 10, the authors' for ImageNet; they take 90 and 90 on CIFAR-10, 10 for neurons
        and 90 for weights on CIFAR-100, and clip at 0.8, 1.0 and 1.0: see the presets.

    Fails: on CIFAR networks with its defaults.

    Attributes:
        contributions_: float64 (classes, d). clip_: float64.

    Reference: Ahn, Park, Kim, "LINe: Out-of-Distribution Detection by Leveraging Important
        Neurons", CVPR 2023.
    """

    LEARNED = {"contributions_": 2, "clip_": 0}

    def __init__(
        self,
        activation_percentile: float = 10.0,
        weight_percentile: float = 10.0,
        clip_percentile: float = 98.0,
        *,
        clip: float = 0.0,
    ) -> None:
        self.activation_percentile = activation_percentile
        self.weight_percentile = weight_percentile
        self.clip_percentile = clip_percentile
        self.clip = clip

    def fit(self, features: Array, labels: Array, head_kernel: Array) -> Self:
        """Learns from training features (n, d), labels (n,) and the head."""
        features = checks.matrix("features", features, what="features")
        kernel, _ = checks.head(features, head_kernel)
        labels, classes = checks.class_labels(labels, len(features), kernel.shape[1])
        for name in ("activation_percentile", "weight_percentile"):
            checks.within(name, getattr(self, name), 0.0, 100.0, "[)")
        self.clip_ = _upper_bound(features, self.clip, self.clip_percentile)
        self.contributions_ = checks.class_means(features, labels, classes) * kernel.T
        return self

    def score(self, features: Array, head_kernel: Array, head_bias: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.contributions_.shape[1], "features")
        kernel, bias = checks.head(features, head_kernel, head_bias)
        predicted = np.empty(len(features), np.int64)
        for part, rows in checks.chunks("features", features):
            predicted[part] = (np.minimum(rows, self.clip_) @ kernel + bias).argmax(axis=1)
        scores = np.empty(len(features))
        for c in np.unique(predicted):
            important = self.contributions_[c]
            neurons = important > np.percentile(important, self.activation_percentile)
            weighted = np.abs(important)[:, None] * kernel
            masked = kernel * (weighted > np.percentile(weighted, self.weight_percentile))
            masked[~neurons] = 0.0
            mine = np.flatnonzero(predicted == c)
            for start in range(0, len(mine), 8192):
                rows = mine[start : start + 8192]
                clipped = np.minimum(np.asarray(features[rows], np.float64), self.clip_)
                scores[rows] = -log_sum_exp(clipped @ masked + bias)
        return scores
