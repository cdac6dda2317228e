"""Scores of density models. Higher = more OOD; log-probabilities are in nats per example."""

from typing import Self

import numpy as np

from ood_suite.conformal import not_above, not_below
from ood_suite.scores.learner import Array, Learner


def _vector(name, values):
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"`{name}` must have shape (n,). Received: shape={values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` has values that are NaN or infinite.")
    return values


def _same_length(first, second, names):
    if len(first) != len(second):
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must have the same length. Received: {len(first)} and "
            f"{len(second)}."
        )


def likelihood(log_prob: Array) -> Array:
    """-log p(x), in nats.

    Args:
        log_prob: (n,) nats.

    Returns:
        float64 (n,).

    Defaults: none, it has no parameters.

    Fails: on OOD data that are simpler than ID data: .052 for MNIST under the demo's model of
        FashionMNIST, and .077 under the shipped one, where .5 is chance.

    Reference: Bishop, 1994; its failure: Nalisnick et al., "Do Deep Generative Models Know What
        They Don't Know?", 2019.

    >>> likelihood([-1200.0, -900.0])
    array([1200.,  900.])
    """
    return -_vector("log_prob", log_prob)


def likelihood_ratio(log_prob: Array, background_log_prob: Array) -> Array:
    """-(log p(x) - log p_background(x)), in nats: what is unlikely beyond its background
    statistics.

    Args:
        log_prob: (n,) nats, of the foreground model.
        background_log_prob: (n,) nats, of a model trained on perturbed inputs.

    Returns:
        float64 (n,).

    Defaults: none, it has no parameters; which background model it stands against is chosen on
        validation OOD data.

    Fails: where the background model has learned what the foreground has, as with few mutations or
        long training, since the ratio is then noise; and where validation OOD data choose badly.

    Reference: Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019,
        equation 3 (negated).

    >>> likelihood_ratio([-1200.0, -900.0], [-1500.0, -950.0])
    array([-300.,  -50.])
    """
    log_prob = _vector("log_prob", log_prob)
    background = _vector("background_log_prob", background_log_prob)
    _same_length(log_prob, background, ("log_prob", "background_log_prob"))
    return background - log_prob


def background_mean(log_prob: Array, background_log_probs: Array) -> Array:
    """The likelihood ratio against the mean of log p_background over several background models, in
    nats.

    It needs no choice of one background model, so that no validation OOD data enter.

    Args:
        log_prob: (n,) nats.
        background_log_probs: (n, b) nats, one column a background model.

    Returns:
        float64 (n,).

    Defaults: none, it has no parameters.

    Fails: where some of the background models are poor, as all have the same weight.

    Reference: ours, after Ren et al., NeurIPS 2019, equation 3, who choose one background.

    >>> background_mean([-1200.0], [[-1500.0, -1300.0]])
    array([-200.])
    """
    backgrounds = np.asarray(background_log_probs, np.float64)
    if backgrounds.ndim != 2 or backgrounds.shape[1] == 0:
        raise ValueError(
            f"`background_log_probs` must have shape (n, backgrounds). Received: "
            f"shape={backgrounds.shape}."
        )
    return likelihood_ratio(log_prob, backgrounds.mean(axis=1))


def input_complexity(log_prob: Array, code_length: Array) -> Array:
    """-log2 p(x) - L(x), in bits: the model's code length beyond that of a general lossless coder.

    Args:
        log_prob: (n,) nats.
        code_length: (n,) bits that PNG takes for the example.

    Returns:
        float64 (n,).

    Defaults: none, it has no parameters.

    Fails: on OOD data as complex as ID data, where it is the likelihood again; and on kinds of data
        that PNG is no good coder for, such as noise.

    Reference: Serra et al., "Input Complexity and Out-of-distribution Detection with
        Likelihood-based Generative
    Models", ICLR 2020, equation 1, with PNG as the coder.

    >>> input_complexity([-np.log(2.0) * 100.0], [80.0])
    array([20.])
    """
    log_prob, code_length = _vector("log_prob", log_prob), _vector("code_length", code_length)
    _same_length(log_prob, code_length, ("log_prob", "code_length"))
    return -log_prob / np.log(2.0) - code_length


