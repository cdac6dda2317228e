"""Confidence intervals of the metrics, and paired comparisons.

DeLong's variance for the AUROC (exact ties, n log n), a stratified bootstrap for all the others: ID
and OOD examples are drawn again with replacement, each within its class. Intervals speak of the
test examples drawn, not of the training.
"""

import numpy as np
from scipy import special, stats

from ood_suite import metrics
from ood_suite.metrics import Counts

GROUPS = 2**15  # of neighbouring scores that a class is cut into where there are many more


def auroc_interval(id_scores, ood_scores, level=0.95):
    """(low, high) of the AUROC by DeLong's variance on the logit scale, which keeps it within [0,
    1].

    Reference: DeLong, DeLong, Clarke-Pearson, Biometrics 1988; Sun, Xu, IEEE Signal Processing
        Letters 2014. An AUROC
    of exactly 0 or 1 has variance 0 there; then the one-sided bound of n_id + n_ood Bernoulli
    trials is given.
    """
    of_id, of_ood = placements(id_scores, ood_scores)
    area = float(of_ood.mean())
    if area in (0.0, 1.0):
        slack = 1.0 - ((1.0 - level) / 2) ** (1.0 / min(of_id.size, of_ood.size))
        return (0.0, slack) if area == 0.0 else (1.0 - slack, 1.0)
    error = np.sqrt(_variance(of_id) + _variance(of_ood)) / (area * (1.0 - area))
    reach = stats.norm.ppf((1.0 + level) / 2) * error
    return tuple(float(v) for v in special.expit(special.logit(area) + np.array([-reach, reach])))


def placements(id_scores, ood_scores):
    """Structural components of the AUROC.

    Returns:
        (n_id,) share of OOD scores above each ID score, and (n_ood,) share of ID scores below each
        OOD score; ties count half. The mean of either is the AUROC.
    """
    id_scores, ood_scores = np.asarray(id_scores), np.asarray(ood_scores)
    Counts.of(id_scores, ood_scores)  # refuses bad input
    return 1.0 - _share_below(ood_scores, id_scores), _share_below(id_scores, ood_scores)


def _share_below(reference, scores):
    ordered = np.sort(reference)
    order = np.argsort(scores)  # ascending needles are found much faster
    needles = scores[order]
    below = np.empty(scores.size)
    below[order] = np.searchsorted(ordered, needles, "left")
    below[order] += np.searchsorted(ordered, needles, "right")
    return below / (2.0 * ordered.size)


def _variance(components):
    return components.var(ddof=1) / components.size if components.size > 1 else 0.0


def paired_auroc_difference(scores, baseline, level=0.95):
    """AUROC(scores) - AUROC(baseline) on the same examples, with DeLong's interval and test.

    Args:
        scores, baseline: each a pair (id_scores (n,), ood_scores (m,)), example i the same in both.

    Returns:
        dict: difference, low, high (of the `level` interval), p_value (two-sided;
            without any variance 1.0 if both AUROCs are equal, else 0.0).
    """
    for ours, theirs, name in zip(scores, baseline, ("id", "ood"), strict=True):
        if len(ours) != len(theirs):
            raise ValueError(
                f"A paired comparison needs the same {name} examples. Received: {len(ours)} and "
                f"{len(theirs)}."
            )
    of_id, of_ood = placements(*scores)
    base_id, base_ood = placements(*baseline)
    difference = float(of_ood.mean() - base_ood.mean())
    error = np.sqrt(_variance(of_id - base_id) + _variance(of_ood - base_ood))
    reach = float(stats.norm.ppf((1.0 + level) / 2) * error)
    if error > 0:
        p_value = float(2.0 * stats.norm.sf(abs(difference) / error))
    else:  # no variance: the same ranking twice, or a perfect one against its opposite
        p_value = float(difference == 0.0)
    return {
        "difference": difference,
        "low": difference - reach,
        "high": difference + reach,
        "p_value": p_value,
    }


def bootstrap_intervals(id_scores, ood_scores, level=0.95, resamples=1000, seed=0):
    """Percentile intervals of all METRICS by stratified bootstrap: {name: (low, high)}.

    The AUROC's interval is DeLong's. Each resample draws how often every distinct score value
    occurs, so that it costs one pass over the sorted values and no sort. Of more than 4 *
    GROUPS distinct values, neighbours are taken together: the intervals then have the width of the
    grouped scores' and are moved by the difference between the exact metric and that of the groups.
    """
    counts = Counts.of(id_scores, ood_scores)
    rng = np.random.default_rng(seed)
    names = [name for name in metrics.METRICS if name != "auroc"]
    shift = np.zeros(len(names))
    if counts.values.size > 4 * GROUPS:
        exact, counts = counts, _grouped(counts)
        shift += [metrics.METRICS[n](exact) - metrics.METRICS[n](counts) for n in names]
        del exact
    draws = np.empty((resamples, len(names)))
    for row in range(resamples):
        resampled = Counts(counts.values, _resample(counts.id, rng), _resample(counts.ood, rng))
        draws[row] = [metrics.METRICS[name](resampled) for name in names]
    tail = (1.0 - level) / 2
    low, high = np.clip(np.quantile(draws, [tail, 1.0 - tail], axis=0) + shift, 0.0, 1.0)
    intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
    return {"auroc": auroc_interval(id_scores, ood_scores, level)} | intervals


def _grouped(counts):
    """Counts of groups of neighbours, none with more than about 1 / GROUPS of a class: values of a
    class with fewer than GROUPS examples stay alone. At most about 4 * GROUPS groups.
    """
    edges = np.zeros(counts.values.size, bool)
    edges[0] = True
    for part in (counts.id, counts.ood):
        reached = np.cumsum(part)
        for below in (reached, reached - part):  # a group ends, or begins, with this value
            number = below * GROUPS // reached[-1]
            edges[1:] |= number[1:] != number[:-1]
    starts = np.flatnonzero(edges)
    summed = (np.add.reduceat(part, starts) for part in (counts.id, counts.ood))
    return Counts(counts.values[starts], *summed)


def _resample(counts, rng):
    if counts.sum() > 8 * counts.size:  # the same distribution, at a cost that knows no examples
        return rng.multinomial(counts.sum(), counts / counts.sum())
    positions = np.repeat(np.arange(counts.size), counts)
    return np.bincount(rng.choice(positions, positions.size), minlength=counts.size)
