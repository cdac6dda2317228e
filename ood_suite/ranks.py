"""Are several detectors different, over many OOD sets and seeds? Ranks, Friedman's test, Conover's
pairs, and Holm's correction.

A block is what all are measured on: an OOD set in one repeat. Within it the best has rank 1; ties
share their mean rank. Ranks compare what means of AUROCs cannot: a set where all are near 1 counts
as much as one where they spread. The tests take blocks as independent; OOD sets that share the ID
data and a network are not quite, so that p values of few networks are too small. By simulation of
independent blocks, equal treatments give a false alarm in 3% to 4% of comparisons, and where one is
much better some pair of the others does in 7% to 8% (ranks of a pair depend on the others).

>>> found = rank([[0.9, 0.8, 0.7], [0.8, 0.7, 0.6], [0.99, 0.98, 0.9], [0.6, 0.5, 0.4]])
>>> found.mean_ranks, round(found.p_value, 4)
(array([1., 2., 3.]), 0.0183)
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05


class Ranking(NamedTuple):
    """What ranks say of k treatments on b blocks.

    Attributes:
        mean_ranks: float64 (k,), 1 is the best. blocks: b.
        statistic, p_value: of the Friedman test that all are alike.
        pairs: float64 (k, k) p values of each pair (Conover), corrected for all pairs (Holm), and
            at least the Friedman test's.
        critical_difference: of two mean ranks (Nemenyi), for a figure.
    """

    mean_ranks: np.ndarray
    blocks: int
    statistic: float
    p_value: float
    pairs: np.ndarray
    critical_difference: float


def rank(values) -> Ranking:
    """The Ranking of k treatments.

    Args:
        values: (b, k), higher = better, each line a block.

    Raises:
        ValueError: fewer than two blocks or three treatments, or NaN.

    Reference: Friedman, Journal of the American Statistical Association 1937; Demsar, "Statistical
        Comparisons of Classifiers over Multiple Data Sets", JMLR 2006, section 3.2.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 3:
        raise ValueError(
            "Ranks need at least two blocks (OOD sets, or repeats of them) of at least three "
            f"treatments: `values` (b, k). Received: shape={values.shape}."
        )
    if np.isnan(values).any():
        raise ValueError(f"`values` has {int(np.isnan(values).sum())} NaN.")
    ranks = stats.rankdata(-values, axis=1)
    blocks, count = ranks.shape
    if (ranks == ranks[:1, :1]).all():  # not one block tells them apart
        statistic, p_value = 0.0, 1.0
    else:
        statistic, p_value = map(float, stats.friedmanchisquare(*ranks.T))
    upper = np.triu_indices(count, 1)
    pairs = np.ones((count, count))
    pairs[upper] = np.maximum(holm(conover(ranks)[upper]), p_value)
    pairs.T[upper] = pairs[upper]
    return Ranking(
        ranks.mean(axis=0), blocks, statistic, p_value, pairs, critical_difference(count, blocks)
    )


def conover(ranks) -> np.ndarray:
    """float64 (k, k), two-sided p values of all pairs, not corrected.

    t = |R_i - R_j| / sqrt(2 (b A - sum_j R_j^2) / ((b - 1) (k - 1))) with the sums of ranks R, the
    sum of all squared ranks A, and (b - 1) (k - 1) degrees of freedom.

    Args:
        ranks: (b, k) within each block.

    Reference: Conover, "Practical Nonparametric Statistics", 3rd edition, 1999, section 5.8.
    """
    blocks, count = ranks.shape
    sums, freedom = ranks.sum(axis=0), (blocks - 1) * (count - 1)
    rest = max(blocks * np.sum(ranks**2) - np.sum(sums**2), 0.0)
    apart = np.abs(sums[:, None] - sums)
    error = np.sqrt(2.0 * rest / freedom)
    statistic = np.divide(apart, error, out=np.where(apart > 0, np.inf, 0.0), where=error > 0)
    return 2.0 * stats.t.sf(statistic, freedom)


def holm(p_values) -> np.ndarray:
    """float64 (m,), p values such that what is at most 0.05 has at most one false alarm among all m
    in 5% of cases: the i-th smallest times m - i + 1, none less than a smaller one's, at most 1.

    Reference: Holm, Scandinavian Journal of Statistics 1979.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p_values = np.asarray(p_values, np.float64)
    if p_values.ndim != 1 or not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError("`p_values` must be (m,), each in [0, 1].")
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def critical_difference(count: int, blocks: int, level: float = LEVEL) -> float:
    """How far two mean ranks of `count` lie apart that differ at `level` by Nemenyi's test.

    q sqrt(k (k + 1) / (6 b)), q the quantile of the studentized range over sqrt(2). It has less
    power than Conover's pairs, which decide here; the figure shows both.

    Reference: Demsar, JMLR 2006, equation in section 3.2.2.

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    quantile = float(stats.studentized_range.ppf(1.0 - level, count, np.inf)) / np.sqrt(2.0)
    return float(quantile * np.sqrt(count * (count + 1) / (6.0 * blocks)))


def alike(found: Ranking, level: float = LEVEL) -> list[tuple[int, int]]:
    """Runs of treatments, best first, within which no pair differs at `level`: (first, last) places
    in the order of the mean ranks, the largest ones alone.
    """
    order = np.argsort(found.mean_ranks, kind="stable")
    same = found.pairs[np.ix_(order, order)] > level
    runs: list[tuple[int, int]] = []
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and same[first : last + 2, first : last + 2].all():
            last += 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs
