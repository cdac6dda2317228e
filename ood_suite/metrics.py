"""Every threshold metric of OOD detection as a view of one exact sort.

Scores are HIGHER = MORE OOD. An example is called OOD when score >= threshold. Ties are exact:
`Counts` holds, for each distinct score value, how many ID and OOD examples have it, so that no
metric depends on the order of the input.

>>> counts = Counts.of(np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.5]))
>>> round(auroc(counts), 4)
0.8333
"""

from typing import NamedTuple

import numpy as np
from scipy.special import bdtrc, softmax


class Counts(NamedTuple):
    """How many examples have each distinct score.

    Attributes:
        values: (k,) distinct scores, ascending.
        id: int64 (k,) ID examples at each value. ood: int64 (k,) OOD examples at each value. Both
            may be (resamples, k): metrics are then (resamples,).
    """

    values: np.ndarray
    id: np.ndarray
    ood: np.ndarray

    @classmethod
    def of(cls, id_scores, ood_scores):
        """Counts of two score arrays, each (n,) and finite; float32 stays float32, all else becomes
        float64.

        Raises:
            ValueError: an empty array (only one class), a wrong shape, or NaN.
        """
        id_scores, ood_scores = _checked("id_scores", id_scores), _checked("ood_scores", ood_scores)
        id_sorted, ood_sorted = np.sort(id_scores), np.sort(ood_scores)
        values = _distinct(np.concatenate([id_sorted, ood_sorted]))
        return cls(values, _tally(id_sorted, values), _tally(ood_sorted, values))


def _checked(name, scores):
    scores = np.asarray(scores)
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64, copy=False)
    if scores.ndim != 1:
        raise ValueError(f"`{name}` must have shape (n,). Received: shape={scores.shape}.")
    if scores.size == 0:
        raise ValueError(f"`{name}` is empty: metrics need at least one ID and one OOD example.")
    if np.isnan(scores).any():
        raise ValueError(f"`{name}` has {int(np.isnan(scores).sum())} NaN.")
    return scores


def _distinct(values):
    values.sort(kind="stable")  # two ascending runs: merged in linear time
    keep = np.empty(values.size, bool)
    keep[0] = True
    np.not_equal(values[1:], values[:-1], out=keep[1:])
    return values[keep]


def _tally(ordered, values):
    """int64 (k,): how often each of the ascending `values` occurs in the ascending `ordered`."""
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.zeros(values.size, np.int64)
    counts[np.searchsorted(values, ordered[starts])] = np.diff(np.append(starts, ordered.size))
    return counts


def auroc(counts):
    """P(OOD score > ID score) + P(equal)/2, in [0, 1]: the area under the ROC curve."""
    id_below = np.cumsum(counts.id, axis=-1) - counts.id
    doubled = np.einsum("...k,...k->...", counts.ood, 2 * id_below + counts.id)
    return _plain(doubled / 2 / (counts.id.sum(axis=-1) * counts.ood.sum(axis=-1)))


def _plain(values):
    """A float of one set of counts, an array of several."""
    return values if np.ndim(values) else float(values)


def aupr_out(counts):
    """Average precision with OOD as the positive class: sum over thresholds of (R_k - R_{k-1}) P_k
    (step sum).
    """
    return _average_precision(counts.ood[..., ::-1], counts.id[..., ::-1])


def aupr_in(counts):
    """Average precision with ID as the positive class (a low score is a confident ID)."""
    return _average_precision(counts.id, counts.ood)


def _average_precision(positives, negatives):
    hits, alarms = np.cumsum(positives, axis=-1), np.cumsum(negatives, axis=-1)
    terms = positives * (hits / np.maximum(hits + alarms, 1))
    return _plain(np.sum(terms, axis=-1) / hits[..., -1])


def fpr_id_positive(counts, level=0.95):
    """Share of OOD accepted as ID at the strictest threshold that accepts at least `level` of the
    ID examples.

    The FPR95 of the ODIN and energy papers. The released code of Unleashing Mask and HIMPLoS takes
    the threshold whose recall is nearest to `level`, be it below: at most .006 apart at 1000
    examples.
    """
    return _share_before(counts.id, counts.ood, level)


def fpr_ood_positive(counts, level=0.95):
    """Share of ID rejected at the strictest threshold that catches at least `level` of the OOD
    examples.

    The FPR95 of OpenOOD and pytorch-ood. OpenOOD reads it off a curve without its collinear points,
    which moves it by up to .05 at 50 examples.
    """
    return _share_before(counts.ood[..., ::-1], counts.id[..., ::-1], level)


def _share_before(wanted, others, level):
    """Share of `others` at or before the value by which `level` of `wanted` is reached."""
    reached = np.cumsum(wanted, axis=-1)
    place = np.argmax(reached / reached[..., -1:] >= level, axis=-1)
    passed = np.cumsum(others, axis=-1)
    at = np.take_along_axis(passed, np.expand_dims(place, -1), axis=-1)[..., 0]
    return _plain(at / passed[..., -1])


