"""Scores that compare with single training examples.

The bank of training features is kept as it came: an array, or a memory map larger than memory, over
which a score passes once per block of queries. KNN and NNGuide find neighbours by products in
float32; what they report of these is computed anew in float64. Relation computes in float64, of
probabilities that it keeps in float32.
"""

from typing import Self

import numpy as np
from scipy.special import softmax

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner
from ood_suite.scores.logits import log_sum_exp

QUERIES, BANK_ROWS = 1024, 4096  # a block of similarities: 16 MiB
MOST_BYTES = 2**32  # of the probabilities of all training examples


def nearest(queries, bank, norms, k, weights=None):
    """Bank rows with the k largest weight * cosine similarity, for each query.

    Args:
        queries: (n, d). bank: (m, d), m >= k. norms: (m,), of the bank's rows.
        weights: (m,) factors of the similarities, or None.

    Returns:
        int64 (n, k) rows of the bank, in no order, and float32 (n, k) their similarities.
    """
    scale = (1.0 / norms if weights is None else weights / norms).astype(np.float32)
    best = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.zeros((len(queries), k), np.int64)
    units = np.empty((len(queries), bank.shape[1]), np.float32)
    for part, block in checks.chunks("features", queries):
        units[part] = block / lengths(block)[:, None]
    for start in range(0, len(bank), BANK_ROWS):
        part = slice(start, start + BANK_ROWS)
        rows_of_bank = np.asarray(bank[part], np.float32)
        for first in range(0, len(units), QUERIES):
            block = slice(first, first + QUERIES)
            similar = units[block] @ rows_of_bank.T
            similar *= scale[part]  # not the bank: a single query would copy all of it
            values, columns = _candidates(similar, best[block].min(axis=1), k)
            merged = np.concatenate([best[block], values], axis=1)
            merged_rows = np.concatenate([rows[block], columns + start], axis=1)
            top = np.argpartition(merged, -k, axis=1)[:, -k:]
            best[block] = np.take_along_axis(merged, top, axis=1)
            rows[block] = np.take_along_axis(merged_rows, top, axis=1)
    return rows, best


def _candidates(similar, threshold, k):
    """(values, columns), each (n, m) and padded with -inf: the entries of a row above its
    threshold; as long as a threshold is -inf, the k largest.
    """
    if np.isneginf(threshold).any():
        kept = min(k, similar.shape[1])
        columns = np.argpartition(similar, -kept, axis=1)[:, -kept:]
        return np.take_along_axis(similar, columns, axis=1), columns
    flat = np.flatnonzero(similar > threshold[:, None])  # few, once some blocks have been seen
    line, column = np.divmod(flat, similar.shape[1])
    counts = np.bincount(line, minlength=len(similar))
    place = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.full((len(similar), counts.max(initial=0)), -np.inf, np.float32)
    columns = np.zeros(values.shape, np.int64)
    values[line, place], columns[line, place] = similar.ravel()[flat], column
    return values, columns


def norms(rows):
    """(n,): Euclidean norms, without the matrix of squares that np.linalg.norm makes."""
    return np.sqrt(np.vecdot(rows, rows))


def lengths(rows):
    """Euclidean norms, at least 1e-12, so that a zero vector stays one when divided by it."""
    return np.maximum(norms(rows), 1e-12)


def _bank(features, k):
    """(features, norms float64); ValueError if there are fewer than k."""
    features = checks.matrix("features", features, what="features")
    if not 1 <= k <= len(features):
        raise ValueError(
            f"`k` must lie in 1..{len(features)}, the number of training examples. Received: {k}."
        )
    norms = np.empty(len(features))
    for part, rows in checks.chunks("features", features):
        norms[part] = lengths(rows)
    return features, norms


class KNN(Learner):
    """|x/|x| - y_k/|y_k||: the Euclidean distance to the k-th nearest training feature, all scaled
    to length 1, in [0, 2].

    OpenOOD and oodeel give the square of it.

    Args:
        k: in 1..number of training examples.

    Defaults: 50, the paper's for CIFAR-10; it takes 200 on CIFAR-100 and 1000 on ImageNet.

    Fails: with fewer than about k training examples of a class; costs a pass over all of them. Who
        is the k-th is told by products in float32: where features all but point one way (within a
        thousandth), another is taken, up to a quarter farther or nearer.

    Attributes:
        bank_: (m, d) the training features themselves, not a copy. norms_: float64 (m,).

    Reference: Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022.
    """

    LEARNED = {"bank_": 2, "norms_": 1}

    def __init__(self, k: int = 50) -> None:
        self.k = k

    def fit(self, features: Array) -> Self:
        """Keeps training features (m, d)."""
        self.bank_, self.norms_ = _bank(features, self.k)
        return self

    def score(self, features: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.bank_.shape[1], "features")
        rows, similarities = nearest(features, self.bank_, self.norms_, self.k)
        kth = np.take_along_axis(rows, similarities.argmin(axis=1)[:, None], axis=1)[:, 0]
        scores = np.empty(len(features))
        for part, queries in checks.chunks("features", features):
            others = np.asarray(self.bank_[kth[part]], np.float64) / self.norms_[kth[part], None]
            scores[part] = np.linalg.norm(queries / lengths(queries)[:, None] - others, axis=1)
        return scores


