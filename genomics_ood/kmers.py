"""A density of DNA reads by counting words: an interpolated Markov model for every class.

    p_k(b | w) = (c(wb) + m p_{k-1}(b | w')) / (c(w) + m)        p_{-1} = 1/4
    log p(x | class) = sum_i log p_k(x_i | x_{i-k} .. x_{i-1})    k = min(i, order), nats
    log p(x) = log mean over classes of p(x | class)

c counts a word in the training reads and in their reverse complements, and c(w) = sum_b c(wb) those
that something follows; w has k bases, w' is w without its oldest one, m is the concentration: how
many observations the lower order is worth. The counts of all orders come from one pass over the
reads. log p(x | class) is naive Bayes's score of a class, and the mean over classes is a density
again.

Reference: Salzberg et al., "Microbial gene identification using interpolated Markov models",
Nucleic Acids Research 1998, for the interpolation, here with the weights of Dirichlet priors
(MacKay and Peto, "A hierarchical Dirichlet language model", 1995); Rosen et al., "Metagenome
fragment classification using N-mer frequency profiles", 2008, for naive Bayes on reads.
"""

import pathlib

import numpy as np
from scipy.special import logsumexp

from ood_suite.files import RunError, atomic_path, load_npz

NUM_BASES = 4
MOST = 11  # the highest order: its table has 4**12 words
READS_AT_ONCE = 512  # their words and log-probabilities stay in the processor's cache


