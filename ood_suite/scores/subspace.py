"""Scores that look at what lies outside the principal subspace of the training features."""

from typing import Self

import numpy as np

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner
from ood_suite.scores.logits import energy
from ood_suite.scores.neighbors import norms


class Residual(Learner):
    """|R^T (x - o)|: the length of a feature vector outside the principal subspace.

    o = -pinv(W^T) b is the point whose logits are all equal to zero (in the least-squares sense),
    and R are the eigenvectors of mean (x - o)(x - o)^T over training data with the smallest
    eigenvalues.

    Args:
        dimension: D, of the principal subspace; 0 for the authors' choice.

    Defaults: 1000 from 2048 features on, 512 from 768 on, else half of them, as the authors.

    Fails: where ID features vary in all directions, and where OOD differs within the subspace.

    Attributes:
        origin_: float64 (d,). residual_: float64 (d, d - D).

    Reference: Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022,
        section 4.1.
    """

    LEARNED = {"origin_": 1, "residual_": 2}

    def __init__(self, dimension: int = 0) -> None:
        self.dimension = dimension

    def fit(self, features: Array, head_kernel: Array, head_bias: Array) -> Self:
        """Learns from training features (n, d) and the head, in one pass."""
        features = checks.matrix("features", features, what="features")
        if not len(features):
            raise ValueError("A subspace cannot be fitted to no examples.")
        kernel, bias = checks.head(features, head_kernel, head_bias)
        width = features.shape[1]
        dimension = self.dimension or next(
            size for limit, size in ((2048, 1000), (768, 512), (0, width // 2)) if width >= limit
        )
        if not 0 < dimension < width:
            raise ValueError(
                f"`dimension` must lie in 1..{width - 1}, below the number of features. Received: "
                f"{dimension}."
            )
        # Weight decay drives the mean over classes of a head to zero, which leaves it one rank less
        # up to the rounding of float32: what is below that must not be inverted.
        cutoff = max(kernel.shape) * np.finfo(np.float32).eps
        self.origin_ = -np.linalg.pinv(kernel.T, rcond=cutoff) @ bias
        second_moment = checks.second_moment(
            "features", features, lambda _, rows: rows - self.origin_
        )
        values, vectors = np.linalg.eigh(second_moment)
        if values[: width - dimension].sum() <= 1e-12 * values.sum():
            raise ValueError(
                f"The training features lie within the {dimension} dimensions of the principal "
                "subspace: nothing is left of them outside. Choose a smaller `dimension`."
            )
        self.residual_ = vectors[:, : width - dimension]
        return self

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, len(self.origin_), "features")

        def score(_, rows):
            return norms((rows - self.origin_) @ self.residual_)

        return checks.each("features", features, score)


class Vim(Learner):
    """alpha |R^T (x - o)| - log sum_c exp(z_c): the residual as a virtual logit.

    alpha scales the mean residual of the training data to their mean largest logit. The paper's
    score is the softmax probability of the virtual logit, of which this is the logit, a monotone
    function.

    Args:
        dimension: as of Residual.

    Defaults: as of Residual.

    Fails: as Residual does; its share of the sum is set by training means alone.

    Attributes:
        space_: a fitted Residual. alpha_: float64.

    Reference: Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022,
        equations 5 to 7.
    """

    LEARNED = {"alpha_": 0}
    PARTS = {"space_": Residual}

    def __init__(self, dimension: int = 0) -> None:
        self.dimension = dimension

    def fit(self, features: Array, logits: Array, head_kernel: Array, head_bias: Array) -> Self:
        """Learns from training features (n, d), logits (n, classes) and the head, in two passes."""
        self.space_ = Residual(self.dimension).fit(features, head_kernel, head_bias)
        logits = checks.matrix("logits", logits, what="classes")
        checks.same_length(features, logits)
        largest = sum(rows.max(axis=1).sum() for _, rows in checks.chunks("logits", logits))
        self.alpha_ = np.float64(largest / self.space_.score(features).sum())
        return self

    def score(self, features: Array, logits: Array) -> Array:
        """float64 (n,)."""
        energies = energy(logits)
        checks.same_length(features, energies)
        return self.alpha_ * self.space_.score(features) + energies


MOST_BYTES = 2**32  # of the covariances of all classes and the subspaces made of them


class ClassResidual(Learner):
    """min_c |R_c^T (x - mean_c)|: the length of a feature vector outside the principal subspace of
    the class that it fits best.

    R_c are the eigenvectors of the covariance of class c with the smallest eigenvalues.

    Args:
        dimension: D, of each class's principal subspace; 0 for half of the features.

    Attributes:
        means_: float64 (classes, d). residuals_: float64 (classes, d, d - D).

    Defaults: half of the features, as Residual has for narrow networks; no paper states one.

    Fails: with fewer examples per class than features, whose subspace is that of noise. Its memory
        is that of classes * d (2 d - D) numbers; more than 4 GiB, as of ImageNet, is refused.

    Reference: ours, after Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR
        2022, section 4.1, class by class.
    """

    LEARNED = {"means_": 2, "residuals_": 3}

    def __init__(self, dimension: int = 0) -> None:
        self.dimension = dimension

    def fit(self, features: Array, labels: Array) -> Self:
        """Learns from training features (n, d) and labels (n,), every class with an example."""
        features = checks.matrix("features", features, what="features")
        labels, classes = checks.class_labels(labels, len(features))
        width = features.shape[1]
        dimension = self.dimension or width // 2
        if not 0 < dimension < width:
            raise ValueError(
                f"`dimension` must lie in 1..{width - 1}, below the number of features. Received: "
                f"{dimension}."
            )
        needed = 8 * classes * width * (2 * width - dimension)
        if needed > MOST_BYTES:
            raise ValueError(
                f"class_residual would take {needed / 2**30:.0f} GiB for {classes} classes of "
                f"{width} features, at most {MOST_BYTES / 2**30:.0f}: use residual."
            )
        self.means_ = checks.class_means(features, labels, classes)
        moments = np.zeros((classes, width, width))
        for part, rows in checks.chunks("features", features):
            for c in np.unique(labels[part]):
                centred = rows[labels[part] == c] - self.means_[c]
                moments[c] += centred.T @ centred
        self.residuals_ = np.empty((classes, width, width - dimension))
        for residual, moment in zip(self.residuals_, moments, strict=True):
            residual[:] = np.linalg.eigh(moment)[1][:, : width - dimension]
        return self

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.means_.shape[1], "features")

        def score(_, rows):
            spaces = zip(self.means_, self.residuals_, strict=True)
            return np.min([norms((rows - mean) @ residual) for mean, residual in spaces], axis=0)

        return checks.each("features", features, score)
