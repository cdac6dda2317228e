"""Scores of the logits alone. Higher = more OOD; natural logarithms; logits are (n, classes).

Computed in float64, except msp, energy (at temperature 1) and entropy of float32 logits: their
terms are float32, their sums float64, and they are right to about 1e-6 of themselves (5e-6 where a
logit leads by more than 16; its last digit changes them by as much).
"""

import warnings
from typing import Self

import numpy as np
from scipy import optimize

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner

SURE = 1e-30  # below, exponentials of float32 end
LEAST = 1e-300  # below, those of float64 do
WEIBULL_SHIFT = 10_000.0  # that of OSDN's libMR, see OpenMax


def msp(logits: Array) -> Array:
    """1 - max_c softmax(z)_c, in [0, 1 - 1/classes].

    Computed as the sum of the other probabilities: -max_c softmax(z)_c, as other libraries give it,
    is -1 in float64 for all logits that lead by more than 37, and their order is lost.

    Fails: on far OOD that the network is sure of; networks are surest where logits are large, and
        the softmax hides by how much.

    Defaults: none, it has no parameters.

    Reference: Hendrycks, Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples in Neural Networks", ICLR 2017.

    >>> msp([[0.0, 0.0], [np.log(3.0), 0.0]])
    array([0.5 , 0.25])
    """
    return checks.each_logits(logits, _msp, exact=SURE)


def msp_at(logits: Array, temperature: float) -> Array:
    """msp of z / T, float64 (n,), computed in float64."""
    checks.above("temperature", temperature, 0.0)
    return checks.each_logits(logits, lambda rows: _msp(rows / temperature))


def _msp(rows):
    _, others = _but_the_largest(rows - rows.max(axis=1)[:, None])
    return others / (others + 1.0)


def _but_the_largest(below):
    """exp(z_c - max z) with 0 for the largest, and their sum, float64 (n,), in which all but one of
    several largest count.
    """
    size = np.exp(below)
    first = size == 1.0
    size -= first
    return size, size.sum(axis=1, dtype=np.float64) + (np.count_nonzero(first, axis=1) - 1.0)


def max_logit(logits: Array) -> Array:
    """-max_c z_c.

    Fails: as msp does on confident mistakes; logits of few classes say less than of many.

    Defaults: none, it has no parameters.

    Reference: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings",
        ICML 2022, section 3.

    >>> max_logit([[1.0, 4.0]])
    array([-4.])
    """
    return -checks.each_logits(logits, lambda rows: rows.max(axis=1), exact=0.0)


def energy(logits: Array, temperature: float = 1.0) -> Array:
    """-T log sum_c exp(z_c / T).

    Args:
        temperature: T > 0.

    Defaults: 1, the paper's section 3.2: larger ones were worse there.

    Fails: where OOD inputs have large features, whose logits are large too.

    Reference: Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020, equation 4.

    >>> energy([[0.0, 0.0]]).round(4)
    array([-0.6931])
    """
    checks.above("temperature", temperature, 0.0)

    def score(rows):
        return log_sum_exp(rows if temperature == 1.0 else rows / temperature)

    exact = 0.1 if temperature == 1.0 else None  # z / T would be rounded
    return -temperature * checks.each_logits(logits, score, exact=exact)


def log_sum_exp(values: Array) -> Array:
    """float64 (n,): log sum_c exp(z_c) of finite (n, c), at a third of the time of SciPy's, which
    allows for infinities, signs and weights. Exponentials of float32 stay that, their sum does not.
    """
    largest = values.max(axis=1)
    sums = np.exp(values - largest[:, None]).sum(axis=1, dtype=np.float64)
    return largest + np.log(sums)


def log_softmax(values: Array) -> Array:
    """(n, c): z_c - log sum_k exp(z_k) of finite float64 (n, c), see log_sum_exp."""
    centred = values - values.max(axis=1, keepdims=True)
    return centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))


def entropy(logits: Array) -> Array:
    """-sum_c p_c log p_c of p = softmax(z), in nats, in [0, log(classes)].

    Nothing is clamped: pytorch-ood clamps p at 1e-7, which gives all confident examples one value,
    and an AUROC lower by up to .0075 (textures on a CIFAR network, GEN alike).

    Defaults: none, it has no parameters.

    Fails: as msp does on confident mistakes; and on ID examples that fit several classes, whose
        entropy is high with good reason.

    Reference: Chan, Rottmann, Gottschalk, "Entropy Maximization and Meta Classification for
        Out-of-Distribution Detection in Semantic Segmentation", ICCV 2021, equation 2.

    >>> entropy([[0.0, 0.0]]).round(4)
    array([0.6931])
    """

    def score(rows):  # log S - sum_c (z_c - max z) exp(z_c - max z) / S: two terms above zero
        below = rows - rows.max(axis=1)[:, None]
        size, others = _but_the_largest(below)
        size *= below
        return np.log1p(others) - size.sum(axis=1, dtype=np.float64) / (others + 1.0)

    return checks.each_logits(logits, score, exact=SURE)


