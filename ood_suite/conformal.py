"""What a threshold promises: false alarms, p-values and discoveries from held-out ID scores alone.

Everything here holds for any model and any score, if held-out and new in-distribution examples are
exchangeable (drawn alike, in whatever order). Nothing is promised of OOD examples, nor under a
shift. Scores are HIGHER = MORE OOD; a false alarm is an ID example called OOD.

>>> held_out = np.arange(1.0, 100.0)                    # 99 scores
>>> threshold(held_out, false_alarms=0.05)              # the 95th: of new ID examples 5% lie above
95.0
>>> p_values(held_out, np.array([50.0, 200.0]))
array([0.51, 0.01])

Scores that are nearly equal count as ties, in favour of ID, so that a held-out example that is
scored anew is judged as its own score: within TIED where the same network outputs are scored in
float64 in a batch of another size, within ROUNDED where a float32 network computes them anew too.

Reference: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005, chapter 2;
    Bates et al., "Testing for Outliers with Conformal p-values", Annals of Statistics 2023.
"""

import logging
import math
from typing import NamedTuple

import numpy as np
from scipy.special import betainc, betaincinv

CONFIDENCE = 0.95  # of what is said of one set of held-out examples
DOWN = 1.0 - 1e-12  # before rounding up: 0.95 * 100 is 95.00000000000001
TIED = 1e-9  # of a score: far more than the size of a batch changes in its last digits
ROUNDED = 1e-5  # of a score: the same of a float32 network and a score together
AT_ONCE = 2**22  # pairs of a held-out and a new example that are compared at a time