def detection_error(counts):
    """min over thresholds of (share of OOD missed + share of ID rejected) / 2, at most 0.5."""
    missed = np.cumsum(counts.ood, axis=-1) / counts.ood.sum(axis=-1, keepdims=True)
    rejected = 1.0 - np.cumsum(counts.id, axis=-1) / counts.id.sum(axis=-1, keepdims=True)
    return _plain(np.minimum(0.5, np.min(missed + rejected, axis=-1) / 2))


def autc(counts):
    """Area under the threshold curves, in [0, 1], lower is better; 0.5 where both classes score
    alike: the mean of both error rates over all thresholds between the least and the largest score.

    With scores moved to [0, 1] by these two it is (1 + mean ID score - mean OOD score) / 2. Not a
    metric of the ranking alone: a score that separates its classes by a wide gap has a lower one
    than another of the same AUROC, and one far outlier squeezes all others. A score with infinite
    values has none (NaN).

    Reference: Humblot-Renaux, Escalera, Moeslund, "Beyond AUROC & co. for Evaluating
        Out-of-Distribution Detection Performance", CVPR Workshops 2023, section 4. Their code joins
        the steps by straight lines, which differs by at most about 1 / n.
    """
    low, high = counts.values[0].astype(np.float64), counts.values[-1].astype(np.float64)
    if not np.isfinite([low, high]).all():
        return float("nan")
    moved = (counts.values - low) / (high - low or 1.0)
    means = [part @ moved / part.sum(axis=-1) for part in (counts.id, counts.ood)]
    return _plain((1.0 + means[0] - means[1]) / 2)


METRICS = {
    "auroc": auroc,
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "detection_error": detection_error,
    "fpr95_id_positive": fpr_id_positive,
    "fpr95_ood_positive": fpr_ood_positive,
}


def evaluate(id_scores, ood_scores):
    """All METRICS of two score arrays from one sort: {name: float}."""
    counts = Counts.of(id_scores, ood_scores)
    return {name: metric(counts) for name, metric in METRICS.items()}


def roc_curve(counts):
    """(false positive rate, true positive rate), OOD positive, from (0, 0) to (1, 1)."""
    rejected = np.concatenate([[0], np.cumsum(counts.id[::-1])]) / counts.id.sum()
    caught = np.concatenate([[0], np.cumsum(counts.ood[::-1])]) / counts.ood.sum()
    return rejected, caught


def precision_recall_curve(counts):
    """(recall, precision), OOD positive, by rising recall; a step function (hold the precision to
    the left).
    """
    caught, alarms = np.cumsum(counts.ood[::-1]), np.cumsum(counts.id[::-1])
    return caught / caught[-1], caught / np.maximum(caught + alarms, 1)


def accuracy(logits, labels):
    """Share of examples whose largest logit is that of the label, in [0, 1]."""
    return float(np.mean(np.argmax(logits, axis=1) == np.asarray(labels)))


def is_at_chance(logits, labels):
    """Whether a classifier is right no more often than chance (binomial test at 0.01).

    Args:
        labels: integers (n,); none of the examples may be unlabelled (-1).
    """
    labels = np.asarray(labels)
    hits = int(np.sum(np.argmax(logits, axis=1) == labels))
    return bool(bdtrc(hits - 1, len(labels), 1.0 / logits.shape[1]) >= 0.01)


def expected_calibration_error(logits, labels, bins=15):
    """sum over bins of (share of examples) * |accuracy - mean confidence|, in [0, 1].

    Confidence is the largest softmax probability, in `bins` bins (low, high] of equal width.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    probabilities = softmax(np.asarray(logits, np.float64), axis=1)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == np.asarray(labels)
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, confidence - correct, bins)
    return float(np.abs(gaps).sum() / len(confidence))


def oscr(id_scores, ood_scores, correct):
    """Area under the correct classification rate against the false positive rate, in [0, accuracy].

    At a threshold, the one is the share of ID examples that are accepted and classified correctly,
    the other the share of OOD examples that are accepted. Exact: the mean over pairs of an ID and
    an OOD example of (correct and id_score < ood_score), ties counting half.

    Args:
        correct: bool (n_id,).

    Reference: Dhamija, Guenther, Boult, "Reducing Network Agnostophobia", NeurIPS 2018, section 4.
    """
    good = np.sort(np.asarray(id_scores)[np.asarray(correct, bool)])
    below = np.searchsorted(good, ood_scores, "left") + np.searchsorted(good, ood_scores, "right")
    return float(below.sum() / 2.0 / (len(id_scores) * len(ood_scores)))