def gen(logits: Array, gamma: float = 0.1, top: int = 100) -> Array:
    """sum over the `top` largest p_c of p_c**gamma (1 - p_c)**gamma, p = softmax(z).

    pytorch-ood gives the mean in place of the sum, and clamps p at 1e-7. Nothing is clamped here,
    so that the order of confident examples, whose small p lie below that, is kept: an AUROC
    differs by up to .0075 (textures on a CIFAR network).

    Args:
        gamma: in (0, 1). top: M, classes that count; all if there are fewer.

    Defaults: the paper's for ImageNet, 0.1 and 100 of 1000 classes, which OpenOOD has too.

    Fails: on networks whose small probabilities are noise, as after label smoothing.

    Reference: Liu, Lochman, Zach, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution
        Detection", CVPR 2023, equation 4.

    >>> gen([[0.0, 0.0]], gamma=0.5)
    array([1.])
    """
    checks.within("gamma", gamma, 0.0, 1.0, "()")
    checks.above("top", top, 0)

    def score(rows):
        log_p = log_softmax(rows)
        if top < log_p.shape[1]:
            log_p = np.partition(log_p, -top, axis=1)[:, -top:]
        log_rest = np.log(-np.expm1(np.minimum(log_p, -1e-300)))
        # Of the largest, where p rounds to 1: p of all others over 1 + p of all others.
        below = rows - rows.max(axis=1)[:, None]
        _, others = _but_the_largest(below)
        with np.errstate(divide="ignore"):
            log_others = np.log(others)
        lost = np.flatnonzero(others < LEAST)
        if lost.size and rows.shape[1] > 1:
            log_others[lost] = log_sum_exp(np.sort(below[lost], axis=1)[:, :-1])
        log_rest[np.arange(len(rows)), log_p.argmax(axis=1)] = log_others - np.log1p(others)
        return np.exp(gamma * (log_p + log_rest)).sum(axis=1)

    return checks.each_logits(logits, score)


class TemperatureScaling(Learner):
    """1 - max_c softmax(z / T)_c with the T that minimises the cross entropy of held-out ID data.

    Attributes:
        temperature_: T, found in [0.001, 1000] to 1e-6 in its logarithm.

    Defaults: none, it has no parameters: T is learned.

    Fails: as msp does, whose order one T changes little; and on held-out data that the network was
        trained on, where it finds T < 1 (.45 on the CIFAR-10 DenseNet) and makes OOD data worse.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    >>> scaling = TemperatureScaling().fit([[2.0, 0.0]] * 3, np.array([0, 1, 0]))
    >>> round(float(scaling.temperature_), 3)  # log 2 = 2 / T: two of three are right
    2.885
    """

    LEARNED = {"temperature_": 0}

    def fit(self, logits: Array, labels: Array) -> Self:
        """Learns T from logits (n, classes) and labels (n,)."""
        logits = checks.logits_matrix(logits)
        labels = np.asarray(labels)
        if labels.shape != (len(logits),) or not len(logits):
            raise ValueError(
                f"`labels` must have shape ({len(logits)},), n >= 1. Received: "
                f"shape={labels.shape}."
            )
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            raise ValueError(f"`labels` must lie in 0..{logits.shape[1] - 1}.")
        right = logits[np.arange(len(logits)), labels]

        def loss(log_temperature):
            scale = np.exp(-log_temperature)
            return np.mean(log_sum_exp(logits * scale) - right * scale)

        bounds = (np.log(1e-3), np.log(1e3))
        found = optimize.minimize_scalar(loss, bounds=bounds, options={"xatol": 1e-6})
        if min(abs(found.x - bound) for bound in bounds) < 1e-3:
            warnings.warn(
                f"Temperature scaling stopped at its bound, T = {np.exp(found.x):.4g}: the logits "
                "are right on all held-out examples, or say nothing of their labels.",
                stacklevel=2,
            )
        self.temperature_ = np.float64(np.exp(found.x))
        return self

    def score(self, logits: Array) -> Array:
        """float64 (n,)."""
        return msp_at(logits, float(self.temperature_))


class KLMatching(Learner):
    """min_k KL(softmax(z) || d_k), in nats, with d_k the mean softmax of the held-out ID examples
    that are predicted as class k.

    Classes that are never predicted there have no template. log d_k is clipped at log(1e-300).

    Fails: with few held-out examples per class, whose templates are those examples. (Its threshold
        comes from examples that made no template, see Detector.fit.)

    Attributes:
        log_templates_: float64 (templates, classes).

    Defaults: none, it has no parameters.

    Reference: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings",
        ICML 2022, section 4.
    """

    LEARNED = {"log_templates_": 2}

    def fit(self, logits: Array) -> Self:
        """Learns the templates; labels are not needed."""
        logits = checks.raw_logits(logits)
        if not len(logits):
            raise ValueError("KL matching cannot be fitted to no examples.")
        classes = logits.shape[1]
        sums, counts = np.zeros((classes, classes)), np.zeros(classes, np.int64)
        for _, rows in checks.chunks("logits", logits):
            predicted = rows.argmax(axis=1)
            checks.add_by_class(sums, np.exp(log_softmax(rows)), predicted)
            counts += np.bincount(predicted, minlength=classes)
        templates = sums[counts > 0] / counts[counts > 0, None]
        self.log_templates_ = np.log(np.maximum(templates, 1e-300))
        return self

    def score(self, logits: Array) -> Array:
        """float64 (n,)."""
        classes = self.log_templates_.shape[1]
        return checks.each_logits(logits, self._nearest, classes, products=True)

    def _nearest(self, rows):
        log_p = log_softmax(rows)
        p = np.exp(log_p)
        return np.einsum("ij,ij->i", p, log_p) - (p @ self.log_templates_.T).max(axis=1)