class KmerDensity:
    """Counts of words, and what they say of reads.

    Args:
        counts: integers (classes, 4**(order + 1)), of words of order + 1 bases; the word is the
            index, written in base 4.
        starts: integers (classes, 4**order), of the first `order` bases of each training read.
        concentration: m, positive.

    Raises:
        ValueError: arrays that do not fit together.
    """

    def __init__(self, counts, starts, concentration):
        counts, starts = np.asarray(counts), np.asarray(starts)
        self.order = _order(counts, starts)
        if not concentration > 0.0:
            raise ValueError(f"`concentration` must be positive. Received: {concentration}.")
        self.counts, self.starts, self.concentration = counts, starts, float(concentration)
        logs = [self._logs(own, begun) for own, begun in zip(counts, starts, strict=True)]
        # Classes stand side by side, as many as a power of two, so that one look-up gets them all.
        width = 2 ** int(np.ceil(np.log2(len(logs))))
        self._table = np.zeros((len(logs[0]), width), np.float32)
        self._table[:, : len(logs)] = np.stack(logs, axis=1)
        sizes = [NUM_BASES ** (k + 1) for k in range(self.order)]
        self._offsets = np.cumsum([0, *sizes]).astype(np.int32)  # of each order in the table

    @property
    def classes(self):
        return len(self.counts)

    def _logs(self, counts, starts):
        """float32, log p_k(b | w) of all words of one class, order 0 first."""
        probabilities, parts = np.full(1, 1.0 / NUM_BASES), []
        for words in lower_orders(counts, starts):
            observed = words.reshape(-1, NUM_BASES).astype(np.float64)
            below = np.resize(probabilities, words.shape).reshape(-1, NUM_BASES)  # by w'
            total = observed.sum(axis=1, keepdims=True) + self.concentration
            probabilities = ((observed + self.concentration * below) / total).ravel()
            parts.append(np.log(probabilities).astype(np.float32))
        return np.concatenate(parts)

    def base_log_probs(self, bases, order=None):
        """float32 (n, length, classes), log p(x_i | the bases before, class), nats.

        Args:
            bases: uint8 (n, length), 0..3.
            order: use no more bases than this; None is the model's order.
        """
        return self._table.take(self._places(bases, order), axis=0)[..., : self.classes]

    def parts(self, bases):
        """The reads in parts, of fewer the more classes there are: base_log_probs of one stays
        small, however many reads and classes there are.
        """
        count = max(1, READS_AT_ONCE // self.classes)
        return (bases[start : start + count] for start in range(0, len(bases), count))

    def class_log_probs(self, bases, sizes=None):
        """float64 (n, classes), log p(x | class), nats.

        Args:
            sizes: (n,), how many bases of each row count; None for all.
        """
        found = np.empty((len(bases), self._table.shape[1]), np.float32)
        for start in range(0, len(bases), READS_AT_ONCE):
            rows = slice(start, start + READS_AT_ONCE)
            track = self._table.take(self._places(bases[rows]), axis=0)  # (rows, length, width)
            counted = np.ones((1, track.shape[1]), np.float32)
            if sizes is not None:
                counted = (np.arange(track.shape[1]) < sizes[rows, None]).astype(np.float32)
            found[rows] = np.matmul(counted.reshape(-1, 1, track.shape[1]), track)[:, 0]
        return found[:, : self.classes].astype(np.float64)

    def _places(self, bases, order=None):
        """int32 (n, length): where in the table the word that ends at each base stands."""
        order = self.order if order is None else order
        known = np.minimum(np.arange(bases.shape[1]), order)
        return words(bases, order + 1) + self._offsets[known]

    def save(self, path):
        """Writes an npz atomically, in the smallest integers; never pickle."""
        kind = np.min_scalar_type(max(self.counts.max(), self.starts.max(), 1))
        arrays = {
            "counts": self.counts.astype(kind),
            "starts": self.starts.astype(kind),
            "concentration": np.array(self.concentration),
        }
        with atomic_path(pathlib.Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path):
        """The model of a file; RunError if it holds none."""
        try:
            arrays = load_npz(path)
            return cls(arrays["counts"], arrays["starts"], float(arrays["concentration"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"The model {path} cannot be read ({error}). Delete it and repeat the training "
                "command: counting takes seconds."
            ) from error


def _order(counts, starts):
    """The order of a model with these counts; ValueError if they are of none."""
    classes, width = counts.shape if counts.ndim == 2 else (0, 0)
    order = round(np.log(max(width, 1)) / np.log(NUM_BASES)) - 1
    expected = (classes, NUM_BASES ** (order + 1)), (classes, NUM_BASES**order)
    if (
        not 0 <= order <= MOST
        or not classes
        or (counts.shape, starts.shape) != expected
        or not all(array.dtype.kind in "iu" and array.min() >= 0 for array in (counts, starts))
    ):
        raise ValueError(
            "`counts` and `starts` must be counts of shape (classes, 4**(order + 1)) and (classes, "
            f"4**order), order 0 to {MOST}. Received: {counts.dtype}, shape={counts.shape}, and "
            f"{starts.dtype}, shape={starts.shape}."
        )
    return order


def words(bases, length):
    """int32 (n, L): the `length` bases that end at each position as a number in base 4, its last
    digit the base itself; where fewer stand before, zeros lead. 1 <= length <= 12.

    >>> words(np.array([[1, 0, 3]], np.uint8), 2)
    array([[1, 4, 3]], dtype=int32)
    """
    found, known = bases.astype(np.int32), 1
    while known < length:  # twice as many bases at each step
        more = min(known, length - known)
        longer = found.copy()
        longer[:, more:] &= NUM_BASES**more - 1
        longer[:, more:] |= found[:, :-more] << (2 * more)
        found, known = longer, known + more
    return found


def count(bases, order):
    """(counts, starts) of one class: int64 (4**(order + 1),) and (4**order,), see KmerDensity.

    Args:
        bases: uint8 (n, length), 0..3, longer than `order`; both strands are counted.
    """
    if bases.shape[1] <= order:
        raise ValueError(
            f"Reads must be longer than the order. Received: {bases.shape[1]} bases, order {order}."
        )
    counts = np.zeros(NUM_BASES ** (order + 1), np.int64)
    starts = np.zeros(NUM_BASES**order, np.int64)
    at_once = max(READS_AT_ONCE, len(counts) // bases.shape[1])
    for first in range(0, len(bases), at_once):
        part = bases[first : first + at_once]
        for strand in (part, 3 - part[:, ::-1]):
            counts += np.bincount(
                words(strand, order + 1)[:, order:].ravel(), minlength=counts.size
            )
            begun = words(strand[:, :order], order)[:, -1] if order else np.zeros(len(part), int)
            starts += np.bincount(begun, minlength=starts.size)
    return counts, starts


def lower_orders(counts, starts):
    """Counts of words of 1, 2 .. order + 1 bases, from those of the longest: a word stands behind
    each base that precedes it in a longer one, or begins a read.

    >>> lower_orders(np.arange(16), np.array([1, 0, 0, 0]))[0]  # of A: those of AA CA GA TA, + 1
    array([25, 28, 32, 36])
    """
    found = [counts]
    while len(found[-1]) > NUM_BASES:
        found.append(found[-1].reshape(NUM_BASES, -1).sum(axis=0) + starts)
        starts = starts.reshape(-1, NUM_BASES).sum(axis=1)
    return found[::-1]


def mixture(class_log_probs):
    """log mean over classes of p(x | class), along the last axis: nats of the whole density.

    >>> mixture(np.log([[0.5, 0.25]])).round(4) == np.log(0.375).round(4)
    array([ True])
    """
    return logsumexp(class_log_probs, axis=-1) - np.log(class_log_probs.shape[-1])


def base_track(base_log_probs):
    """float64 (n, length), log p(x_i | the bases before) of the whole density: by how much each
    base changes the mixture. The sum along a read is its log p(x).

    Args:
        base_log_probs: (n, length, classes), see KmerDensity.base_log_probs.
    """
    known = mixture(np.cumsum(base_log_probs, axis=1, dtype=np.float64))
    return np.diff(known, axis=1, prepend=0.0)
