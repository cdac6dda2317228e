"""WeiPer+KLD: the distribution of an example's features, and of its logits by perturbed heads."""

from typing import Self

import numpy as np

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner

FEATURE_FLOOR, LOGIT_FLOOR = 0.01, 0.025  # added to densities, as the authors' code does
ROWS, COLUMNS = 256, 1024  # examples and perturbed logits at a time: a product that fits the cache


class WeiPer(Learner):
    """D(features) + logits_weight * D(perturbed logits) - msp_weight * mean over perturbed heads of
    max_c softmax(z)_c.

    A perturbed head has the weights w_c + distance * |w_c| * u, u a random direction, and the bias
    of the head. D is the symmetric Kullback-Leibler divergence between the mean histogram of
    training examples and the example's, smoothed by a moving average: how its values, over all
    features or over all perturbed logits, are spread.

    Args:
        distance: of a perturbed weight vector, relative to its length. repeats: perturbed heads.
        bins: of a histogram, from the least to the largest training value.
        smoothing: bins of the moving average, at most `bins`.
        logits_weight, msp_weight: 0 or more. seed: of the directions.

    Attributes:
        kernel_: float64 (d, repeats * classes). bias_: float64 (repeats * classes,).
        feature_range_, logit_range_: float64 (2,). feature_density_, logit_density_: float64
            (bins,), the mean histograms.

    Defaults: those of the authors' function; their OpenOOD configurations search all but the seed.

    Fails: with few features, whose histogram is nearly empty; costs repeats * classes products per
        feature.

    Reference: Granz, Heurich, Landgraf, "WeiPer: OOD Detection using Weight Perturbations of Class
        Projections", NeurIPS 2024, equation 8. Values outside the training range are in no bin, as
        in their code.
    """

    LEARNED = {
        "kernel_": 2, "bias_": 1, "feature_range_": 1, "logit_range_": 1, "feature_density_": 1,
        "logit_density_": 1,
    }  # fmt: skip

    def __init__(
        self,
        *,
        distance: float = 2.1,
        repeats: int = 100,
        bins: int = 100,
        smoothing: int = 20,
        logits_weight: float = 1.0,
        msp_weight: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.distance = distance
        self.repeats = repeats
        self.bins = bins
        self.smoothing = smoothing
        self.logits_weight = logits_weight
        self.msp_weight = msp_weight
        self.seed = seed

    def fit(self, features: Array, head_kernel: Array, head_bias: Array) -> Self:
        """Learns from training features (n, d) and the head, in two passes."""
        features = checks.matrix("features", features, what="features")
        if not len(features):
            raise ValueError("A histogram cannot be fitted to no examples.")
        for name in ("repeats", "bins", "smoothing"):
            checks.above(name, getattr(self, name), 0)
        for name in ("logits_weight", "msp_weight"):
            checks.within(name, getattr(self, name), 0.0, np.inf, "[)")
        if self.smoothing > self.bins:
            raise ValueError(
                f"`smoothing` must be at most {self.bins}. Received: {self.smoothing}."
            )
        kernel, bias = checks.head(features, head_kernel, head_bias)
        self.kernel_ = self._perturbed(kernel)
        self.bias_ = np.tile(bias, self.repeats)
        self.feature_range_, self.logit_range_ = np.full((2, 2), [np.inf, -np.inf])
        for _, x in checks.chunks("features", features, rows=ROWS):
            _widen(self.feature_range_, x)
            for z in self._logits(x):
                _widen(self.logit_range_, z)
        self.feature_density_, self.logit_density_ = np.zeros((2, self.bins))
        for _, x in checks.chunks("features", features, rows=ROWS):
            self.feature_density_ += _counts(x, self.feature_range_, self.bins).sum(axis=0)
            for z in self._logits(x):
                self.logit_density_ += _counts(z, self.logit_range_, self.bins).sum(axis=0)
        self.feature_density_ /= features.size
        self.logit_density_ /= len(features) * len(self.bias_)
        return self

    def _perturbed(self, kernel):
        """float64 (d, repeats * classes): the weights of all perturbed heads, side by side."""
        rng = np.random.default_rng(self.seed)
        lengths = np.linalg.norm(kernel, axis=0)
        found = np.empty((len(kernel), self.repeats, kernel.shape[1]))
        for repeat in range(self.repeats):
            noise = rng.normal(size=kernel.shape)
            noise *= lengths / np.linalg.norm(noise, axis=0)
            found[:, repeat] = kernel + self.distance * noise
        return found.reshape(len(kernel), -1)

    def _logits(self, rows):
        """Yields float64 (n, heads * classes) of rows, a few whole heads at a time."""
        classes = len(self.bias_) // self.repeats
        step = classes * max(1, COLUMNS // classes)
        for start in range(0, len(self.bias_), step):
            part = slice(start, start + step)
            yield rows @ self.kernel_[:, part] + self.bias_[part]

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, len(self.kernel_), "features")
        return checks.each("features", features, self._of_rows, rows=ROWS)

    def _of_rows(self, _, x):
        classes, bins = len(self.bias_) // self.repeats, len(self.feature_density_)
        counts, sure = np.zeros((len(x), bins)), np.zeros(len(x))
        for z in self._logits(x):
            counts += _counts(z, self.logit_range_, bins)
            heads = z.reshape(len(z), -1, classes)
            heads = np.exp(heads - heads.max(axis=2, keepdims=True))
            sure += (1 / heads.sum(axis=2)).sum(axis=1)  # the largest softmax of each head
        own = _counts(x, self.feature_range_, bins) / x.shape[1]
        of_x = _divergence(self.feature_density_, own, self.smoothing, FEATURE_FLOOR)
        own = counts / len(self.bias_)
        of_z = _divergence(self.logit_density_, own, self.smoothing, LOGIT_FLOOR)
        return of_x + self.logits_weight * of_z - self.msp_weight * sure / self.repeats


def _widen(span, values):
    """Makes a span, float64 (2,), hold all values."""
    span[:] = min(span[0], values.min()), max(span[1], values.max())


def _counts(values, span, bins):
    """int64 (n, bins): how many of each row's values lie in each bin of equal width."""
    width = max(span[1] - span[0], 1e-12)
    places = values - span[0]
    places /= width
    places *= bins
    np.floor(places, out=places)
    places[values == span[1]] = bins - 1
    np.clip(places, -1, bins, out=places)  # what is in no bin is counted beside them, and dropped
    places += np.arange(1, len(values) * (bins + 2), bins + 2)[:, None]
    counts = np.bincount(places.astype(np.int64).ravel(), minlength=len(values) * (bins + 2))
    return counts.reshape(len(values), bins + 2)[:, 1:-1]


def _divergence(mean, own, smoothing, floor):
    """float64 (n,): KL(p || q) + KL(q || p) of the mean p, and of each row smoothed."""
    before = (smoothing - 1) // 2
    padded = np.pad(own, ((0, 0), (before, smoothing - 1 - before)), mode="edge")
    sums = np.pad(np.cumsum(padded, axis=1), ((0, 0), (1, 0)))
    smoothed = np.maximum((sums[:, smoothing:] - sums[:, :-smoothing]) / smoothing, 0.0)
    p, q = mean + floor, smoothed + floor
    p, q = p / p.sum(), q / q.sum(axis=1, keepdims=True)
    return ((p - q) * (np.log(p) - np.log(q))).sum(axis=1)