class OpenMax(Learner):
    """log(p / (1 - p)) of p = softmax(v)_unknown, the probability of the unknown class.

    Of each of the `alpha` largest logits z_i, i = 1..alpha, w_i z_i is taken away, with
    w_i = CDF_i(|z - mean_i|) * (alpha + 1 - i) / alpha, where CDF_i is a Weibull distribution of
    the largest distances of class i; what they lose is the logit of the unknown class.

    The logarithm of the odds keeps the order where p rounds to 0 or 1. Tails are moved to start at
    10000 before the Weibull fit, as the libMR of the authors' OSDN does; PyPI's libmr 0.1.9 moves
    them to 1, and an AUROC differs by .001 (10 classes) to .023 (1000). The fit itself solves the
    likelihood equation exactly.

    Args:
        tail: number of largest distances per class that the Weibull distribution describes.
        alpha: number of top classes that are revised, at most all.

    Defaults: tail 20 as OSDN; alpha 3 as OpenOOD, where OSDN takes 10 of ImageNet's 1000 classes.

    Fails: on networks with few wrong or distant training examples, whose tails say nothing.

    Attributes:
        means_: float64 (classes, classes), the mean logits of correctly classified examples.
        starts_, shapes_, scales_: float64 (classes,), of the Weibull distributions.

    Reference: Bendale, Boult, "Towards Open Set Deep Networks", CVPR 2016, algorithms 1 and 2.
    """

    LEARNED = {"means_": 2, "starts_": 1, "shapes_": 1, "scales_": 1}

    def __init__(self, tail: int = 20, alpha: int = 3) -> None:
        self.tail = tail
        self.alpha = alpha

    def fit(self, logits: Array, labels: Array) -> Self:
        """Learns from training logits (n, classes) and labels (n,), in two passes."""
        checks.above("tail", self.tail, 0)
        checks.above("alpha", self.alpha, 0)
        logits = checks.matrix("logits", logits, what="classes")
        labels, classes = checks.class_labels(labels, len(logits), logits.shape[1])
        self.means_, correct = checks.correct_means(logits, labels, logits)
        distances = np.empty(len(logits))
        for part, rows in checks.chunks("logits", logits):
            distances[part] = np.linalg.norm(rows - self.means_[labels[part]], axis=1)
        self.starts_, self.shapes_, self.scales_ = np.empty((3, classes))
        for c in range(classes):
            tail = np.sort(distances[correct & (labels == c)])[-self.tail :]
            self.starts_[c] = tail[0]
            self.shapes_[c], self.scales_[c] = _weibull(tail - tail[0] + WEIBULL_SHIFT)
        return self

    def score(self, logits: Array) -> Array:
        """float64 (n,)."""
        return checks.each_logits(logits, self._odds, len(self.means_))

    def _odds(self, logits):
        alpha = min(self.alpha, logits.shape[1])
        rows = np.arange(len(logits))
        top = np.argsort(-logits, axis=1, kind="stable")[:, :alpha]
        lost = np.zeros_like(logits)
        for rank in range(alpha):
            c = top[:, rank]
            distances = np.linalg.norm(logits - self.means_[c], axis=1)
            moved = np.maximum(distances - self.starts_[c] + WEIBULL_SHIFT, 0.0)
            with np.errstate(over="ignore"):  # infinitely far: the CDF is 1
                cdf = -np.expm1(-((moved / self.scales_[c]) ** self.shapes_[c]))
            lost[rows, c] = cdf * (alpha - rank) / alpha * logits[rows, c]
        return lost.sum(axis=1) - log_sum_exp(logits - lost)


def _weibull(values):
    """(shape, scale) of the most likely Weibull distribution of positive values."""
    log_values = np.log(values)
    highest = log_values.max()
    if np.ptp(log_values) == 0.0:  # one value, or equal ones: a step
        return 1e8, values[0]

    def slope(shape):
        weights = np.exp(shape * (log_values - highest))
        return weights @ log_values / weights.sum() - 1.0 / shape - log_values.mean()

    upper = 1.0
    while slope(upper) < 0.0:
        upper *= 2.0
    shape = optimize.brentq(slope, upper / 2.0 if upper > 1.0 else 1e-6, upper, xtol=1e-10)
    return shape, np.exp(highest + np.log(np.mean(np.exp(shape * (log_values - highest)))) / shape)
