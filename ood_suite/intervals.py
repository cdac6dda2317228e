"""Confidence intervals of the metrics, and paired comparisons.

DeLong's variance for the AUROC (exact ties, n log n), a stratified bootstrap for all the others: ID
and OOD examples are drawn again with replacement, each within its class. Intervals speak of the
test examples drawn, not of the training. How often each holds the truth: docs/intervals.md.
"""

import numpy as np
from scipy import special, stats

from ood_suite import metrics
from ood_suite.metrics import Counts

TOGETHER = 2**15  # counts of resamples that are judged at once
GROUPS = 2**15  # of neighbouring scores that a class is cut into where there are many more


def auroc_interval(id_scores, ood_scores, level=0.95):
    """(low, high) of the AUROC by DeLong's variance on the logit scale, which keeps it within [0,
    1].

    The variance counts the worst example of either class twice: among few examples of a good score
    the rare bad ones are missing as often as not, and the plain variance is then far too small
    (coverage .87 at 50 examples and an AUROC of .97). Few examples do not tell their variance
    either: Student's t with one degree of freedom less than the smaller class has examples takes
    that into account, and of a single example, which has none, the interval is (0, 1). What is left
    is a coverage of .89 to 1.00 with 2 to 10 examples (docs/intervals.md).

    Reference: DeLong, DeLong, Clarke-Pearson, Biometrics 1988; Sun, Xu, IEEE Signal Processing
        Letters 2014. The worst example twice and Student's t are ours. An AUROC of exactly 0 or 1
        has variance 0; then the one-sided bound of the smaller class's number of Bernoulli trials
        is given.
    """
    of_id, of_ood = placements(id_scores, ood_scores)
    area, smaller = float(of_ood.mean()), min(of_id.size, of_ood.size)
    if smaller == 1:
        return 0.0, 1.0
    if area in (0.0, 1.0):
        slack = _slack(smaller, level)
        return (0.0, slack) if area == 0.0 else (1.0 - slack, 1.0)
    worst = np.min if area >= 0.5 else np.max
    variance = sum(_variance(np.append(part, worst(part))) for part in (of_id, of_ood))
    error = np.sqrt(variance) / (area * (1.0 - area))
    reach = stats.t.ppf((1.0 + level) / 2, smaller - 1) * error
    return tuple(float(v) for v in special.expit(special.logit(area) + np.array([-reach, reach])))


def _slack(trials, level):
    """The share that so many trials without one hit leave possible."""
    return 1.0 - ((1.0 - level) / 2) ** (1.0 / trials)


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
    return components.var(ddof=1) / components.size


def paired_auroc_difference(scores, baseline, level=0.95):
    """AUROC(scores) - AUROC(baseline) on the same examples, with DeLong's interval and test.

    The example of each class on which the two differ most counts twice in the variance, and moves
    the middle of the interval by half of what it would move the difference: plain DeLong holds a
    difference of two good scores in .92 of samples of 200 + 200 examples and in .85 of 50 + 50,
    because the worse one looks too good where its rare bad examples are missing. Interval and test
    are Student's t, with one degree of freedom less than the smaller class has examples.

    Args:
        scores, baseline: each a pair (id_scores (n,), ood_scores (m,)), example i the same in both.

    Returns:
        dict: difference, low, high (of the `level` interval), p_value (two-sided;
            without any variance 1.0 if both AUROCs are equal, else 0.0). Where then one is
            perfect and they are not the same ranking, the interval is that of the smaller class's
            number of Bernoulli trials, to both sides. With one example of a class, which has no
            variance to judge by, low is -1, high 1 and p_value 1.
    """
    for ours, theirs, name in zip(scores, baseline, ("id", "ood"), strict=True):
        if len(ours) != len(theirs):
            raise ValueError(
                f"A paired comparison needs the same {name} examples. Received: {len(ours)} and "
                f"{len(theirs)}."
            )
    of_id, of_ood = placements(*scores)
    base_id, base_ood = placements(*baseline)
    difference, smaller = float(of_ood.mean() - base_ood.mean()), min(of_id.size, of_ood.size)
    if smaller == 1:
        return {"difference": difference, "low": -1.0, "high": 1.0, "p_value": 1.0}
    parts = of_id - base_id, of_ood - base_ood
    twice = [np.append(part, part[np.argmax(np.abs(part - part.mean()))]) for part in parts]
    error = np.sqrt(sum(_variance(part) for part in twice))
    middle = difference + float(sum(part.mean() - difference for part in twice)) / 2.0
    reach = float(stats.t.ppf((1.0 + level) / 2, smaller - 1) * error)
    if error > 0:
        p_value = float(2.0 * stats.t.sf(abs(middle) / error, smaller - 1))
    else:  # no variance: the same ranking twice, both perfect, or a perfect one and its opposite
        middle, p_value = difference, float(difference == 0.0)
        ends = {0.0, 1.0} & {float(of_ood.mean()), float(base_ood.mean())}
        if ends and not _same_ranking(scores, baseline):
            reach = _slack(smaller, level)
    return {
        "difference": difference,
        "low": max(middle - reach, -1.0),
        "high": min(middle + reach, 1.0),
        "p_value": p_value,
    }


def _same_ranking(scores, baseline):
    ours, theirs = (stats.rankdata(np.concatenate(pair)) for pair in (scores, baseline))
    return np.array_equal(ours, theirs)