class Typicality(Learner):
    """|-log p(x) - H|, in nats, with H the mean of -log p over in-distribution data: too likely is
    suspect as well.

    Attributes:
        entropy_: H, nats per example.

    Defaults: none, it has no parameters. The paper tests batches; one example is a batch of one.

    Fails: on OOD data whose log-probability is that of ID data, which one number cannot tell apart.

    Reference: Nalisnick et al., "Detecting Out-of-Distribution Inputs to Deep Generative Models
        Using Typicality",
    2019, equation 4 with batches of one example.

    >>> Typicality().fit([-1000.0, -1200.0]).score([-1100.0, -900.0])
    array([  0., 200.])
    """

    LEARNED = {"entropy_": 0}

    def fit(self, log_prob: Array) -> Self:
        """Learns from (n,) log-probabilities of in-distribution examples, n >= 1."""
        log_prob = _vector("log_prob", log_prob)
        if log_prob.size == 0:
            raise ValueError("Typicality must be fitted to at least one example. Received none.")
        self.entropy_ = np.float64(-log_prob.mean())
        return self

    def score(self, log_prob: Array) -> Array:
        """float64 (n,)."""
        return np.abs(-_vector("log_prob", log_prob) - self.entropy_)


class TwoSidedFisher(Learner):
    """-sum_j log p_j over likelihood, likelihood ratio and input complexity, where each p_j is a
    two-sided p-value among held-out ID examples: too low is as suspect as too high.

        p_j = min(1, 2 min(1 + #{i: s_ij >= s_j}, 1 + #{i: s_ij <= s_j}) / (n + 1))

    No OOD data enter. Each of the three fails somewhere (the likelihood on simple images, the ratio
    on complex ones, complexity on images as complex as the ID ones), and says so by being too low,
    or leaves it to the others.

    Attributes:
        statistics_: (3, n), each row ascending: of the held-out examples.

    Defaults: none, it has no parameters.

    Fails: beyond the range of the held-out examples, where all examples have the same p-values.

    Reference: ours; R. A. Fisher, "Statistical Methods for Research Workers", 1932, section 21.1,
        for the sum. Morningstar et al., "Density of States Estimation for Out-of-Distribution
        Detection", AISTATS 2021, join statistics of one model by kernel densities.

    >>> held_out = [-3.0, -2.0, -1.0], [-3.0, -3.0, -3.0], [0.0, 0.0, 0.0]
    >>> TwoSidedFisher().fit(*held_out).score([-9.0], [-3.0], [0.0]).round(3)
    array([2.079])
    """

    LEARNED = {"statistics_": 2}

    def fit(self, log_prob: Array, background_log_prob: Array, code_length: Array) -> Self:
        """Learns from nats, nats and bits of held-out ID examples, each (n,), n >= 1."""
        statistics = _statistics(log_prob, background_log_prob, code_length)
        if statistics.shape[1] == 0:
            raise ValueError("TwoSidedFisher must be fitted to at least one example. Received 0.")
        self.statistics_ = np.sort(statistics, axis=1)
        return self

    def score(self, log_prob: Array, background_log_prob: Array, code_length: Array) -> Array:
        """float64 (n,)."""
        statistics = _statistics(log_prob, background_log_prob, code_length)
        total = np.zeros(statistics.shape[1])
        for held_out, values in zip(self.statistics_, statistics, strict=True):
            upper = 1.0 + not_below(held_out, values)
            lower = 1.0 + not_above(held_out, values)
            twice = 2.0 * np.minimum(upper, lower) / (1.0 + len(held_out))
            total -= np.log(np.minimum(twice, 1.0))
        return total


def _statistics(log_prob, background_log_prob, code_length):
    """float64 (3, n)."""
    return np.stack([
        likelihood(log_prob),
        likelihood_ratio(log_prob, background_log_prob),
        input_complexity(log_prob, code_length),
    ])  # fmt: skip
