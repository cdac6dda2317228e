"""Reconstruction errors of kernel principal component analysis of features."""

from typing import Self

import numpy as np

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner
from ood_suite.scores.neighbors import norms


class CoP(Learner):
    """|(I - U U^T) (u - mean)| of u = x / |x|: the part of a unit-length feature outside the
    principal subspace, which is kernel PCA with the cosine kernel.

    Args:
        explained: share of the variance that the subspace must hold at least, in (0, 1).

    Attributes:
        mean_: float64 (d,), of the mapped training features. outside_: float64 (d, d - q), the
            components that are left.

    Defaults: 0.85, the authors' for a ResNet-18 on CIFAR-10; they take 0.99 for a ResNet-50 on
        ImageNet, and the share matters much.

    Fails: where ID features fill all dimensions evenly.

    Reference: Fang et al., "Kernel PCA for Out-of-Distribution Detection", NeurIPS 2024, algorithm
        1. The authors' code does the same.
    """

    LEARNED = {"mean_": 1, "outside_": 2}

    def __init__(self, explained: float = 0.85) -> None:
        self.explained = explained

    def fit(self, features: Array) -> Self:
        """Learns from training features (n, d), in two passes."""
        features = checks.matrix("features", features, what="features")
        if not len(features):
            raise ValueError("A subspace cannot be fitted to no examples.")
        checks.within("explained", self.explained, 0.0, 1.0, "()")
        self._draw(features.shape[1])
        total = sum(rows.sum(axis=0) for rows in self._mapped(features))
        self.mean_ = total / len(features)
        units = checks.UnitRows("features", features)
        moment = checks.second_moment(
            "features", units, lambda _, rows: self._map(rows) - self.mean_, len(self.mean_)
        )
        values, vectors = np.linalg.eigh(moment)
        if values[-1] <= 0.0:
            raise ValueError("The features do not vary: their covariance is zero.")
        share = np.cumsum(values[::-1]) / values.sum()
        kept = int(np.argmax(share >= self.explained)) + 1
        self.outside_ = vectors[:, : max(len(values) - kept, 1)]
        return self

    def _draw(self, width):
        """What the map needs; the cosine's needs nothing."""

    def _map(self, units):
        return units

    def _mapped(self, features):
        for _, units in checks.chunks("features", checks.UnitRows("features", features)):
            yield self._map(units)

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self._width(), "features")

        def score(_, units):
            return norms((self._map(units) - self.mean_) @ self.outside_)

        units = checks.UnitRows("features", features)
        return checks.each("features", units, score, beside=len(self.mean_))

    def _width(self):
        return len(self.mean_)


class CoRP(CoP):
    """As CoP, of sqrt(2 / M) cos(Omega u + phase): kernel PCA with a Gaussian kernel of unit-length
    features, by random Fourier features.

    Omega (M, d) is normal with variance 2 gamma, phases are uniform in [0, 2 pi).

    Args:
        explained: as of CoP. gamma: of the kernel exp(-gamma |u - v|^2), positive.
        components: M. seed: of the random features.

    Attributes:
        as of CoP, in M dimensions; frequencies_: float64 (M, d). phases_: float64 (M,).

    Defaults: gamma 2, 2048 components and 0.8 of the variance, the authors' for a ResNet-18 on
        CIFAR-10; for a ResNet-50 on ImageNet they take 3, 4096 and 0.5.

    Fails: as CoP does; fewer components make it noisy from seed to seed.

    Reference: Fang et al., "Kernel PCA for Out-of-Distribution Detection", NeurIPS 2024,
        section 3.2.
    """

    LEARNED = {"mean_": 1, "outside_": 2, "frequencies_": 2, "phases_": 1}

    def __init__(
        self, explained: float = 0.8, gamma: float = 2.0, components: int = 2048, seed: int = 0
    ) -> None:
        super().__init__(explained)
        self.gamma = gamma
        self.components = components
        self.seed = seed

    def _draw(self, width):
        checks.above("gamma", self.gamma, 0.0)
        checks.above("components", self.components, 1)
        rng = np.random.default_rng(self.seed)
        self.frequencies_ = np.sqrt(2.0 * self.gamma) * rng.normal(size=(self.components, width))
        self.phases_ = rng.uniform(0.0, 2.0 * np.pi, self.components)

    def _map(self, units):
        angles = units @ self.frequencies_.T + self.phases_
        return np.sqrt(2.0 / len(self.phases_)) * np.cos(angles)

    def _width(self):
        return self.frequencies_.shape[1]
