"""What every score of a classifier does with its arguments: refuse bad ones, walk over large ones.

Arrays may be memory maps larger than memory: nothing here but `logits_matrix` copies a whole one.
`chunks` gives a few hundred or thousand rows at a time as float64, and `each` scores such blocks.
"""

import contextvars
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from ood_suite import processors

# Of float64 rows at a time: what is made of them stays in the cache, and is small enough for the C
# library to hand the same memory out again (some scores take five times as long with 2 MiB).
CHUNK_BYTES = 2**19
WIDE, WIDE_ROWS, WIDE_BYTES = 512, 256, 2**22  # columns from which on a chunk has so many rows
# Of products of rows with themselves: fewer, and reading and writing the d x d result outweighs.
MOMENT_ROWS, MOMENT_BYTES = 2048, 2**26
COLUMN_BYTES = 2**27  # of whole float32 columns at a time
FEW_CLASSES = 32  # that are scored column by column
MANY = 2**23  # logits from which on threads share the blocks; before, waking them is too slow
FIRST_ROWS = 1000  # of logits that are looked at for probabilities


class UnitRows:
    """A matrix whose rows are divided by their Euclidean length when they are asked for, so that
    nothing is copied. A row of zeros stays one.
    """

    ndim, dtype = 2, np.dtype(np.float64)

    def __init__(self, name, values):
        self.values = matrix(name, values, what="features")
        self.shape, self.size = self.values.shape, self.values.size

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        found = np.asarray(self.values[rows], np.float64)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def matrix(name, values, width=None, what="columns"):
    """`values` (n, k) as it came, as an array; ValueError for another shape.

    Args:
        width: the k that was seen at fit.
    """
    values = values if isinstance(values, UnitRows) else np.asanyarray(values)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"`{name}` must be numbers of shape (n, {what}). Received: {values.dtype}, "
            f"shape={values.shape}."
        )
    if width is not None and values.shape[1] != width:
        raise ValueError(
            f"`{name}` must have {width} {what}, as at fit. Received: {values.shape[1]}. Were they "
            "extracted from the same layer of the same model?"
        )
    return values


def logits_matrix(logits, width=None):
    """Logits as float64 (n, classes), finite; warns if they look like probabilities."""
    return finite("logits", np.asarray(raw_logits(logits, width), np.float64))


def raw_logits(logits, width=None):
    """Logits (n, classes) as they came, for `rows_of`; warns if they look like probabilities."""
    logits = matrix("logits", logits, width, "classes")
    first = np.asarray(logits[:FIRST_ROWS])
    if first.shape[1] > 1 and len(first) and first.min() >= 0.0:
        if np.allclose(first.sum(axis=1, dtype=np.float64), 1.0, atol=1e-4):
            warnings.warn(
                "`logits` look like probabilities: rows sum to 1. Scores want the values before "
                "the softmax.",
                stacklevel=3,
            )
    return logits


