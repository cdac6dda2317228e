"""How well the classifier itself does: accuracy, calibration, accuracy with rejection (OSCR)."""

import numpy as np
from scipy.special import softmax


def accuracy(logits, labels):
    """Share of examples whose largest logit is that of the label, in [0, 1]."""
    return float(np.mean(np.argmax(logits, axis=1) == np.asarray(labels)))


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
