"""The files of MNIST, FashionMNIST, KMNIST and EMNIST: idx, plain or gzipped.

Four bytes (0, 0, 8 for uint8, number of dimensions), a big-endian 32-bit size for each dimension,
then the values. Labels lie in a file of their own, whose name has "labels-idx1" for "images-idx3".
"""

import math
import re
import struct

import numpy as np

from ood_suite.data.inflating import MOST_FOLD, Gzip
from ood_suite.data.npz import UNLABELLED, as_labels, check_images
from ood_suite.data.views import IN_MEMORY, Sequential, exactly
from ood_suite.files import reading

UINT8 = 8
ADVICE = " Compare it with the publisher's checksum, or fetch it again."
IMAGES = re.compile(r"(.*)images[-.]idx3-ubyte(\.gz)?")
FILES = {
    "train": re.compile(r".*train-images[-.]idx3-ubyte(\.gz)?"),
    "test": re.compile(r".*(t10k|test)-images[-.]idx3-ubyte(\.gz)?"),
}


def files_of(folder, split):
    """The file of images of a split ("train" or "test") in a folder, unpacked before gzipped.

    Raises:
        ValueError: the folder has several such sets, as EMNIST's.
    """
    found = [p for p in folder.iterdir() if FILES[split].fullmatch(p.name) and p.is_file()]
    names = sorted({path.name.removesuffix(".gz") for path in found})
    if len(names) > 1:
        raise ValueError(f"{folder} holds several sets. Give one file: {', '.join(names)}.")
    return sorted(found)[:1]


def read(path):
    """(images, labels) of a file of images: uint8 (n, height, width, 1), and int32 (n,), -1 where
    there is no file of labels beside it.

    Raises:
        ValueError: a damaged file, one of labels alone, or another number of labels.
    """
    with reading(path, "idx images", ADVICE):
        shape, values = _values(path)
        if len(shape) not in (3, 4):
            raise ValueError(
                f"it has {len(shape)} dimension(s), and images have 3. Give the file of images"
            )
        if isinstance(values, np.ndarray):
            values = check_images(values.reshape(*shape, *[1] * (4 - len(shape))))
    return values, _labels(path, shape[0])


def _values(path):
    """(shape, what lies in the file): an array, or a Sequential where it is gzipped and large."""
    with _opened(path) as file:
        magic = exactly(file, 4)
        if magic[:3] != bytes([0, 0, UINT8]):
            raise ValueError(f"it starts with {magic[:3].hex(' ')}. Expected 00 00 08 (uint8)")
        if not 1 <= magic[3] <= 4:
            raise ValueError(f"it has {magic[3]} dimensions")
        shape = struct.unpack(f">{magic[3]}I", exactly(file, 4 * magic[3]))
        start, size = file.tell(), math.prod(shape)
        if path.suffix != ".gz":
            if path.stat().st_size != start + size or not size:
                raise ValueError(f"{path.stat().st_size - start} bytes follow for shape {shape}")
            return shape, np.memmap(path, np.uint8, "r", start, shape)
        if size > MOST_FOLD * path.stat().st_size + IN_MEMORY:
            raise ValueError(f"it is too small for shape {shape}")
        if size <= IN_MEMORY:
            content = exactly(file, size)
            if file.read(1):
                raise ValueError(f"more bytes follow than those of shape {shape}")
            return shape, np.frombuffer(content, np.uint8).reshape(shape)
    return shape, _sequential(path, shape, start)


def _sequential(path, shape, start):
    def opened():
        file = _opened(path)
        file.seek(start)
        return file

    record = (*shape[1:], *[1] * (4 - len(shape)))
    return Sequential(path, opened, shape[0], record, (0, 1, 2))


def _opened(path):
    return Gzip(path) if path.suffix == ".gz" else open(path, "rb")


def _labels(path, count):
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    bare = name.removesuffix(".gz")
    places = [path.with_name(own) for own in dict.fromkeys((name, bare, f"{bare}.gz"))]
    found = next((own for own in places if own.exists() and own != path), None)
    if found is None:
        return np.full(count, UNLABELLED, np.int32)
    with reading(found, "idx labels", ADVICE):
        shape, values = _values(found)
        if shape != (count,) or not isinstance(values, np.ndarray):
            raise ValueError(f"it has shape {shape} for {count} images")
        return as_labels(values, count)
