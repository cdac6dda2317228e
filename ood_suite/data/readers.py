"""Whatever lies at a path as a data set: the catalogue READERS, and which of them a path is for.

A reader gives `(images, labels)`: uint8 (n, height, width, channels) as an array, a memory map or a
stream, and int32 (n,). All stream at bounded memory (256 MiB of what is compressed, nothing of what
can be mapped) but for compressed npz, which are held whole; all name the file that is damaged.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable

import numpy as np

from ood_suite.data import archives, batches, binary, framing, idx, matlab, npy, npz
from ood_suite.data.archives import ArchiveImages, ListedImages
from ood_suite.data.decoding import SUFFIXES as IMAGE_SUFFIXES
from ood_suite.data.streams import FolderImages
from ood_suite.data.views import Rows, Transformed

NUMBERED = re.compile(r"(.*data_batch_)(\d+)(\.bin)?")
BATCHES = {"data_batch_": 5}  # how many there are at least, of CIFAR-10
TRAIN_SHARE = 0.8  # of the official training rows, in their order; the rest is "val"


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a kind of files becomes images.

    Attributes:
        read: function(paths) of arrays, or (path, image_shape, transform) of image files.
        title: in lists.
        files_of: function(folder, "train" or "test") -> paths, of what lies in folders by split.
        is_stream: of image files of any size, which are brought to `image_shape`.
    """

    read: Callable
    title: str
    files_of: Callable | None = None
    is_stream: bool = False


READERS = {
    "archive": Reader(ArchiveImages, "archive of images", is_stream=True),
    "batches": Reader(batches.read, "python batches", batches.files_of),
    "binary": Reader(binary.read, "binary batches", binary.files_of),
    "folder": Reader(FolderImages, "folder of images", is_stream=True),
    "idx": Reader(lambda paths: idx.read(paths[0]), "idx", idx.files_of),
    "list": Reader(ListedImages, "list of images", is_stream=True),
    "matlab": Reader(lambda paths: matlab.read(paths[0]), "MATLAB", matlab.files_of),
    "npy": Reader(lambda paths: npy.read(paths[0]), "npy"),
    "npz": Reader(lambda paths: npz.read_images(paths[0]), "npz"),
}
SUFFIXES = {
    ".bin": "binary", ".mat": "matlab", ".npy": "npy", ".npz": "npz", ".txt": "list",
} | dict.fromkeys(archives.SUFFIXES, "archive")  # fmt: skip
# How the files begin that have no suffix, or one of these.
BEGINNINGS = {
    b"\0\0\x08": "idx", b"PK\3\4": "npz", b"\x80": "batches", b"(dp": "batches", b"}q": "batches",
}  # fmt: skip


def kind_of(path):
    """The name of the reader for a path.

    Raises:
        ValueError: nothing that is known.
    """
    if path.is_dir():
        of_folders = (name for name, reader in READERS.items() if reader.files_of)
        known = (name for name in of_folders if _splits(path, READERS[name]))
        return next(known, "folder")
    name = path.name.lower()
    for suffix, kind in SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    if idx.IMAGES.fullmatch(name) or name.endswith((".gz", "-ubyte")):
        return "idx"
    if path.is_file():
        with open(path, "rb") as file:
            first = file.read(8)
        for beginning, kind in BEGINNINGS.items():
            if first.startswith(beginning):
                return kind
    hint = " Give the folder that it lies in." if path.suffix.lower() in IMAGE_SUFFIXES else ""
    raise ValueError(
        f"{path} is no data set of a kind that is known.{hint} Expected a folder or one of "
        f"{', '.join(sorted(SUFFIXES))}, idx files, pickled batches."
    )


def read(path, split, image_shape=None, transform=""):
    """(images, labels) of what lies at a path.

    A file, or a folder of image files, is read as it is, whatever the split. Of a folder of
    batches (CIFAR, ImageNet, SVHN) or of idx files come those of the split; "val" is the last
    fifth of the official training images, and "train" the others.

    Args:
        path: pathlib.Path that exists. split: "train", "val" or "test".
        image_shape: (height, width, channels) that image files, and what is transformed, get.
        transform: of framing.TRANSFORMS; "" covers the shape with image files, and leaves arrays.

    Raises:
        ValueError: a damaged file, a kind that is not known, or a batch of several that is lost.
        FileNotFoundError: a folder that has the other split alone.
    """
    reader = READERS[kind_of(path)]
    if reader.is_stream:
        images = reader.read(path, needed(image_shape, path), transform or framing.COVER)
        return images, images.labels
    if not path.is_dir():
        found = reader.read([path])
    else:
        files = reader.files_of(path, "test" if split == "test" else "train")
        if not files:
            raise FileNotFoundError(
                f"{path} has the files of the {', '.join(_splits(path, reader))} images alone."
            )
        _refuse_lost(files)
        found = part_of(split, *reader.read(files))
    return transformed(*found, image_shape, transform, path)


def _refuse_lost(files):
    """Refuses batches 1, 2, ... of which one is missing: the rest would pass for the whole set."""
    named = [match for file in files if (match := NUMBERED.fullmatch(file.name))]
    if not named:
        return
    numbers, (begin, _, end) = {int(match[2]) for match in named}, named[0].groups("")
    lost = next(number for number in itertools.count(1) if number not in numbers)
    if lost <= max(*numbers, BATCHES.get(begin, 1)):
        raise ValueError(
            f"{files[0].parent} has {len(files)} batches, and {begin}{lost}{end} is missing. Fetch "
            "or unpack it again, or give the path of the one batch that is meant."
        )


def part_of(split, images, labels):
    """(images, labels) of a split out of the official training images; all of "test"."""
    if split == "test":
        return images, labels
    cut = int(TRAIN_SHARE * len(images))
    rows = slice(None, cut) if split == "train" else slice(cut, None)
    if isinstance(images, np.ndarray):
        return images[rows], labels[rows]
    return Rows(images, np.arange(len(images))[rows]), labels[rows]


def transformed(images, labels, image_shape, transform, name):
    """The images of a shape if a transform is asked for, otherwise as they are."""
    if not transform:
        return images, labels
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"{name} has images of {images.shape[-1]} channels, not of 1 or 3.")
    return Transformed(images, needed(image_shape, name), transform), labels


def needed(image_shape, name):
    if image_shape is None:
        raise ValueError(
            f"{name} must be told the size of its images (`image_shape`). To train on it, write it "
            "as <name>_train.npz first: images, uint8 (n, height, width, channels), and labels."
        )
    return tuple(image_shape)


def _splits(folder, reader):
    return [split for split in ("train", "test") if reader.files_of(folder, split)]
