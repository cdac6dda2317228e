"""The density of features under a normalising flow that is fitted without gradients.

Each layer makes the marginals Gaussian, one by one, then rotates; what is left non-Gaussian, the
next layer finds. Every map is invertible, so the density is exact.
"""

from typing import Self

import numpy as np
from scipy.special import ndtr

from ood_suite.scores import checks
from ood_suite.scores.gaussian import covariance, whitening
from ood_suite.scores.learner import Array, Learner

KNOTS = np.linspace(-2.5, 2.5, 11)  # of a marginal map, in standard deviations of its output
EXCESS = np.exp(-(KNOTS[-1] ** 2) / 2) / np.sqrt(2 * np.pi) / ndtr(-KNOTS[-1]) - KNOTS[-1]
EXAMPLES = 50_000  # that the layers are fitted to, and counted with, at most
HELD_OUT = 5  # one of so many counts the layers
BLOCK = 2**16  # values that are mapped at a time: what that makes stays in the processor's cache
LAYERS, PATIENCE = 50, 5  # at most; layers that may pass without a better held-out density


class Flow(Learner):
    """-log p(x), in nats, under a flow fitted by iterative Gaussianisation.

        u_0 = W^T (x - mean), whitened;  u_{l+1} = R_l^T psi_l(u_l),
        log p(x) = log N(u_L; 0, I) + sum_l sum_j log psi_lj'(u_lj) + log |det W|

    psi_lj maps the quantiles of column j at the shares Phi(-2.5), Phi(-2), ..., Phi(2.5) to -2.5,
    -2, ..., 2.5, by rational quadratics between them, whose slope at a knot is the geometric mean
    of the secants beside it: increasing, with a continuous derivative. Beyond the last quantiles,
    where OOD data lie, it is a line, and so p has Gaussian tails there; the line's slope is that
    of a normal variable with the mean excess of the training features. R_l are the principal
    components of psi_l(u_l).

    Args:
        dimension: principal components that the layers act on, the largest; 0 for all. The others
            stay as whitened: a Gaussian.
        normalize: divide each feature vector by its Euclidean length first; see Mahalanobis. The
            density is then that of x / |x|.

    Attributes:
        mean_: float64 (d,). whitening_: float64 (d, rank), W. knots_, slopes_: float64 (layers, 11,
            dimension), of psi. rotations_: float64 (layers, dimension, dimension).

    Defaults: ours; the authors have no OOD score. `normalize` as of gmm: without it the CIFAR-10
        DenseNet gives .641 (Tiny ImageNet) in place of .867, the demo's network .982 (MNIST) in
        place of .949. A fifth of the training data chooses how many layers, at most 50, by its mean
        log p. More knots than 11 overfitted sooner (demo, 64 features: held-out log p 10.3 nats
        above that of one Gaussian; 6.3 with 41).

    Fails: as all densities of features do, on OOD data whose features look like ID features, and
        without `normalize` as mahalanobis. It knows no labels: gmm, a Gaussian for each class, is
        above it on the DenseNet (.881), with far fewer numbers and in a thirtieth of the time. With
        few examples for its dimension it stays the one Gaussian that it starts from.

    Reference: Laparra, Camps-Valls, Malo, "Iterative Gaussianization: From ICA to Random
        Rotations", IEEE Transactions on Neural Networks, 2011 (arXiv 1602.00229), with PCA. Theirs
        takes histograms as marginals, which end with the data. The rational quadratics: Gregory,
        Delbourgo, "Piecewise Rational Quadratic Interpolation to Monotonic Data", 1982.
    """

    LEARNED = {"mean_": 1, "whitening_": 2, "knots_": 3, "slopes_": 3, "rotations_": 3}

    def __init__(self, dimension: int = 64, normalize: bool = True) -> None:
        self.dimension = dimension
        self.normalize = normalize

    def fit(self, features: Array) -> Self:
        """Learns from training features (n, d), n at least 10."""
        features = self._scaled(features, None)
        if len(features) < 10:
            raise ValueError(f"A flow needs 10 examples at least. Received: {len(features)}.")
        if self.dimension < 0:
            raise ValueError(f"`dimension` must be 0 or more. Received: {self.dimension}.")
        self.mean_ = checks.column_means(features)
        white = whitening(covariance(features, self.mean_))[:, ::-1]
        self.whitening_ = np.ascontiguousarray(white)  # the largest components first
        rows = np.random.default_rng(0).permutation(len(features))[:EXAMPLES]
        white = white[:, : self.dimension or white.shape[1]]
        u = (np.asarray(features[rows], np.float64) - self.mean_) @ white
        self._fit_layers(u[len(u) // HELD_OUT :], u[: len(u) // HELD_OUT])
        return self

    def _fit_layers(self, own, held_out):
        """Adds layers while the mean log-density of held-out examples grows."""
        layers: list[tuple[Array, ...]] = []
        gain = np.zeros(len(held_out))
        best, count = normal_log_density(held_out).mean(), 0
        while len(layers) < min(LAYERS, count + PATIENCE):
            knots, slopes = fit_marginals(own)
            own, _ = gaussianized(own, knots, slopes)
            held_out, log_slopes = gaussianized(held_out, knots, slopes)
            rotation = np.linalg.eigh(own.T @ own)[1]
            layers.append((knots, slopes, rotation))
            own, held_out, gain = own @ rotation, held_out @ rotation, gain + log_slopes
            found = (normal_log_density(held_out) + gain).mean()
            if found > best:
                best, count = found, len(layers)
        width = own.shape[1]
        shapes = (len(KNOTS), width), (len(KNOTS), width), (width, width)
        self.knots_, self.slopes_, self.rotations_ = (
            np.array([layer[i] for layer in layers[:count]]).reshape(count, *shape)
            for i, shape in enumerate(shapes)
        )

    def _scaled(self, features, width):
        features = checks.matrix("features", features, width, "features")
        return checks.UnitRows("features", features) if self.normalize else features

    def transform(self, features):
        """Yields (slice, u_L float64 (rows, rank), sum of log psi' (rows,)): under the flow u_L is
        standard normal.
        """
        width = self.knots_.shape[2]  # the columns that the layers act on
        for part, rows in checks.chunks("features", self._scaled(features, len(self.mean_))):
            u = (rows - self.mean_) @ self.whitening_
            inside, log_slopes = u[:, :width], np.zeros(len(u))
            layers = zip(self.knots_, self.slopes_, self.rotations_, strict=True)
            for knots, slopes, rotation in layers:
                inside, found = gaussianized(inside, knots, slopes)
                inside, log_slopes = inside @ rotation, log_slopes + found
            yield part, np.concatenate([inside, u[:, width:]], axis=1), log_slopes

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        # W has orthogonal columns: its determinant, within the span, is the product of lengths.
        log_det = np.log(np.linalg.norm(self.whitening_, axis=0)).sum()
        scores = np.empty(len(features))
        for part, u, log_slopes in self.transform(features):
            scores[part] = -(normal_log_density(u) + log_slopes + log_det)
        return scores


def normal_log_density(u):
    """(n,): of a standard normal vector."""
    return -0.5 * ((u**2).sum(axis=1) + u.shape[1] * np.log(2.0 * np.pi))


def fit_marginals(u):
    """(knots, slopes), float64 (11, columns), of the map of each column to a standard normal."""
    knots = np.quantile(u, ndtr(KNOTS), axis=0)
    steps = np.diff(KNOTS)[:, None]
    widths = np.maximum(np.diff(knots, axis=0), 1e-3 * steps)  # equal values lie on one quantile
    knots = np.concatenate([knots[:1], knots[0] + np.cumsum(widths, axis=0)])
    secants = steps / widths
    slopes = np.empty_like(knots)
    slopes[1:-1] = np.sqrt(secants[:-1] * secants[1:])
    for end, beyond in ((0, knots[0] - u), (-1, u - knots[-1])):
        excess = np.maximum(beyond, 0.0).sum(axis=0)
        # One normal example is added, so that no examples beyond make a slope of 1.
        slopes[end] = EXCESS * ((beyond > 0.0).sum(axis=0) + 1) / (excess + EXCESS)
    return knots, slopes


def gaussianized(u, knots, slopes):
    """(psi(u) float64 (n, columns), sum_j log psi_j'(u_j) (n,))."""
    out, log_slopes = np.empty_like(u), np.empty(len(u))
    step = max(1, BLOCK // u.shape[1])
    for start in range(0, len(u), step):
        part = slice(start, start + step)
        out[part], log_slopes[part] = _mapped(u[part], knots, slopes)
    return out, log_slopes


def _mapped(u, knots, slopes):
    columns = np.arange(u.shape[1])
    place = sum((u >= knot).view(np.int8) for knot in knots)  # how many knots are at or below
    left = np.clip(place - 1, 0, len(knots) - 2)
    start, slope = knots[left, columns], slopes[left, columns]
    end_slope = slopes[left + 1, columns]
    step, width = KNOTS[1] - KNOTS[0], knots[left + 1, columns] - start
    secant, inside = step / width, np.clip((u - start) / width, 0.0, 1.0)
    mixed = inside * (1.0 - inside)
    below = secant + (slope + end_slope - 2.0 * secant) * mixed
    out = KNOTS[left] + step * (secant * inside**2 + slope * mixed) / below
    rise = end_slope * inside**2 + 2.0 * secant * mixed + slope * (1.0 - inside) ** 2
    # Beyond the knots a line goes on with the slope of the last one.
    out += slopes[0] * np.minimum(u - knots[0], 0.0) + slopes[-1] * np.maximum(u - knots[-1], 0.0)
    return out, (2.0 * np.log(secant / below) + np.log(rise)).sum(axis=1)
