"""Auxiliary outliers in training: where their images come from, which ones an epoch shows, and the
batches that join them to ID images.

What an epoch shows is a function of seed and epoch (and, under POEM, of the weights at its start),
so that an interrupted training continues bit-identically and no pool of crops is kept in memory.
"""

import functools
import math

import numpy as np
from absl import logging

from classifier_ood.classifier_model import PAD
from ood_suite import data
from ood_suite.data.streams import TfdsImages
from ood_suite.data.transforms import to_shape
from ood_suite.data.views import BYTES_AT_ONCE
from ood_suite.files import example_hashes
from ood_suite.progress import progress
from ood_suite.training import fit

MAX_TFDS_BYTES = 2**32  # TFDS has no access by index: such a set is read into memory


class Outliers:
    """Auxiliary images of which every epoch sees fresh crops, as uint8 of the ID images' shape.

    A crop is taken out of the image with PAD zeros around it, and flipped with probability one
    half. Images of npz files and TFDS that are larger than the ID images give patches (so ImageNet
    at 64x64 is used), smaller ones are scaled up first; files of a folder are scaled to the ID
    images' size. The released code draws its crops once and repeats them in all epochs.

    Args:
        source: data.ImageSet. image_shape: (height, width, channels) of the ID images.
        seed: of the crops.

    Attributes:
        rows: numbers of the images that are used.
    """

    def __init__(self, source, image_shape, seed):
        self.source, self.images, self.shape = source, source.images, tuple(image_shape)
        self.seed, self._drawn = seed, (None, None)
        if isinstance(self.images, TfdsImages):
            if math.prod(self.images.shape) > MAX_TFDS_BYTES:
                raise ValueError(
                    f"{source.name} is too large to be read into memory from TFDS "
                    f"({self.images.shape}): write it as an uncompressed npz."
                )
            self.images = self.images[:]
        self.rows = np.arange(len(self.images))

    def __len__(self):
        return len(self.rows)

    def leave_out(self, other):
        """Takes out the images that `other`, a data.ImageSet, has too; of files all are read for
        it. Images of another size are not compared. ValueError if that leaves none.
        """
        self.rows = np.setdiff1d(self.rows, np.flatnonzero(self.shared_with(other)))
        if not len(self.rows):
            raise ValueError(
                f"All {len(self.images)} outliers of {self.source.name} are in {other.name} "
                f"({other.split}), which is ID data or a test set."
            )

    def shared_with(self, other):
        """bool (images,): which of the images another data.ImageSet has too, byte for byte; none if
        its images have another size.
        """
        if self.images.shape[1:] != other.images.shape[1:]:
            return np.zeros(len(self.images), bool)
        return np.isin(self._hashes, _hashes_of(other))

    @functools.cached_property
    def _hashes(self):
        return _hashes_of(self.source)

    def crops(self, epoch, rows):
        """uint8 (len(rows), height, width, channels): this epoch's crops of these images."""
        height, width, channels = self.shape
        tall, wide = self.images.shape[1:3]
        whole = (tall, wide) if tall >= height and wide >= width else (height, width)
        images, _ = to_shape(np.asarray(self.images[self.rows[rows]]), (*whole, channels))
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


def _hashes_of(source):
    """uint64 (n,), of the bytes of each image of a data.ImageSet."""
    if isinstance(source.images, np.ndarray):
        return example_hashes(source.images)
    step = max(1, BYTES_AT_ONCE // math.prod(source.images.shape[1:]))
    starts = progress(range(0, len(source), step), desc=f"comparing {source.name}")
    return np.concatenate([example_hashes(source.images[i : i + step]) for i in starts])


def load(name, data_dir, image_shape, seed):
    """Outliers of a data set: its training split, or, if it has none, all there is."""
    for split in ("train", "test"):
        try:
            return Outliers(data.load(name, split, data_dir, image_shape), image_shape, seed)
        except FileNotFoundError as error:
            missing = error
    raise missing


def keep_apart(outliers, run, data_dir):
    """Takes ID images and images of OOD test sets out of the outliers.

    Args:
        run: whose data sets are meant.

    Returns:
        {role: OOD sets of the run that are left}: without the set that is trained on.
    """
    kept = {role: list(run.settings[role]) for role in ("ood_near", "ood_far", "ood_validation")}
    before = len(outliers)
    for part in run.roles.values():
        for name in part.names:
            try:
                found = data.load(name, part.split, data_dir, outliers.shape)
            except FileNotFoundError:
                continue
            if found.fingerprint != outliers.source.fingerprint:
                outliers.leave_out(found)
                continue
            roles = [role for role, members in kept.items() if name in members]
            if not roles:
                raise ValueError(f"The outliers are ID data: {name} ({part.split}).")
            logging.warning("%s is trained on, and no longer one of %s.", name, ", ".join(roles))
            kept = {role: [n for n in members if n != name] for role, members in kept.items()}
    if len(outliers) < before:
        count = before - len(outliers)
        logging.warning("%d outliers are ID or test images too: they are left out.", count)
    return kept


def at_random(outliers, count, seed):
    """function(epoch) -> rows (count,): all images in random order, again and again."""

    def rows(epoch):
        rng = np.random.default_rng([seed, epoch, 2])
        rounds = -(-count // len(outliers))
        return np.concatenate([rng.permutation(len(outliers)) for _ in range(rounds)])[:count]

    return rows


def joined_batches(id_set, outliers, step, *, batch_size, outlier_batch, seed, rows, per_epoch):
    """Batches (images, labels) from `step` to the end of the last epoch in `rows`: `batch_size` ID
    examples, then `outlier_batch` outliers, whose label is -1.

    The released code multiplies the batch size by the float `ood_factor`, which stops at once.

    Args:
        rows: {epoch: rows of the outliers that it shows}. per_epoch: steps.
    """
    own = fit.batches([id_set.images], batch_size, seed, step, id_set.labels)
    unlabelled = np.full(outlier_batch, -1, np.int32)
    for step in range(step, (max(rows) + 1) * per_epoch):
        images, labels = next(own)
        epoch, place = divmod(step, per_epoch)
        shown = rows[epoch][place * outlier_batch : (place + 1) * outlier_batch]
        both = np.concatenate([images, outliers.crops(epoch, shown)])
        yield both, np.concatenate([labels, unlabelled])
