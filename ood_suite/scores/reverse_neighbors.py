"""A score that asks not who is near an example, but to whom the example is near."""

from typing import Self

import numpy as np

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner

QUERIES, MEMORY = 1024, 2**23  # rows that are compared at a time; distances at most


def neighborhoods(count):
    """(shares, ranks): the sizes of neighbourhood that are tried, as shares of `count` reference
    examples, and the 0-based rank of the farthest neighbour in each.

    100 of 0.001 to 0.1, 81 of 0.105 to 0.5 and 49 of 0.51 to 0.99, less those of the same rank.
    """
    shares = np.concatenate(
        [np.linspace(0.001, 0.1, 100), np.linspace(0.105, 0.5, 81), np.linspace(0.51, 0.99, 49)]
    )
    ranks = (shares * count - 1.0).astype(np.int64)
    new = np.diff(ranks, prepend=-1) > 0
    return shares[new], ranks[new]


class CFOOD(Learner):
    """min {k : |u - y| <= distance_k(y) for at least share * m of the m reference examples y}: the
    share of the reference examples that must count as neighbours of one another, until x is a
    neighbour of enough of them.

    u = x / |x|, y are training features scaled to length 1 as well, and distance_k(y) is that of y
    to its (k m)-th nearest other one; k takes the values of `neighborhoods`, and 1 where none is
    enough. Unlike distances, these shares do not gather around one value as dimensions grow.

    Args:
        share: of the reference examples that x must be near to, in (0, 1].
        references: how many training examples are drawn, without replacement; all if there are
            fewer.
        seed: of the draw.

    Attributes:
        references_: float64 (m, d), of length 1. distances_: float64 (m, len(shares)), squared.

    Defaults: share 0.01, OpenOOD's; it draws a tenth of the training data, which is 5000 examples
        on CIFAR. Ours is that number everywhere, as the time to fit grows with its square.

    Fails: in ties, as it takes at most 231 values, and 1 is all that it says of what is far from
        everything; with few reference examples, of which `share` is less than one.

    Reference: Angiulli, Fassetti and Zupi, "CF-OOD: Concentration-Free Density Estimation for
        Reliable Out-of-Distribution Detection", 2026, after Angiulli, "CFOF: A Concentration Free
        Measure for Anomaly Detection", TKDD 2020. As OpenOOD's cfood_postprocessor.py.
    """

    LEARNED = {"references_": 2, "distances_": 2}

    def __init__(self, share: float = 0.01, references: int = 5000, seed: int = 0) -> None:
        self.share = share
        self.references = references
        self.seed = seed

    def fit(self, features: Array) -> Self:
        """Learns from training features (n, d)."""
        checks.within("share", self.share, 0.0, 1.0, "(]")
        units = checks.UnitRows("features", features)
        count = min(self.references, len(units))
        if count < 2:
            raise ValueError(f"Neighbours need two reference examples. Received: {count}.")
        drawn = np.random.default_rng(self.seed).permutation(len(units))[:count]
        self.references_ = checks.finite("features", units[np.sort(drawn)])
        shares, ranks = neighborhoods(count)
        self.distances_ = np.empty((count, len(shares)))
        for part, squared in _squared(self.references_, self.references_):
            # The first is the example itself.
            self.distances_[part] = np.sort(squared, axis=1)[:, ranks + 1]
        return self

    def score(self, features: Array) -> Array:
        """float64 (n,), in (0, 1]."""
        checks.matrix("features", features, self.references_.shape[1], "features")
        units, count = checks.UnitRows("features", features), len(self.references_)
        shares = np.append(neighborhoods(count)[0], 1.0)
        enough = int(np.searchsorted(np.arange(1, count + 1) / count, self.share))  # 0-based
        scores = np.empty(len(units))
        for part, squared in _squared(units, self.references_):
            columns = squared.T.copy()
            smallest = np.empty(columns.shape, np.int16)  # neighbourhood that x is in, of each y
            for number, known in enumerate(self.distances_):
                smallest[number] = known.searchsorted(columns[number])
            scores[part] = shares[np.partition(smallest, enough, axis=0)[enough]]
        return scores


def _squared(units, others):
    """Yields (slice, squared distances (rows, others)) of vectors of length 1 (or 0): one product,
    right to 1e-15.
    """
    sizes = np.vecdot(others, others)
    at_once = max(1, min(QUERIES, MEMORY // len(others)))
    for part, rows in checks.chunks("features", units, rows=at_once):
        squared = np.vecdot(rows, rows)[:, None] + sizes - 2.0 * rows @ others.T
        yield part, np.maximum(squared, 0.0)
