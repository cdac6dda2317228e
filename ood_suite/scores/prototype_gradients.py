"""A score of how a classifier by prototypes would have to move its prototype of OOD data."""

from typing import Self

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner
from ood_suite.scores.neighbors import lengths

QUERIES, BANK_ROWS = 1024, 4096  # compared at a time


class GrOOD(Learner):
    """min_i |g(x) - g(x_i)|: the distance to the nearest training gradient, of the loss of a
    classifier by prototypes with respect to its prototype o of OOD data.

    The prototypes are the class means and o; the loss is the cross entropy of the predicted class:

        g(x) = q (x - o) / |x - o|, q = softmax(-|x - mean_1|, .., -|x - mean_C|, -|x - o|)_o

    o is the mean over training data of mixing * x + (1 - mixing) * mean_s, s the class with the
    second largest logit. Only the training examples classified correctly are compared with.

    Args:
        mixing: the share of the example in a mixture, in 0..1.

    Attributes:
        prototypes_: float64 (classes + 1, d), the last is o. bank_: (m, d) the training features
            themselves, not a copy. sizes_: float64 (m,), q of each; -1 where classified wrongly.

    Defaults: 0.5, which is fixed in OpenOOD's code.

    Fails: where class means are far apart against 1, in the features' own unit, q is 0 or 1 and
        little but directions is left; costs a pass over all training data.

    Reference: ElAraby et al., "GROOD: Gradient-Aware Out-of-Distribution Detection", TMLR 2025. The
        authors and OpenOOD mix features of an earlier layer, which then pass through the rest of
        the network; ours are mixed in the last layer, as arrays hold no network. OpenOOD can also
        average validation OOD data or images of noise for o, gives minus the square, and searches
        inexactly.
    """

    LEARNED = {"prototypes_": 2, "bank_": 2, "sizes_": 1}

    def __init__(self, mixing: float = 0.5) -> None:
        self.mixing = mixing

    def fit(self, features: Array, labels: Array, logits: Array) -> Self:
        """Learns from training features (m, d), labels (m,) and logits (m, classes)."""
        checks.within("mixing", self.mixing, 0.0, 1.0)
        features = checks.matrix("features", features, what="features")
        logits = checks.matrix("logits", logits, what="classes")
        checks.same_length(features, logits)
        labels, classes = checks.class_labels(labels, len(features), logits.shape[1])
        if classes < 2:
            raise ValueError("A mixture of two classes needs two.")
        means = checks.class_means(features, labels, classes)
        correct, second = np.empty(len(logits), bool), np.empty(len(logits), np.int64)
        for part, rows in checks.chunks("logits", logits):
            order = np.argsort(-rows, axis=1, kind="stable")
            correct[part], second[part] = order[:, 0] == labels[part], order[:, 1]
        if not correct.any():
            raise ValueError("No training example is classified correctly.")
        total = sum(rows.sum(axis=0) for _, rows in checks.chunks("features", features))
        others = np.bincount(second, minlength=classes) @ means
        mixed = (self.mixing * total + (1.0 - self.mixing) * others) / len(features)
        self.prototypes_ = np.vstack([means, mixed])
        self.bank_, self.sizes_ = features, np.empty(len(features))
        for part, rows in checks.chunks("features", features, beside=classes + 1):
            self.sizes_[part] = np.where(correct[part], self._sizes(rows), -1.0)
        return self

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.bank_.shape[1], "features")
        scores = np.empty(len(features))
        for part, rows in checks.chunks("features", features, rows=QUERIES):
            sizes, units = self._sizes(rows), self._units(rows)
            nearest = self._nearest(sizes, units)
            known = np.asarray(self.bank_[nearest], np.float64)
            known = self.sizes_[nearest][:, None] * self._units(known)
            scores[part] = np.linalg.norm(sizes[:, None] * units - known, axis=1)
        return scores

    def _sizes(self, rows):
        """float64 (n,): q, the length of the gradients."""
        return softmax(-cdist(rows, self.prototypes_), axis=1)[:, -1]

    def _units(self, rows):
        away = rows - self.prototypes_[-1]
        return away / lengths(away)[:, None]

    def _nearest(self, sizes, units):
        """int64 (n,): row of the bank with the nearest gradient."""
        best, nearest = np.full(len(sizes), np.inf), np.zeros(len(sizes), np.int64)
        for start in range(0, len(self.bank_), BANK_ROWS):
            part = slice(start, start + BANK_ROWS)
            known = self.sizes_[part]
            rows = checks.finite("features", np.asarray(self.bank_[part], np.float64))
            squared = known**2 - 2.0 * (sizes[:, None] * units) @ (self._units(rows).T * known)
            squared[:, known < 0.0] = np.inf
            columns = squared.argmin(axis=1)
            values = np.take_along_axis(squared, columns[:, None], axis=1)[:, 0]
            closer = values < best
            best[closer], nearest[closer] = values[closer], columns[closer] + start
        return nearest
