"""Images that are read when they are asked for: folders of files, and TFDS splits.

Both behave like a uint8 array (n, height, width, channels) of which slices are taken in order, so
that a data set larger than memory passes through an extractor in batches; folders give rows in any
order too.
"""

import itertools
import math
import pathlib

import numpy as np
from PIL import Image

from ood_suite.data.npz import UNLABELLED
from ood_suite.files import fingerprint, reading
from ood_suite.optional import optional

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
LONGEST = 32  # times the short side, beyond which an image is cut before it is scaled


class FolderImages:
    """Image files below a folder, in sorted order, cut to one shape.

    Each image is scaled (bilinear, antialiased, by Pillow) until it just covers the shape, and its
    centre is cut out.

    Args:
        folder: searched with all its sub-folders; where there are sub-folders directly below, their
            sorted names are the classes.
        image_shape: (height, width, channels), 1 (grey) or 3 (RGB) channels.

    Attributes:
        labels: int32 (n,), number of the sub-folder in `classes`, or -1 without sub-folders.
        classes: sorted names of the sub-folders.

    Raises:
        ValueError: no images there; or, when it is read, a file that is no image.
    """

    def __init__(self, folder, image_shape):
        self.folder = pathlib.Path(folder)
        found = (path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        self.paths = np.array(sorted(found), dtype=object)
        if not len(self.paths):
            raise ValueError(
                f"The folder {folder} holds no images ({', '.join(sorted(SUFFIXES))})."
            )
        if image_shape[-1] not in (1, 3):
            raise ValueError(f"Images have 1 or 3 channels. Received: {image_shape[-1]}.")
        self.shape = (len(self.paths), *image_shape)
        parts = [path.relative_to(self.folder).parts for path in self.paths]
        self.classes = sorted({part[0] for part in parts if len(part) > 1})
        numbers = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([numbers.get(part[0], UNLABELLED) for part in parts], np.int32)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, rows):
        return np.stack([self._read(path) for path in self.paths[rows]])

    @property
    def names(self):
        """Paths as text, (n,)."""
        return self.paths.astype(str)

    @property
    def fingerprint(self):
        """Of the relative paths, sizes, times and shape; contents are not read."""
        stats = ((path, path.stat()) for path in self.paths)
        lines = [f"{p.relative_to(self.folder)} {s.st_size} {s.st_mtime_ns}" for p, s in stats]
        text = "\n".join([*lines, str(self.shape)])
        return fingerprint(np.frombuffer(text.encode(), np.uint8))

    def _read(self, path):
        with reading(path, "an image"), Image.open(path) as file:
            return picture(file, self.shape[1:])


def picture(file, image_shape):
    """uint8 (height, width, channels) of an open Pillow image; see FolderImages."""
    height, width, channels = image_shape
    if file.mode[0] in "IF":
        raise ValueError(f"mode {file.mode}, more than 8 bits; convert it to 8 bits")
    image = file.convert("L" if channels == 1 else "RGB")
    if max(image.size) > LONGEST * min(image.size):
        image = _middle(image, width / height)
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(height, width, channels)


def _middle(image, ratio):
    """The middle of a long strip, twice as much as the cut after scaling takes: scaled as a whole,
    40,000 pixels in a row would fill the memory.
    """
    width = min(image.width, math.ceil(2 * ratio * image.height))
    height = min(image.height, math.ceil(2 / ratio * image.width))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class TfdsImages:
    """A split of a TFDS data set of fixed image size, read in stored order; nothing is downloaded.

    Attributes:
        labels: int32 (n,), read in a pass of their own, or -1 where there are none.

    Raises:
        ValueError: the data set is unknown, not prepared, or has no images of one fixed size.
    """

    def __init__(self, name, split, tfds_dir=None):
        tfds = optional("tensorflow_datasets")
        self.name, self.split, self.tfds_dir = name, split, tfds_dir
        try:
            builder = tfds.builder(name, data_dir=tfds_dir)
            self.dataset = builder.as_dataset(split=split, shuffle_files=False)
        except (AssertionError, ValueError, OSError) as error:
            raise ValueError(
                f"TFDS cannot give the split {split!r} of {name!r}: {error}. Prepare it once with "
                f"tfds.builder({name!r}).download_and_prepare()."
            ) from error
        shape = self.dataset.element_spec["image"].shape
        if None in shape:
            raise ValueError(
                f"The images of {name} have no fixed size ({shape}). Write them into a folder."
            )
        labelled = "label" in self.dataset.element_spec
        labels = self.dataset.map(lambda example: example["label"] if labelled else UNLABELLED)
        self.labels = np.fromiter(labels.as_numpy_iterator(), np.int32)
        self.shape = (len(self.labels), *shape)
        self._position, self._images = None, None

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        start, stop, _ = rows.indices(len(self))
        if self._position != start:
            images = self.dataset.skip(start).map(lambda example: example["image"])
            self._images = images.as_numpy_iterator()
        self._position = stop
        return np.stack(list(itertools.islice(self._images, stop - start)))

    @property
    def fingerprint(self):
        """Of name, version, split and shape."""
        text = f"{self.name} {self.split} {self.shape}"
        return fingerprint(np.frombuffer(text.encode(), np.uint8), self.labels)
