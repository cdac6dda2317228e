"""Images drawn from a trained PixelCNN++.

A pixel depends on those before it, so images are drawn pixel by pixel. What the network computes
for the rows above does not change any more: a layer whose kernel reads two rows keeps its input
of the row before, and only the row of the pixel is computed, as one row of an image.
"""

import keras
import numpy as np
from keras import ops

from images_ood import logistic_mixture
from images_ood.pixelcnn import Builder, connect
from ood_suite.files import RunError
from ood_suite.optional import optional
from ood_suite.progress import progress


class OneRow(Builder):
    """Connects the layers that a model has to one row of its images.

    Args:
        model: PixelCNN with num_hierarchies=1.
        before: `now` of the row above; None: zeros, as above the first.

    Attributes:
        now: what the next row will need of this one, a tensor (batch, 1, width, channels) for each
            layer that reads two rows; complete when the whole row of pixels was given.
    """

    def __init__(self, model, before=None):
        super().__init__(model.options | {"dropout_p": 0.0}, model.dtype_policy)
        self.layers = iter(model.builder.made)
        self.before = before
        self.now = []

    def conv(self, kernel_size, filters=None, strides=1, dtype=None):
        layer = next(self.layers)
        if kernel_size[0] == 1:
            return layer
        # Turned, the row above lies behind; what the second row gives is not used.
        return lambda x: layer(ops.concatenate([x, self._above(x)], axis=1))[:, :1]

    def dense(self, units):
        return next(self.layers)

    def shift(self, x, rows=0, columns=0):
        return super().shift(self._above(x) if rows else x, columns=columns)

    def _above(self, x):
        self.now.append(x)
        return ops.zeros_like(x) if self.before is None else self.before[len(self.now) - 1]


def row_mixture(model, row, before=None, labels=None):
    """MixtureParameters of one row of pixels given those before them, and what the next row needs.

    Args:
        model: PixelCNN with num_hierarchies=1.
        row: (batch, 1, width, channels), pixels 0..255; a pixel's parameters do not depend on
            itself and those after it.
        before: what this function gave with the row above, None for the first row.
        labels: (batch,) for a class-conditional model.

    Raises:
        ValueError: a model with num_hierarchies above 1, whose rows are of several sizes.
    """
    if model.options["num_hierarchies"] > 1:
        raise ValueError(
            f"`row_mixture` needs num_hierarchies=1. Received: {model.options['num_hierarchies']}."
        )
    builder = OneRow(model, before)
    raw = connect(builder, model.scaled(ops.cast(row, "float32")), labels)
    return model.split(raw), builder.now


def draw(model, count, seed, labels=None):
    """Samples images pixel by pixel, all images at once.

    Args:
        model: PixelCNN. With num_hierarchies=1 each pixel costs a pass over one row; with more,
            where rows are of several sizes, one over the whole image.
        count: number of images. seed: int. labels: (count,) for a class-conditional model.

    Returns:
        uint8 (count, height, width, channels).
    """
    if keras.backend.backend() != "tensorflow":  # TensorFlow Probability draws the pixels
        raise RunError("Sampling needs TensorFlow: repeat with KERAS_BACKEND=tensorflow.")
    if labels is not None:
        labels = np.asarray(labels, np.int32)
    by_rows = model.options["num_hierarchies"] == 1
    return (_by_rows if by_rows else by_images)(model, count, seed, labels)


def by_images(model, count, seed, labels=None):
    """As `draw`, by passes over whole images: for several sizes of rows, and for comparison."""
    tf = optional("tensorflow")
    height, width, _ = model.options["image_shape"]
    images = np.zeros((count, *model.options["image_shape"]), np.float32)

    @tf.function(reduce_retracing=True)
    def propose(images, stateless_seed):
        mixture = model.mixture(images, labels)
        return logistic_mixture.distribution(mixture).sample(seed=stateless_seed)

    with progress(total=height * width, desc="sampling", unit="pixel") as bar:
        for pixel in range(height * width):
            row, column = divmod(pixel, width)
            proposal = propose(tf.constant(images), tf.constant([seed, pixel]))
            images[:, row, column] = proposal[:, row, column]
            bar.update()
    return images.astype(np.uint8)


def _by_rows(model, count, seed, labels):
    tf = optional("tensorflow")
    height, width, channels = model.options["image_shape"]

    def draw_pixel(column, row, row_seed, before):
        mixture, _ = row_mixture(model, row, before, labels)
        here = [  # in shapes that are known, which the distribution wants
            tf.reshape(parameters[:, :, column], (count, 1, 1, *parameters.shape[3:]))
            for parameters in mixture[:-1]
        ]
        here = logistic_mixture.MixtureParameters(*here, mixture.center)
        pixel = logistic_mixture.distribution(here).sample(seed=tf.stack([row_seed, column]))
        return tf.where(tf.reshape(tf.range(width) == column, (1, 1, -1, 1)), pixel, row)

    @tf.function(autograph=False)
    def draw_row(row_seed, before):
        _, row = tf.while_loop(
            lambda column, _: column < width,
            lambda column, row: (column + 1, draw_pixel(column, row, row_seed, before)),
            (0, tf.zeros((count, 1, width, channels))),
        )
        return row, row_mixture(model, row, before, labels)[1]

    # No row is above the first: zeros, in the shapes that a row of anything shows.
    _, shapes = row_mixture(model, tf.zeros((count, 1, width, channels)), labels=labels)
    before, rows = [tf.zeros_like(x) for x in shapes], []
    seeds = np.random.default_rng(seed).integers(2**31, size=height, dtype=np.int32)
    for row_seed in progress(seeds, desc="sampling", unit="row"):
        row, before = draw_row(tf.constant(row_seed), before)
        rows.append(row.numpy())
    return np.concatenate(rows, axis=1).astype(np.uint8)
