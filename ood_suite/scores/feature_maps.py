"""Scores that look at feature maps before they are pooled: RankFeat and Gram matrices.

Maps are large, so extraction reduces them at once, by the functions `rank_one` and `gram_sums`
here, and the scores work with what these leave. Only runs that are asked for it pay.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
from scipy.special import softmax

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner
from ood_suite.scores.logits import energy

POWERS = range(1, 11)  # the authors'
SQUARINGS = 20  # separates singular values that differ by more than 1e-5 of the first
FLOOR, MEAN_FLOOR = 1e-6, 1e-7  # of the bounds and of the mean deviations, in the authors' code


def rank_one(maps: Array) -> Array:
    """Mean over positions of s1 u1 v1^T, the first singular component of each map.

    With A (positions, channels) and u the first eigenvector of A A^T, the component is u u^T A; of
    the smaller of A A^T and A^T A, by which side is shorter.

    Args:
        maps: (n, ..., channels), any number of dimensions of positions.

    Returns:
        float32 (n, channels).

    >>> rank_one(np.array([[[3.0, 0.0], [0.0, 1.0]]]))
    array([[1.5, 0. ]], dtype=float32)
    """
    found = np.empty((len(maps), maps.shape[-1]), np.float32)
    for part, a in _flat(maps):
        if a.shape[1] <= a.shape[2]:
            u = _first_eigenvectors(a @ a.transpose(0, 2, 1))
            found[part] = u.mean(axis=1, keepdims=True) * np.einsum("np,npc->nc", u, a)
        else:
            v = _first_eigenvectors(a.transpose(0, 2, 1) @ a)
            found[part] = (a.mean(axis=1) * v).sum(axis=1, keepdims=True) * v
    return found


def _first_eigenvectors(matrices):
    """Unit vectors (n, k) of positive semidefinite matrices (n, k, k), 0 of a matrix of zeros.

    The power of 2^SQUARINGS leaves the first alone. `eigh` finds all k, which takes ten to a
    hundred times as long on small matrices and busy cores.
    """
    for _ in range(SQUARINGS):
        trace = np.trace(matrices, axis1=1, axis2=2)[:, None, None]
        matrices = matrices / np.where(trace > 0.0, trace, 1.0)
        matrices = matrices @ matrices
    longest = np.diagonal(matrices, axis1=1, axis2=2).argmax(axis=1)
    columns = matrices[np.arange(len(matrices)), longest]
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    return columns / np.where(lengths > 0.0, lengths, 1.0)


def gram_sums(maps: Array) -> Array:
    """Row sums of the Gram matrices of all POWERS: sign(g) |g|^(1/p), with g = sum_j (F^p F^p^T)_ij
    and F (channels, positions), the power elementwise.

    No matrix is made: g_i is the sum over positions of F_i^p sum_j F_j^p.

    Args:
        maps: (n, ..., channels), or (n, channels) as one position.

    Returns:
        float32 (n, 10 * channels): the channels at p = 1, then at p = 2, ...

    >>> gram_sums(np.array([[[3.0, 1.0]]]))[0, [0, 1, 2, 3]].round(3)
    array([12.   ,  4.   ,  9.487,  3.162], dtype=float32)
    """
    width = maps.shape[-1]
    found = np.empty((len(maps), len(POWERS) * width), np.float32)
    for part, values in _flat(maps):
        powered = np.ones_like(values)
        for number, p in enumerate(POWERS):
            powered *= values
            sums = np.einsum("npc,np->nc", powered, powered.sum(axis=2))
            rooted = np.sign(sums) * np.abs(sums) ** (1.0 / p)
            found[part, number * width : (number + 1) * width] = rooted
    return found


def _flat(maps):
    """Yields (slice, float64 (rows, positions, channels)) over all maps."""
    rows = max(1, checks.CHUNK_BYTES // (8 * max(1, int(np.prod(maps.shape[1:])))))
    for start in range(0, len(maps), rows):
        part = slice(start, start + rows)
        values = np.asarray(maps[part], np.float64)
        yield part, values.reshape(len(values), -1, maps.shape[-1])


def rankfeat(
    features: Array, rank_one: Array, head_kernel: Array, head_bias: Array, temperature: float = 1.0
) -> Array:
    """-T * log sum exp(z / T), with z = W^T (x - r) + b and r the pooled s1 u1 v1^T of the map that
    is averaged into the features x.

    Averaging is linear, so that the mean of the map without its first singular component is x - r:
    4 bytes a feature and image are kept in place of the map.

    Args:
        features, rank_one: (n, d). head_kernel: (d, classes). head_bias: (classes,).

    Defaults: T = 1, the authors'.

    Fails: on networks without global average pooling before their head, which are refused, and
        where one component is nearly all of the map, as of small maps after ReLU: 0.625 on our
        CIFAR-10 DenseNet, the energy 0.909 (benchmarks/RESULTS.md). Where the first two singular
        values are equal the component is arbitrary.

    Deviations: the paper and its code also take the map after block 3, run block 4 on what is left
        of it, and average both logits. That needs to know where a network's blocks part and a
        second forward pass; it is left out. The authors' code for a BiT takes the map before the
        last normalisation and ReLU; here it is the one that is pooled, as in their torchvision
        networks and OpenOOD's ResNets.

    Reference: Song, Sebe, Wang, "RankFeat: Rank-1 Feature Removal for Out-of-distribution
        Detection", NeurIPS 2022, section 2.

    >>> rankfeat([[1.0, 2.0]], [[1.0, 0.0]], np.eye(2), np.zeros(2)).round(4)
    array([-2.1269])
    """
    checks.above("temperature", temperature, 0.0)
    features = checks.matrix("features", features, what="features")
    removed = checks.matrix("rank_one", rank_one, features.shape[1], "features")
    kernel, bias = checks.head(features, head_kernel, head_bias)
    if len(removed) != len(features):
        raise ValueError(f"There are {len(features)} features and {len(removed)} of `rank_one`.")

    def score(part, rows):
        left = rows - checks.rows_of("rank_one", removed, part)
        return energy(left @ kernel + bias, temperature)

    return checks.each("features", features, score, beside=kernel.shape[1])


class Gram(Learner):
    """sum_l D_l / mean D_l, with D_l how far a layer's Gram matrices lie beyond all that was seen
    of the predicted class in training.

    With g the row sums of the Gram matrices of the powers 1 to 10 in layer l (see `gram_sums`), c
    the predicted class and m, M the least and largest g of training examples predicted as c:

        D_l = sum_i (max(m_i - g_i, 0) / |m_i + 1e-6| + max(g_i - M_i, 0) / |M_i + 1e-6|)
              / max_c softmax(z)_c

    The mean D_l is that of held-out ID examples, plus 1e-7. Extraction keeps 40 bytes an image and
    channel, 0.7 GB for 50000 images and a layer of 342 channels. A class that is never predicted in
    training has the bounds of all classes together.

    Attributes:
        layers_: names of the layers, sorted. widths_: (layers,), of their row sums.
        low_, high_: float64 (classes, sum of widths), m and M of all layers.
        mean_: float64 (layers,).

    Defaults: powers 1 to 10, the authors'; OpenOOD has 1 to 5.

    Fails: on small training sets, whose bounds are narrow, and with the last layers alone. A
        channel that is 0 in all training examples of a class makes a deviation of a million.

    Deviations: the paper takes all entries of a Gram matrix; its code, its row sums, which are
        those here. The code has all layers, here those of --inner_layers. It divides by the mean of
        a tenth of the test set; here held-out data. OpenOOD takes bounds by label, not by
        prediction, and divides by means of a tenth of the training data.

    Reference: Sastry, Oore, "Detecting Out-of-Distribution Examples with Gram Matrices", ICML 2020,
        section 3.
    """

    LEARNED = {"layers_": 1, "widths_": 1, "low_": 2, "high_": 2, "mean_": 1}

    def fit(self, gram_sums: Mapping[str, Array], logits: Array) -> Self:
        """Learns the bounds from training data {layer: (n, k)} and logits (n, classes)."""
        self.layers_ = np.array(sorted(gram_sums))
        logits = checks.matrix("logits", logits, what="classes")
        if not len(logits) or not len(self.layers_):
            raise ValueError("Bounds cannot be learned from no examples or no layers.")
        predicted, bounds = np.argmax(logits, axis=1), []
        for name in self.layers_:
            sums = checks.matrix(f"gram_sums/{name}", gram_sums[name])
            checks.same_length(sums, logits)
            bounds.append(_bounds(sums, predicted, logits.shape[1]))
        self.widths_ = np.array([low.shape[1] for low, _ in bounds])
        self.low_, self.high_ = (np.concatenate(side, axis=1) for side in zip(*bounds, strict=True))
        return self

    def fit_held_out(self, gram_sums: Mapping[str, Array], logits: Array) -> Self:
        """Learns the mean deviation of each layer from held-out ID examples."""
        self.mean_ = self._deviations(gram_sums, logits).mean(axis=0) + MEAN_FLOOR
        return self

    def _deviations(self, gram_sums, logits):
        """float64 (n, layers)."""
        logits = checks.logits_matrix(logits, len(self.low_))
        predicted, confidence = logits.argmax(axis=1), softmax(logits, axis=1).max(axis=1)
        found = np.empty((len(logits), len(self.layers_)))
        ends = np.cumsum(self.widths_)
        for column, (name, stop) in enumerate(zip(self.layers_, ends, strict=True)):
            if name not in gram_sums:
                raise ValueError(f"gram needs the layer {name}. Received: {sorted(gram_sums)}.")
            width = int(self.widths_[column])
            low, high = (side[:, stop - width : stop] for side in (self.low_, self.high_))
            sums = checks.matrix(f"gram_sums/{name}", gram_sums[name], width)
            checks.same_length(sums, logits)
            for part, rows in checks.chunks(f"gram_sums/{name}", sums):
                m, most = low[predicted[part]], high[predicted[part]]
                below = np.maximum(m - rows, 0.0) / np.abs(m + FLOOR)
                above = np.maximum(rows - most, 0.0) / np.abs(most + FLOOR)
                found[part, column] = (below + above).sum(axis=1)
        return found / confidence[:, None]

    def score(self, gram_sums: Mapping[str, Array], logits: Array) -> Array:
        """float64 (n,), 0 or more."""
        return (self._deviations(gram_sums, logits) / self.mean_).sum(axis=1)


def _bounds(sums, predicted, classes):
    """(least, largest) of each column and class, float64 (classes, k)."""
    low = np.full((classes, sums.shape[1]), np.inf)
    high = -low
    for part, rows in checks.chunks("gram_sums", sums):
        for c in np.unique(predicted[part]):
            own = rows[predicted[part] == c]
            low[c] = np.minimum(low[c], own.min(axis=0))
            high[c] = np.maximum(high[c], own.max(axis=0))
    absent = np.bincount(predicted, minlength=classes) == 0
    low[absent], high[absent] = low.min(axis=0), high.max(axis=0)
    return low, high