class NNGuide(Learner):
    """-E(x) * mean of the k largest E(y) cos(x, y) over training examples y, with E = log sum exp
    of the logits.

    Args:
        k: neighbours that guide.

    Defaults: 10, the paper's on CIFAR, and of 1% of ImageNet.

    Fails: as the energy does, which it multiplies; negative energies turn its order round.

    Attributes:
        bank_: (m, d) the training features themselves. norms_, energies_: float64 (m,).

    Reference: Park, Jung, Teoh, "Nearest Neighbor Guidance for Out-of-Distribution Detection", ICCV
        2023, equations 3 to 5.
    """

    LEARNED = {"bank_": 2, "norms_": 1, "energies_": 1}

    def __init__(self, k: int = 10) -> None:
        self.k = k

    def fit(self, features: Array, logits: Array) -> Self:
        """Keeps training features (m, d), and the energies of their logits (m, classes)."""
        self.bank_, self.norms_ = _bank(features, self.k)
        logits = checks.matrix("logits", logits, what="classes")
        checks.same_length(features, logits)
        self.energies_ = np.empty(len(logits))
        for part, rows in checks.chunks("logits", logits):
            self.energies_[part] = log_sum_exp(rows)
        return self

    def score(self, features: Array, logits: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.bank_.shape[1], "features")
        energies = checks.each_logits(logits, log_sum_exp)
        checks.same_length(features, energies)
        rows, _ = nearest(features, self.bank_, self.norms_, self.k, self.energies_)
        means, weights = np.empty(len(features)), self.energies_ / self.norms_
        for part, queries in checks.chunks("features", features, features.shape[1] * self.k):
            others = np.asarray(self.bank_[rows[part]], np.float64)
            products = np.vecdot(others, (queries / lengths(queries)[:, None])[:, None])
            means[part] = (products * weights[rows[part]]).mean(axis=1)
        return -energies * means


class Relation(Learner):
    """-sum over training examples y of r(x, y)**power, where r(x, y) > `least`, of

    r(x, y) = max(cos(x, y), 0) * sum_c p(x)_c p(y)_c,    p = softmax(z).

    Args:
        power: of a relation. least: relations that are not above it do not count, in [0, 1).

    Attributes:
        bank_: (m, d) the training features themselves. norms_: float64 (m,). probabilities_:
            float32 (m, classes).

    Defaults: OpenOOD's: power 1 and the authors' cut-off 0.03.

    Fails: with few training examples per class, and costs a pass over all of them. The
        probabilities of all are in memory and in a detector's file; more than 4 GiB, as of
        ImageNet, is refused.

    Reference: Kim et al., "Neural Relation Graph: A Unified Framework for Identifying Label Noise
        and Outlier Data", NeurIPS 2023, equations 1 and 4.
    """

    LEARNED = {"bank_": 2, "norms_": 1, "probabilities_": 2}

    def __init__(self, power: float = 1.0, least: float = 0.03) -> None:
        self.power = power
        self.least = least

    def fit(self, features: Array, logits: Array) -> Self:
        """Keeps training features (m, d), and the probabilities of their logits (m, classes)."""
        checks.above("power", self.power, 0.0)
        checks.within("least", self.least, 0.0, 1.0, "[)")
        self.bank_, self.norms_ = _bank(features, 1)
        logits = checks.matrix("logits", logits, what="classes")
        checks.same_length(features, logits)
        needed = 4 * logits.size
        if needed > MOST_BYTES:
            raise ValueError(
                f"relation would take {needed / 2**30:.1f} GiB for the probabilities of "
                f"{len(logits)} examples of {logits.shape[1]} classes, at most "
                f"{MOST_BYTES / 2**30:.0f}: fit it to fewer examples, or use knn."
            )
        self.probabilities_: Array = np.empty(logits.shape, np.float32)
        for part, rows in checks.chunks("logits", logits):
            self.probabilities_[part] = softmax(rows, axis=1)
        return self

    def score(self, features: Array, logits: Array) -> Array:
        """float64 (n,)."""
        features = checks.matrix("features", features, self.bank_.shape[1], "features")
        logits = checks.raw_logits(logits, self.probabilities_.shape[1])
        checks.same_length(features, logits)
        scores = np.zeros(len(features))
        for part, rows in checks.chunks("features", features, rows=QUERIES):
            units = rows / lengths(rows)[:, None]
            probabilities = softmax(checks.rows_of("logits", logits, part), axis=1)
            for start in range(0, len(self.bank_), BANK_ROWS):
                block = slice(start, start + BANK_ROWS)
                others = np.asarray(self.bank_[block], np.float64) / self.norms_[block, None]
                related = units @ others.T
                related *= probabilities @ self.probabilities_[block].T
                related *= related > max(self.least, 0.0)
                if self.power != 1.0:
                    related **= self.power
                scores[part] -= related.sum(axis=1)
        return scores