def each_logits(logits, function, width=None, exact=None, *, products=False):
    """float64 (n,): function(rows) of logits, block by block, as float64 unless `exact` is given;
    warns as logits_matrix. Few classes are given column by column (order "F"), along which NumPy
    reduces twenty times as fast.

    Args:
        exact: float32 logits are given as they are, and results below this in magnitude (or not
            finite) computed again of float64 ones. (Few processors have vector instructions for
            exponentials of float64.) None: float64 always.
        products: of matrices are in the function: for these BLAS has its threads.
    """
    logits = raw_logits(logits, width)
    order: Literal["C", "F"] = "F" if logits.shape[1] <= FEW_CLASSES else "C"
    single = exact is not None and logits.dtype == np.float32

    def score(part, rows):
        if not single:
            return function(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            found = function(rows)
            again = np.flatnonzero(~((np.abs(found) >= exact) & (np.abs(found) < np.inf)))
        if again.size:
            found[again] = function(np.asarray(rows[again], np.float64, order=order))
        return found

    # NumPy releases Python's lock. (Of few classes the blocks are too short for that to pay.)
    shared = order == "C" and logits.size >= MANY and not products
    threads, dtype = processors.threads() if shared else 1, np.float32 if single else np.float64
    return each("logits", logits, score, order=order, dtype=dtype, threads=threads)


def finite(name, values):
    # A sum of squares is finite unless a value is not (or it overflows itself): one fast pass.
    flat = values.ravel("K")
    if not np.isfinite(np.vdot(flat, flat)) and not np.isfinite(values).all():
        raise ValueError(f"`{name}` has values that are NaN or infinite.")
    return values


def above(name, value, bound):
    if not value > bound:
        raise ValueError(f"`{name}` must be more than {bound}. Received: {value}.")


def within(name, value, low, high, ends="[]"):
    """`value`, which must lie between two bounds; of "[)" the first counts and the second not."""
    reaches = value >= low if ends[0] == "[" else value > low
    if not reaches or not (value <= high if ends[1] == "]" else value < high):
        interval = f"{ends[0]}{low:g}, {high:g}{ends[1]}"
        raise ValueError(f"`{name}` must lie in {interval}. Received: {value}.")
    return value


def same_length(features, logits):
    if len(features) != len(logits):
        raise ValueError(f"There are {len(features)} features and {len(logits)} logits.")


def chunks(name, values, beside=0, rows=0):
    """Yields (slice, float64 rows) over all rows of a matrix, each chunk checked to be finite.

    Args:
        beside: columns of what the caller makes of a row, if those are more. rows: of a chunk, in
            place of as many as CHUNK_BYTES hold.
    """
    for part in _parts(values, beside, rows):
        yield part, rows_of(name, values, part)


def rows_of(name, values, part, order="C", dtype=np.float64):
    """Some rows of a matrix, which must be finite."""
    return np.asarray(finite(name, np.asarray(values[part])), dtype, order=order)


def _parts(values, beside, rows=0):
    width = max(values.shape[1], beside)
    fitting = CHUNK_BYTES // (8 * width)
    if width >= WIDE:  # or what a score does once a block would outweigh its few rows
        fitting = min(WIDE_ROWS, WIDE_BYTES // (8 * width))
    rows = rows or max(1, fitting)
    return [slice(start, start + rows) for start in range(0, len(values), rows)]


def each(name, values, function, beside=0, order="C", rows=0, *, dtype=np.float64, threads=1):
    """float64 (n,): function(slice, rows of `dtype`) -> (rows,) of each chunk, see chunks.

    Args:
        threads: that take turns at the chunks; after an error no further one is begun.
    """
    found = np.empty(len(values))
    parts = _parts(values, beside, rows)

    def score(part):
        found[part] = function(part, rows_of(name, values, part, order, dtype))

    if threads == 1:
        for part in parts:
            score(part)
        return found
    context = contextvars.copy_context()  # with the caller's np.errstate
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: context.copy().run(score, part), parts))
    return found


def second_moment(name, values, change, width=None):
    """float64 (width, width): sum of X^T X, X = change(slice, float64 rows), over all rows of a
    matrix. (NumPy computes half of such a product. SciPy's BLAS has threads of its own, which
    wait busily for a while and take NumPy's cores.)
    """
    width = width or values.shape[1]
    total = np.zeros((width, width))
    fitting = MOMENT_BYTES // (8 * max(width, values.shape[1]))
    rows = max(1, min(MOMENT_ROWS, fitting))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        block = change(part, rows_of(name, values, part))
        total += block.T @ block
    return total


def class_labels(labels, count, num_classes=None):
    """int64 labels (n,) of `count` examples, and the number of classes; every class must occur.

    Raises:
        ValueError: a wrong shape or type, a label outside 0..classes - 1, or an empty class.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`labels` must be integers of shape ({count},). Received: {labels.dtype}, "
            f"shape={labels.shape}."
        )
    if count == 0:
        raise ValueError("A score cannot be fitted to no examples.")
    labels = labels.astype(np.int64)
    found = int(labels.max()) + 1
    if labels.min() < 0 or (num_classes is not None and found > num_classes):
        raise ValueError(
            f"`labels` must lie in 0..{(num_classes or found) - 1}. Received: {labels.min()} to "
            f"{labels.max()}."
        )
    num_classes = num_classes or found
    empty = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if empty.size:
        raise ValueError(
            f"Every class must have examples at fit. Class {empty[0]} has none "
            f"({empty.size} of {num_classes} classes are empty)."
        )
    return labels, num_classes


def head(features, head_kernel, head_bias=None):
    """(kernel, bias) as float64 (d, classes), (classes,); ValueError if they do not fit."""
    kernel = finite("head_kernel", np.asarray(head_kernel, np.float64))
    if kernel.ndim != 2 or kernel.shape[0] != features.shape[1]:
        raise ValueError(
            f"`head_kernel` must have shape ({features.shape[1]}, classes), as the features have "
            f"{features.shape[1]} columns. Received: shape={kernel.shape}."
        )
    bias = np.zeros(kernel.shape[1]) if head_bias is None else np.asarray(head_bias, np.float64)
    if bias.shape != kernel.shape[1:]:
        raise ValueError(
            f"`head_bias` must have shape ({kernel.shape[1]},). Received: shape={bias.shape}."
        )
    return kernel, finite("head_bias", bias)


def same_classes(logits, head_kernel):
    if logits.shape[1] != head_kernel.shape[1]:
        raise ValueError(
            f"`logits` have {logits.shape[1]} classes and the head has {head_kernel.shape[1]}."
        )


def column_means(features):
    """float64 (d,): the mean of each column, in one pass."""
    if not len(features):
        raise ValueError("A mean cannot be fitted to no examples.")
    return sum(rows.sum(axis=0) for _, rows in chunks("features", features)) / len(features)


def class_sums(features, labels, num_classes):
    """float64 (classes, d): the sum over each class's examples, in one pass."""
    sums = np.zeros((num_classes, features.shape[1]))
    for part, rows in chunks("features", features):
        add_by_class(sums, rows, labels[part])
    return sums