def bootstrap_intervals(id_scores, ood_scores, level=0.95, resamples=1000, seed=0):
    """Intervals of all METRICS by stratified bootstrap: {name: (low, high)}.

    The AUROC's interval is DeLong's. Of the resampled values,

        fpr95_*           percentiles, the upper farther by 1 + 6 / n of the class that sets the
                          threshold: resamples hold none beyond the sample's own scores;
        aupr_*            the standard deviation of their logits, about the logit of the value,
                          times Student's t of the smaller class, and downwards 1 + 3 / n of it:
                          an average precision is too large on a sample;
        detection_error   Wilson's interval of their variance, at least that of a fixed threshold,
                          about the value less their bias: a minimum over thresholds is too small
                          on a sample, twice so on a resample.

    What stretches them is ours, found by simulation (docs/intervals.md). All hold the value itself.
    Those of a value of 0 or 1 reach at least to the one-sided bound of the smaller class's number
    of Bernoulli trials, and no farther where no resample differs.

    Each resample draws how often every distinct score value occurs, so that it costs one pass over
    the sorted values and no sort. Of more than 4 * GROUPS distinct values, neighbours are taken
    together: the intervals then have the width of the grouped scores' and are moved by the
    difference between the exact metric and that of the groups.

    Reference: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 12 and 13;
        Wilson, Journal of the American Statistical Association 1927.
    """
    counts = Counts.of(id_scores, ood_scores)
    sizes = int(counts.id.sum()), int(counts.ood.sum())
    fixed = _fixed_variance(counts)
    rng = np.random.default_rng(seed)
    names = [name for name in metrics.METRICS if name != "auroc"]
    values = np.array([metrics.METRICS[name](counts) for name in names])
    if counts.values.size > 4 * GROUPS:
        counts = _grouped(counts)
    shift = values - [metrics.METRICS[name](counts) for name in names]
    draws = np.empty((len(names), resamples))
    together = max(1, TOGETHER // counts.values.size)
    for start in range(0, resamples, together):
        rows = slice(start, min(start + together, resamples))
        size = rows.stop - rows.start
        resampled = Counts(
            counts.values, *(_resample(part, rng, size) for part in (counts.id, counts.ood))
        )
        draws[:, rows] = [metrics.METRICS[name](resampled) for name in names]
    draws += shift[:, None]
    found = {
        name: _interval(name, value, drawn, sizes, fixed, level)
        for name, value, drawn in zip(names, values, draws, strict=True)
    }
    return {"auroc": auroc_interval(id_scores, ood_scores, level)} | found


def _fixed_variance(counts):
    """That of the detection error at the best threshold, if it were known."""
    missed, rejected = np.cumsum(counts.ood), counts.id.sum() - np.cumsum(counts.id)
    best = np.argmin(missed / counts.ood.sum() + rejected / counts.id.sum())
    variance = 0.0
    for errors, part in ((missed, counts.ood), (rejected, counts.id)):
        count = part.sum()
        share = (errors[best] + 1.0) / (count + 2.0)  # none seen is not none at all
        variance += share * (1.0 - share) / count / 4.0
    return float(variance)


def _interval(name, value, drawn, sizes, fixed, level):
    """(low, high) of a metric from its resampled values, see bootstrap_intervals."""
    slack = min(_slack(min(sizes), level), 0.5 if name == "detection_error" else 1.0)
    least = {0.0: (0.0, slack), 1.0: (1.0 - slack, 1.0)}.get(value, (value, value))
    if value in (0.0, 1.0) and (drawn == value).all():
        return least
    if name.startswith("aupr"):
        low, high = _on_the_logit_scale(value, drawn, sizes, level)
    elif name == "detection_error":
        share = float(np.clip(2.0 * value - drawn.mean(), 0.0, 0.5))
        # Which class the errors are of is uncertain too: half of what two equal shares would give.
        equal = share * (1.0 - share) * sum(1.0 / n for n in sizes) / 4.0
        low, high = _wilson(share, max(drawn.var(), (fixed + equal) / 2.0), level)
        high = min(high, 0.5)
    else:
        setting = sizes[name == "fpr95_ood_positive"]
        low, high = np.quantile(drawn, [(1.0 - level) / 2, (1.0 + level) / 2])
        high = value + (1.0 + 6.0 / setting) * (high - value)
    low, high = np.clip([min(low, least[0]), max(high, least[1])], 0.0, 1.0)
    return float(low), float(high)


def _on_the_logit_scale(value, drawn, sizes, level):
    edge = 0.1 / max(sizes)  # an average precision of 1 is one of a little less, luckily drawn
    logits = special.logit(np.clip(np.append(drawn, value), edge, 1.0 - edge))
    freedom = max(min(sizes) - 1, 1)
    spread = logits[:-1].std() * np.sqrt((freedom + 1) / freedom)
    reach = stats.t.ppf((1.0 + level) / 2, freedom) * spread
    below = (1.0 + 3.0 / min(sizes)) * reach
    return special.expit(logits[-1] - below), special.expit(logits[-1] + reach)


def _wilson(share, variance, level):
    """Wilson's interval of a share, for as many trials as would give it that variance."""
    z = stats.norm.ppf((1.0 + level) / 2)
    size = max(share * (1.0 - share) / variance, 1.0)
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    reach = z / (1 + z**2 / size) * np.sqrt(share * (1.0 - share) / size + (z / (2 * size)) ** 2)
    return centre - reach, centre + reach


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


def _resample(counts, rng, size):
    """int64 (size, k): how often each value occurs in resamples of as many examples."""
    total, width = int(counts.sum()), counts.size
    if total > 8 * width:  # the same distribution, at a cost that knows no examples
        return rng.multinomial(total, counts / total, size)
    positions = np.repeat(np.arange(width), counts)
    drawn = rng.choice(positions, (size, total)) + width * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * width).reshape(size, width)
