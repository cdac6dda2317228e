"""Parts of graphs that hold learned arrays as weights of layers, so that they are stored as weights
and not as code.
"""

import numpy as np
from keras import layers, ops

SMALL = 1e-12


def linear(x, kernel, bias=None, dtype="float32"):
    """x @ kernel + bias as a layer that cannot be trained."""
    kernel = np.asarray(kernel, dtype)
    layer = layers.Dense(kernel.shape[1], use_bias=bias is not None, trainable=False, dtype=dtype)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel] + ([] if bias is None else [np.asarray(bias, dtype)]))
    return layer(x)


def constant(like, values, dtype="float32"):
    """`values` for each example: (n, *values.shape), of as many examples as `like` (n, d) has."""
    values = np.asarray(values, dtype)
    ones = ops.ones_like(like[:, :1], dtype=dtype)
    return ops.reshape(linear(ones, values.reshape(1, -1), dtype=dtype), (-1, *values.shape))


def rows_of(table, places):
    """table[places]: (*places.shape, columns), of a table (rows, columns)."""
    table = np.asarray(table, np.float32)
    layer = layers.Embedding(*table.shape, trainable=False)
    layer.build()
    layer.set_weights([table])
    return layer(places)


def largest(x):
    """Integers (n,): the column with the largest value; of equal ones the first.

    (Keras's argmax looks at bits, for which ONNX and LiteRT have no operation.)
    """
    return ops.top_k(x, 1)[1][:, 0]


def of_class(classes, rows):
    """(n, d): the row of each example's class, of integers (n,)."""
    return linear(ops.one_hot(classes, len(rows)), rows)


def of_predicted(given, rows):
    """(n, d): the row of each example's predicted class."""
    return of_class(largest(given["logits"]), rows)


def length(x):
    """Euclidean norms, (n,)."""
    return ops.sqrt(ops.sum(ops.square(x), axis=-1))


def below_largest(logits):
    """(z - max z, (n, c); exp of it but for the largest, which is 0; their sum, (n, 1)).

    With these 1 - p of a sure network is no difference of two numbers near 1.
    """
    below = logits - ops.max(logits, axis=1, keepdims=True)
    size = ops.exp(below) * (1.0 - ops.one_hot(largest(logits), logits.shape[1]))
    return below, size, ops.sum(size, axis=1, keepdims=True)


def unit_rows(x):
    """Rows of length 1, in the dtype of x; a zero row stays one."""
    norms = ops.sqrt(ops.sum(ops.square(x), axis=1, keepdims=True))
    return x / ops.maximum(norms, SMALL)


def expm1(x):
    """exp(x) - 1 without cancellation, x <= 0, of operations that ONNX and LiteRT have too."""
    half = ops.tanh(x / 2.0)
    return 2.0 * half / (1.0 - half)


def log1p(x):
    """log(1 + x) without cancellation, of operations that ONNX and LiteRT have too."""
    y = x / (2.0 + x)  # near 0 log(1 + x) = 2 artanh(y), of which y^9 is beyond float32
    y2 = ops.square(y)
    near = 2.0 * y * (1.0 + y2 * (1.0 / 3.0 + y2 * (1.0 / 5.0 + y2 / 7.0)))
    return ops.where(ops.abs(x) < 0.2, near, ops.log(1.0 + x))


def float32_from_above(values):
    """The least float32 numbers that are not below float64 `values`: what a float32 is compared
    with, so that the answer is that of float64.
    """
    values = np.asarray(values, np.float64)
    rounded = values.astype(np.float32)
    return np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded)