def add_by_class(sums, rows, labels):
    """Adds each row to that of its class in `sums` (classes, d)."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sums[labels[order][starts]] += np.add.reduceat(rows[order], starts)


def class_means(features, labels, num_classes):
    """float64 (classes, d): the mean of each class, in one pass."""
    counts = np.bincount(labels, minlength=num_classes)
    return class_sums(features, labels, num_classes) / counts[:, None]


def correct_means(features, labels, logits):
    """(means, correct): float64 (classes, d), the mean of each class's correctly classified
    examples, and bool (n,), which those are; a class without any is a ValueError.
    """
    same_length(features, logits)
    classes, correct = logits.shape[1], np.empty(len(logits), bool)
    for part, rows in chunks("logits", logits):
        correct[part] = rows.argmax(axis=1) == labels[part]
    counts = np.bincount(labels[correct], minlength=classes)
    if not counts.all():
        raise ValueError(f"Class {counts.argmin()} has no correctly classified example to fit.")
    wrong_apart = np.where(correct, labels, classes)  # the wrong ones are a class of their own
    sums = class_sums(features, wrong_apart, classes + 1)
    return sums[:classes] / counts[:, None], correct


def quantile(features, share):
    """The `share`-quantile of all values of a matrix, linearly interpolated as np.quantile does it.

    Exact, in two passes over the data and a few MiB: a histogram of the upper 16 bits of the
    float32 values finds the bins of the two order statistics, a histogram of the lower 16 bits
    finds them.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"A percentile must lie in 0..100. Received: {100 * share}.")
    if not features.size:
        raise ValueError("A quantile of no examples is not defined.")
    position = share * (features.size - 1)
    wanted = [int(np.floor(position)), int(np.ceil(position))]
    low, high = _order_statistics(features, wanted)
    return float(low + (position - wanted[0]) * (high - low))


def column_quantiles(features, share):
    """(d,): the `share`-quantile of each column, interpolated as np.quantile does it.

    Exact. Columns are sorted whole, as many at a time as COLUMN_BYTES hold: a pass over the data
    for each such block, one for 50000 rows of 342.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"A percentile must lie in 0..100. Received: {100 * share}.")
    count, width = features.shape
    if not count:
        raise ValueError("A quantile of no examples is not defined.")
    position = share * (count - 1)
    low, high = int(np.floor(position)), int(np.ceil(position))
    step = max(1, COLUMN_BYTES // (4 * count))
    found = np.empty(width)
    for start in range(0, width, step):
        block = np.empty((count, min(step, width - start)), np.float32)
        for part, rows in chunks("features", features):
            block[part] = rows[:, start : start + step]
        block.partition(sorted({low, high}), axis=0)
        below, above_it = block[low].astype(np.float64), block[high].astype(np.float64)
        found[start : start + step] = below + (position - low) * (above_it - below)
    return found


def _order_statistics(features, ranks):
    upper = np.zeros(2**16, np.int64)
    for keys in _sortable(features):
        upper += np.bincount(keys >> 16, minlength=2**16)
    below = np.cumsum(upper)
    bins = [int(np.searchsorted(below, rank, "right")) for rank in ranks]
    lower = {b: np.zeros(2**16, np.int64) for b in bins}
    for keys in _sortable(features):
        for b, histogram in lower.items():
            inside = keys[keys >> 16 == b]
            histogram += np.bincount(inside & 0xFFFF, minlength=2**16)
    found = []
    for rank, b in zip(ranks, bins, strict=True):
        within = rank - (below[b] - upper[b])
        key = (b << 16) | int(np.searchsorted(np.cumsum(lower[b]), within, "right"))
        bits = key ^ 0x80000000 if key >= 0x80000000 else key ^ 0xFFFFFFFF
        found.append(float(np.array(bits, np.uint32).view(np.float32)))
    return found


def _sortable(features):
    """Yields the values as uint32 (k,) whose order is that of the float32 values."""
    for _, rows in chunks("features", features):
        bits = rows.astype(np.float32).ravel().view(np.uint32)
        yield np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
