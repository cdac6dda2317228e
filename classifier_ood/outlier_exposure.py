"""Auxiliary outliers in training: where their images come from, which ones an epoch shows, and the
batches that join them to ID images.

What an epoch shows is a function of seed and epoch (and, under POEM, of the weights at its start),
so that an interrupted training continues bit-identically and no pool of crops is kept in memory.
"""

import math

import numpy as np

from classifier_ood.trainer import PAD
from ood_suite import data, training
from ood_suite.data.streams import TfdsImages
from ood_suite.data.transforms import to_shape

MAX_TFDS_BYTES = 2**32  # TFDS has no access by index: such a set is read into memory


class Outliers:
    """Auxiliary images of which every epoch sees fresh crops, as uint8 of the ID images' shape.

    A crop is taken out of the image with PAD zeros around it, and flipped with probability one
    half. Images larger than the ID images give patches (so ImageNet at 64x64 is used), smaller ones
    are scaled up first. The released code draws its crops once and repeats them in all epochs.

    Args:
        source: data.ImageSet. image_shape: (height, width, channels) of the ID images.
        seed: of the crops.
    """

    def __init__(self, source, image_shape, seed):
        self.source, self.images, self.shape = source, source.images, tuple(image_shape)
        self.seed, self._drawn = seed, (None, None)
        if isinstance(self.images, TfdsImages):
            if math.prod(self.images.shape) > MAX_TFDS_BYTES:
                raise ValueError(
                    f"{source.name} is too large to be read into memory from TFDS "
                    f"({self.images.shape}): write it as an uncompressed npz, or as a folder."
                )
            self.images = self.images[:]

    def __len__(self):
        return len(self.images)

    def crops(self, epoch, rows):
        """uint8 (len(rows), height, width, channels): this epoch's crops of these images."""
        height, width, channels = self.shape
        tall, wide = self.images.shape[1:3]
        whole = (tall, wide) if tall >= height and wide >= width else (height, width)
        images, _ = to_shape(np.asarray(self.images[rows]), (*whole, channels))
        padded = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
        tops, lefts, flips = (draw[rows] for draw in self._draws(epoch))
        down = (tops * (whole[0] - height + 2 * PAD + 1)).astype(int)[:, None] + np.arange(height)
        across = (lefts * (whole[1] - width + 2 * PAD + 1)).astype(int)[:, None] + np.arange(width)
        across = np.where(flips[:, None] < 0.5, across[:, ::-1], across)
        example = np.arange(len(rows))[:, None, None]
        return padded[example, down[:, :, None], across[:, None, :]]

    def _draws(self, epoch):
        """Three arrays (images,), uniform on [0, 1): top, left and flip of each image's crop."""
        if self._drawn[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 1])
            self._drawn = epoch, rng.random((3, len(self)), dtype=np.float32)
        return self._drawn[1]


def load(name, data_dir, image_shape, seed):
    """Outliers of a data set: its training split, or, if it has none, all there is."""
    for split in ("train", "test"):
        try:
            return Outliers(data.load(name, split, data_dir, image_shape), image_shape, seed)
        except FileNotFoundError as error:
            missing = error
    raise missing


def at_random(outliers, count, seed):
    """function(epoch) -> rows (count,): all images in random order, again and again."""

    def rows(epoch):
        rng = np.random.default_rng([seed, epoch, 2])
        rounds = -(-count // len(outliers))
        return np.concatenate([rng.permutation(len(outliers)) for _ in range(rounds)])[:count]

    return rows


def joined_batches(id_set, outliers, batch_size, outlier_batch, seed, rows, per_epoch, step):
    """Batches (images, labels) from `step` to the end of the last epoch in `rows`: `batch_size` ID
    examples, then `outlier_batch` outliers, whose label is -1.

    The released code multiplies the batch size by the float `ood_factor`, which stops at once.

    Args:
        rows: {epoch: rows of the outliers that it shows}. per_epoch: steps.
    """
    own = training.batches([id_set.images], batch_size, seed, step, id_set.labels)
    unlabelled = np.full(outlier_batch, -1, np.int32)
    for step in range(step, (max(rows) + 1) * per_epoch):
        images, labels = next(own)
        epoch, place = divmod(step, per_epoch)
        shown = rows[epoch][place * outlier_batch : (place + 1) * outlier_batch]
        both = np.concatenate([images, outliers.crops(epoch, shown)])
        yield both, np.concatenate([labels, unlabelled])