class Promise(NamedTuple):
    """The share of false alarms of a threshold at one rank among held-out scores.

    Over all held-out sets it is distributed as Beta(held_out + 1 - rank, rank) (with ties there
    are fewer alarms).

    Attributes:
        held_out: number of held-out examples. rank: of the threshold among them, from 1; between
            two where it was found among more, dependent examples.
        expected: mean over held-out sets, (held_out + 1 - rank) / (held_out + 1).
        low, high: what holds the share for CONFIDENCE of the held-out sets, by equal tails.
    """

    held_out: int
    rank: float
    expected: float
    low: float
    high: float

    @classmethod
    def of(cls, count, rank):
        """The Promise of the threshold at a rank."""
        tails = (1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0
        low, high = betaincinv(count + 1 - rank, rank, tails)
        return cls(count, rank, (count + 1 - rank) / (count + 1), float(low), float(high))

    def __str__(self):
        return (
            f"{self.held_out} held-out examples promise {self.expected:.2%} false alarms on "
            f"average; of {CONFIDENCE:.0%} of such sets it is {self.low:.2%} to {self.high:.2%}"
        )


def checked(scores):
    """Held-out scores as float64; ValueError unless they are a vector without NaN."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
        raise ValueError(
            "Held-out scores must be a vector of at least one number, none NaN. Received: shape="
            f"{scores.shape}, {int(np.isnan(scores).sum())} NaN."
        )
    return scores


def _check_share(name, share):
    if not 0.0 < share < 1.0:
        raise ValueError(f"`{name}` must lie in (0, 1). Received: {share}.")


def rank_for(count, false_alarms, confidence=None):
    """Rank, from 1, of the threshold among `count` held-out scores in ascending order.

    Without `confidence` it is ceil((count + 1) * (1 - false_alarms)): at most `false_alarms` on
    average over held-out sets. With it, the least rank whose share is at most `false_alarms` for
    that share of the held-out sets: P(Beta(count + 1 - rank, rank) <= false_alarms) >= confidence.

    Raises:
        ValueError: too few held-out examples, with the number that is needed.
    """
    _check_share("false_alarms", false_alarms)
    if confidence is None:
        rank = math.ceil((count + 1) * (1.0 - false_alarms) * DOWN)
        needed = math.ceil(1.0 / false_alarms * DOWN) - 1
    else:
        _check_share("confidence", confidence)
        ranks = np.arange(1, count + 1)
        kept = betainc(count + 1 - ranks, ranks, false_alarms) >= confidence
        rank = int(ranks[np.argmax(kept)]) if kept.any() else count + 1
        needed = math.ceil(math.log(1.0 - confidence) / math.log(1.0 - false_alarms))
    if rank > count:
        raise ValueError(
            f"{count} held-out examples cannot promise at most {false_alarms:.3g} false alarms"
            + (f" with {100 * confidence:.6g}% confidence" if confidence else "")
            + f": at least {needed} are needed. Give more, or allow more false alarms."
        )
    return rank


def threshold(held_out, false_alarms=0.05, confidence=None):
    """The held-out score above which an example is called OOD; see `rank_for`."""
    ordered = np.sort(checked(held_out))
    return float(ordered[rank_for(len(ordered), false_alarms, confidence) - 1])


def beyond(scores, threshold, tied=TIED):
    """bool: which scores are above a threshold, by more than `tied` of their size; a held-out
    example, scored anew in a batch of another size, has its own score still.
    """
    return _lowered(scores, tied) > threshold


def _lowered(scores, tied=TIED):
    """Less `tied` of their size; infinite ones as they are."""
    scores = np.asarray(scores, np.float64)
    return scores * (1.0 - tied * np.sign(scores))


def accepting(held_out, acceptance=0.95):
    """The threshold that accepts this share of new ID examples, in (0, 1]; the largest held-out
    score where they are too few for it, with a warning.
    """
    if not 0.0 < acceptance <= 1.0:
        raise ValueError(f"`acceptance` must lie in (0, 1]. Received: {acceptance}.")
    if acceptance < 1.0:
        try:
            return threshold(held_out, 1.0 - acceptance)
        except ValueError as error:
            if len(checked(held_out)) > 1:
                logging.getLogger(__name__).warning("The threshold is the largest score: %s", error)
    return float(checked(held_out).max())


def alarms_p_value(alarms, count, held_out, rank):
    """P(so many alarms or more) among `count` new ID examples, over new examples and held-out sets.

    They are exchangeable with the held-out ones: there are k alarms or more where of the held_out -
    rank + k largest of all at least k are new, a hypergeometric tail. (A binomial test would take
    the threshold's mean share for its own, and warn too often of many new examples.)

    Args:
        held_out: number of held-out scores. rank: of the threshold among them, from 1.

    >>> print(f"{alarms_p_value(1, 1, 99, 95):.4f}")  # one new example: the promised share
    0.0500
    """
    from scipy.stats import hypergeom  # slow to start

    return float(hypergeom.sf(alarms - 1, held_out + count, count, held_out - rank + alarms))


def class_thresholds(held_out, labels, false_alarms=0.05, confidence=None):
    """{label: threshold} of each class by itself (Mondrian): the promise holds within each class,
    such as each predicted one.

    Args:
        labels: integers (n,), known of new examples too.

    Raises:
        ValueError: a class with too few held-out examples, by its number.
    """
    held_out, labels, found = checked(held_out), np.asarray(labels), {}
    for label in np.unique(labels):
        try:
            found[int(label)] = threshold(held_out[labels == label], false_alarms, confidence)
        except ValueError as error:
            raise ValueError(f"Class {label}: {error}") from error
    return found


def p_values(held_out, scores, rng=None):
    """(1 + #{i: s_i >= s}) / (n + 1): of an ID example P(p <= t) <= t, for every t. Scores within
    TIED of each other count as equal.

    Args:
        held_out: (n,) scores s_i. scores: (m,).
        rng: numpy Generator; ties are then broken at random, (#{s_i > s} + U (1 + #{s_i = s})) /
            (n + 1), which makes P(p <= t) = t.

    Returns:
        float64 (m,), in [1 / (n + 1), 1], or (0, 1) if randomised.
    """
    ordered = np.sort(checked(held_out))
    scores = np.asarray(scores, np.float64)
    reached = not_below(ordered, scores)
    if rng is None:
        return (1.0 + reached) / (1.0 + len(ordered))
    above = len(ordered) - not_above(ordered, scores)
    return (above + rng.random(scores.shape) * (1.0 + reached - above)) / (1.0 + len(ordered))


def combined_p_values(held_out, scores, how="fisher"):
    """One p-value of several scores together, by joint ranks: P(p <= t) <= t for an ID example
    whatever the scores' dependence.

    Each new example is put among the n held-out ones. Within these n + 1, each has one p-value a
    score, p_ij = #{k: s_kj >= s_ij} / (n + 1), and a statistic: Fisher's -2 sum_j log p_ij, or the
    smallest p_ij, negated. The result is the rank of the new one's statistic, #{i: t_i >= t} /
    (n + 1). All n + 1 are treated alike, so that the rank is uniform or larger. Costs
    n * m * scores.

    Args:
        held_out: (scores, n). scores: (scores, m).
        how: "fisher", if several scores see the same OOD; "minimum", if one of them does.

    Returns:
        float64 (m,).
    """
    if how not in ("fisher", "minimum"):
        raise ValueError(f"`how` must be fisher or minimum. Received: {how!r}.")
    held_out, scores = np.atleast_2d(held_out), np.atleast_2d(scores)
    if len(held_out) != len(scores):
        raise ValueError(f"There are {len(held_out)} held-out scores and {len(scores)} new ones.")
    count, found = held_out.shape[1], np.empty(scores.shape[1])
    ordered = [np.sort(checked(values)) for values in held_out]
    own = np.stack([not_below(*pair) for pair in zip(ordered, held_out, strict=True)])
    new = np.stack([not_below(*pair) for pair in zip(ordered, scores, strict=True)]) + 1
    fold = {"fisher": lambda p: -2.0 * np.log(p).sum(axis=0), "minimum": lambda p: -p.min(axis=0)}
    step = max(1, AT_ONCE // count)
    for start in range(0, scores.shape[1], step):
        part = slice(start, start + step)
        # (scores, step, n): counts itself too
        beside = scores[:, part, None] >= _lowered(held_out)[:, None]
        statistics = fold[how]((own[:, None] + beside) / (count + 1.0))  # (step, n)
        mine = fold[how](new[:, part] / (count + 1.0))[:, None]
        found[part] = (1 + (statistics >= mine - 1e-12).sum(axis=1)) / (count + 1.0)
    return found


def not_below(ordered, values, tied=TIED):
    """How many of the ascending `ordered` are not below each value; within `tied` none is."""
    return len(ordered) - np.searchsorted(ordered, _lowered(values, tied), "left")


def not_above(ordered, values):
    """How many of the ascending `ordered` are not above each value; within TIED none is."""
    return np.searchsorted(ordered, -_lowered(-values), "right")


class Discoveries(NamedTuple):
    """What a batch's p-values say together.

    Attributes:
        is_ood: bool (m,). adjusted: float64 (m,), the smallest `share` at which each is called OOD.
    """

    is_ood: np.ndarray
    adjusted: np.ndarray


def discoveries(values, share=0.1):
    """OOD examples of a batch, so that at most `share` of them are false in expectation
    (Benjamini and Hochberg 1995; for conformal p-values Bates et al. 2023, theorem 2.4). The bound
    is `share`, chosen beforehand: the largest adjusted value among those called OOD is none.

    Args:
        values: p-values (m,) of one batch, all from the same held-out examples.
    """
    from scipy.stats import false_discovery_control  # slow to start

    _check_share("share", share)
    values = np.asarray(values, np.float64)
    adjusted = false_discovery_control(values) if len(values) else values
    return Discoveries(adjusted <= share, adjusted)
