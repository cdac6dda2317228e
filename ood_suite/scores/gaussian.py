"""Distances to Gaussians fitted to features. Squared distances, without the factor 1/2, and
covariances divided by n: other libraries scale both otherwise.

Fits are passes over the features, which may be memory maps; memory is that of a few thousand rows
and of d x d matrices. Precisions are pseudo-inverses.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner
from ood_suite.scores.logits import log_sum_exp


def whitening(covariance):
    """W (d, rank) with W @ W.T the pseudo-inverse of a covariance (d, d)."""
    values, vectors = np.linalg.eigh(covariance)
    floor = values[-1] * len(values) * np.finfo(np.float64).eps
    if values[-1] <= 0.0:
        raise ValueError("The features do not vary: their covariance is zero.")
    kept = values > floor
    return vectors[:, kept] / np.sqrt(values[kept])


def covariance(features, centres, labels=None):
    """Mean of (x - centre)(x - centre)^T; the centre is `centres[label]`, or `centres` itself."""

    def centred(part, rows):
        return rows - (centres if labels is None else centres[labels[part]])

    return checks.second_moment("features", features, centred) / len(features)


class TiedGaussian(Learner):
    """One Gaussian per class with a common covariance.

    Attributes:
        means_: float64 (classes, d). whitening_: float64 (d, rank).
    """

    LEARNED = {"means_": 2, "whitening_": 2}

    def fit(self, features: Array, labels: Array) -> Self:
        """Learns from features (n, d) and labels (n,), every class with an example."""
        features = checks.matrix("features", features, what="features")
        labels, classes = checks.class_labels(labels, len(features))
        self.means_ = checks.class_means(features, labels, classes)
        shared = covariance(features, self.means_, labels)
        if not shared.any():
            raise ValueError(
                "The features do not vary within classes, whose common covariance is zero: a class "
                f"must have examples that differ. Received: {len(features)} examples of {classes} "
                "classes."
            )
        self.whitening_ = whitening(shared)
        return self

    def judged(self, features, judge):
        """float64 (n,): judge(float64 rows, their squared Mahalanobis distances (rows, classes))
        -> (rows,).
        """
        features = checks.matrix("features", features, self.means_.shape[1], "features")
        origin = self.means_.mean(axis=0)  # near the data: less cancellation in |x|^2 - 2 x m + m^2
        means = (self.means_ - origin) @ self.whitening_
        sizes = (means**2).sum(axis=1)

        def score(_, rows):
            white = (rows - origin) @ self.whitening_
            squares = np.vecdot(white, white)[:, None] + sizes
            return judge(rows, np.maximum(squares - 2.0 * white @ means.T, 0.0))

        return checks.each("features", features, score, beside=len(means))

    def nearest(self, features):
        """float64 (n,): the smallest squared distance."""
        return self.judged(features, lambda _, distances: distances.min(axis=1))


def _scaled(features, normalize):
    return checks.UnitRows("features", features) if normalize else features


class Mahalanobis(TiedGaussian):
    """min_c (x - mean_c)^T P (x - mean_c), with P the inverse of the covariance that all classes
    share.

    Args:
        normalize: divide each feature vector by its Euclidean length first (MDS++).

    Defaults: False, the original; True is better on every network of Mueller and Hein, and on our
        CIFAR-10 DenseNet (Tiny ImageNet .688 -> .881, benchmarks/RESULTS.md).

    Fails: without `normalize` where the length of features differs between ID and OOD, as OOD
        features tend to be short and so near to the means.

    Reference: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", NeurIPS 2018, equation 2 (negated), on one layer. `normalize`:
        Mueller, Hein, "Mahalanobis++", ICML 2025.
    """

    def __init__(self, normalize: bool = False) -> None:
        self.normalize = normalize

    def fit(self, features: Array, labels: Array) -> Self:
        """Learns from features (n, d) and labels (n,), every class with an example."""
        return super().fit(_scaled(features, self.normalize), labels)

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.means_.shape[1], "features")
        return self.nearest(_scaled(features, self.normalize))


class GaussianMixture(TiedGaussian):
    """-log sum_c pi_c exp(-d_c(x) / 2): the density of a mixture with a Gaussian per class and a
    common covariance, but for a constant.

    d_c is the squared Mahalanobis distance to class c, and pi_c the share of the class. OpenOOD's
    GMM has the same density with components from EM, on reduced features; the components here are
    the classes, so that nothing depends on a start. Mukhoti et al. give each class a covariance of
    its own.

    Args:
        normalize: divide each feature vector by its Euclidean length first; see Mahalanobis.

    Defaults: True, as Mueller and Hein find for Gaussians of features.

    Fails: as Mahalanobis does; with many classes it is little more than the nearest one.

    Reference: Mukhoti et al., "Deep Deterministic Uncertainty: A New Simple Baseline", CVPR 2023,
        equation 4.
    """

    LEARNED = {"means_": 2, "whitening_": 2, "log_shares_": 1}

    def __init__(self, normalize: bool = True) -> None:
        self.normalize = normalize

    def fit(self, features: Array, labels: Array) -> Self:
        """Learns from features (n, d) and labels (n,), every class with an example."""
        super().fit(_scaled(features, self.normalize), labels)
        self.log_shares_ = np.log(np.bincount(np.asarray(labels, np.int64)) / len(features))
        return self

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.means_.shape[1], "features")

        def score(_, distances):
            return -log_sum_exp(self.log_shares_ - distances / 2.0)

        return self.judged(_scaled(features, self.normalize), score)


class RelativeMahalanobis(Learner):
    """min_c d_c(x) - d_0(x): the Mahalanobis distance less that to one Gaussian of all the data.

    Args:
        normalize: divide each feature vector by its Euclidean length first (RMDS++).

    Attributes:
        classes_: a fitted TiedGaussian. mean_, whitening_: of the Gaussian of all the data.

    Defaults: False, the original; see Mahalanobis.

    Fails: on far OOD more than Mahalanobis: what is far from all the data has both terms large.

    Reference: Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
        2021, equation 2. `normalize`: Mueller, Hein, "Mahalanobis++", ICML 2025.
    """

    LEARNED = {"mean_": 1, "whitening_": 2}
    PARTS = {"classes_": TiedGaussian}

    def __init__(self, normalize: bool = False) -> None:
        self.normalize = normalize

    def fit(self, features: Array, labels: Array) -> Self:
        """Learns from features (n, d) and labels (n,)."""
        features = checks.matrix("features", features, what="features")
        features = _scaled(features, self.normalize)
        self.classes_ = TiedGaussian().fit(features, labels)
        labels = np.asarray(labels, np.int64)
        self.mean_ = np.average(self.classes_.means_, axis=0, weights=np.bincount(labels))
        self.whitening_ = whitening(covariance(features, self.mean_))
        return self

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, len(self.mean_), "features")

        def score(rows, distances):
            background = (rows - self.mean_) @ self.whitening_
            return distances.min(axis=1) - np.vecdot(background, background)

        return self.classes_.judged(_scaled(features, self.normalize), score)


class MahalanobisLayers(Learner):
    """logit of a logistic regression on the Mahalanobis distances of several layers.

    The regression is fitted to validation ID and OOD data, on standardised distances, with equal
    weight for both classes. With `epsilon`, the distances at test and in the regression are those
    at inputs perturbed towards a smaller distance.

    Args:
        epsilon: size of the perturbation in pixels / 255, one that was extracted; 0 for none.

    Attributes:
        layers_: names of the layers, sorted. gaussians_: {layer: a fitted TiedGaussian}.
        centre_, spread_, weights_ (layers,), intercept_: of the regression.

    Defaults: 0, as no perturbation needs no choice; the authors choose among 0, 0.0005, 0.001,
        0.0014, 0.002, 0.005 and 0.01 for each pair of data sets.

    Fails: where the test's OOD data are of another kind than the validation's, which weigh the
        layers; and without any, as it then cannot be fitted.

    Reference: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", NeurIPS 2018, algorithm 1 and section 2.2. The authors' code fits the
        regression on test images; here only validation data enter.
    """

    LEARNED = {"layers_": 1, "centre_": 1, "spread_": 1, "weights_": 1, "intercept_": 0}

    def __init__(self, epsilon: float = 0.0) -> None:
        self.epsilon = epsilon

    def fit(self, layer_features: Mapping[str, Array], labels: Array) -> Self:
        """Learns a TiedGaussian per layer.

        Args:
            layer_features: {layer: (n, d_l)}. labels: (n,).
        """
        self.layers_ = np.array(sorted(name for name in layer_features if ",epsilon" not in name))
        self.gaussians_ = {
            str(name): TiedGaussian().fit(layer_features[name], labels) for name in self.layers_
        }
        return self

    def get_arrays(self):
        """As of every learner; the arrays of a layer are called by its number."""
        arrays = super().get_arrays()
        for i, gaussian in enumerate(self.gaussians_.values()):
            arrays |= {f"{i}/{name}": array for name, array in gaussian.get_arrays().items()}
        return arrays

    def set_arrays(self, arrays):
        """As of every learner."""
        super().set_arrays({name: array for name, array in arrays.items() if "/" not in name})
        self.gaussians_ = {}
        for i, name in enumerate(self.layers_):
            own = {k.partition("/")[2]: a for k, a in arrays.items() if k.startswith(f"{i}/")}
            self.gaussians_[str(name)] = TiedGaussian().set_arrays(own)
        return self

    def fit_validation(self, id_arrays: Sequence[Any], ood_arrays: Sequence[Any]) -> Self:
        """Learns the regression from what `score` takes, of validation ID and OOD data."""
        from sklearn.linear_model import LogisticRegression  # half a second, for this score alone

        distances = [self._distances(*arrays) for arrays in (id_arrays, ood_arrays)]
        is_ood = np.repeat([0, 1], [len(part) for part in distances])
        stacked = np.concatenate(distances)
        self.centre_, self.spread_ = stacked.mean(axis=0), stacked.std(axis=0) + 1e-12
        regression = LogisticRegression(class_weight="balanced", max_iter=1000)
        regression.fit((stacked - self.centre_) / self.spread_, is_ood)
        self.weights_, self.intercept_ = regression.coef_[0], regression.intercept_[0]
        return self

    def _distances(self, layer_features):
        """float64 (n, layers), the smallest distance in each layer."""
        columns = []
        for name, gaussian in self.gaussians_.items():
            key = f"{name},epsilon={self.epsilon:g}" if self.epsilon else name
            if key not in layer_features:
                raise ValueError(
                    f"mahalanobis_layers needs the layer {key!r}. Received: "
                    f"{sorted(layer_features)}."
                )
            columns.append(gaussian.nearest(layer_features[key]))
        return np.stack(columns, axis=1)

    def score(self, layer_features: Mapping[str, Array]) -> Array:
        """float64 (n,); needs "layer,epsilon=..." of every layer if `epsilon` is not 0."""
        if not hasattr(self, "weights_"):
            raise ValueError("mahalanobis_layers needs validation OOD data at fit.")
        distances = self._distances(layer_features)
        return ((distances - self.centre_) / self.spread_) @ self.weights_ + self.intercept_
