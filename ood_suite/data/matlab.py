"""MATLAB files of images as SVHN has them: `X` uint8 (height, width, channels, n) and `y` (n, 1).

The format (MATLAB 5 to 7.2) is a list of elements, each with type and size, and each variable is
one element, usually deflated. MATLAB stores the first dimension closest, so that image follows
image, and they can be read one by one.

Reference: MathWorks, "MAT-File Format", level 5.
"""

import contextlib
import math
import struct

import numpy as np

from ood_suite.data.inflating import MOST_FOLD, Deflated
from ood_suite.data.npz import UNLABELLED, as_labels
from ood_suite.data.views import IN_MEMORY, Sequential, exactly
from ood_suite.files import reading

ADVICE = " Compare it with the publisher's checksum, or fetch it again."
HEADER = 128
DEFLATED, MATRIX = 15, 14
INT32, UINT32, INT8 = 5, 6, 1
TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8"}
NUMERIC = range(6, 16)  # classes of arrays of numbers
MOST_ELEMENTS = 1000
MOST_NAME = 64
ORDER = (2, 1, 0)  # of the axes (channels, width, height) in the file
FILES = {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)}


def files_of(folder, split):
    """SVHN's file of a split ("train" or "test") in a folder."""
    return [folder / name for name in FILES[split] if (folder / name).is_file()]


def read(path):
    """(images, labels): uint8 (n, height, width, channels) and int32 (n,), -1 without `y`. Labels
    of 1..10 become 0..9, 10 standing for the digit 0.

    Raises:
        ValueError: damaged, of MATLAB 7.3 (HDF5), or without `X`.
    """
    with reading(path, "a MATLAB file of images", ADVICE):
        found = {variable.name: variable for variable in _variables(path)}
        if "X" not in found:
            names = ", ".join(found) or "nothing"
            raise ValueError(f"it must hold `X` (height, width, channels, n). It holds {names}")
        images = found["X"]
        if len(images.shape) != 4 or images.kind != "u1" or not images.count:
            raise ValueError(f"`X` must be uint8 of 4 dimensions. Received: {images.shape}")
        record, count = images.shape[2::-1], images.shape[3]
        if "y" in found:
            labels = as_labels(_labels(found["y"]), count)
            if labels.min() >= 1 and labels.max() == 10:
                labels = labels % 10
        else:
            labels = np.full(count, UNLABELLED, np.int32)
        return _images(images, count, record), labels


class _Variable:
    """One array of the file: name, shape, dtype, and how to get at its values."""

    def __init__(self, path, start, size, is_deflated):
        self.path, self.start, self.size, self.is_deflated = path, start, size, is_deflated
        with contextlib.closing(self.content()) as file:
            self._read_header(file)

    def _read_header(self, file):
        kind, size = _tag(file)
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind} stands where an array should")
        flags = _small(file, UINT32, 8)
        dimensions = np.frombuffer(_small(file, INT32, 4 * 32), "<i4").tolist()
        self.name = _small(file, INT8, MOST_NAME).decode("ascii", "replace")
        self.shape, self.kind, self.count = tuple(dimensions), None, 0
        if flags[0] not in NUMERIC or min(dimensions, default=-1) < 0:
            return
        kind, size, small = _tag_or_small(file)
        self.kind = TYPES.get(kind)
        self.count = math.prod(dimensions)
        if self.kind is None or size != self.count * np.dtype(self.kind).itemsize:
            raise ValueError(f"`{self.name}` of shape {self.shape} has {size} bytes")
        self.small, self.tell = small, None if self.is_deflated else file.tell()

    def content(self):
        """A file object at the element's beginning."""
        file = open(self.path, "rb")  # noqa: SIM115
        file.seek(self.start)
        return Deflated(file, self.size) if self.is_deflated else file

    def values(self):
        """A file object at the first value."""
        file = self.content()
        _tag(file)
        for limit in (8, 4 * 32, MOST_NAME):
            _small(file, None, limit)
        _tag_or_small(file)
        return file

    def array(self):
        """(count,), of at most IN_MEMORY bytes."""
        size = self.count * np.dtype(self.kind).itemsize
        if size > IN_MEMORY:
            raise ValueError(f"`{self.name}` has {size} bytes")
        if self.small is not None:
            return np.frombuffer(self.small, self.kind)
        with contextlib.closing(self.values()) as file:
            content = exactly(file, size)
            if self.is_deflated:
                file.refuse_more_than(8)  # what fills up the last eight bytes
        return np.frombuffer(content, self.kind)


def _variables(path):
    """Yields the arrays of a file, of which only the beginnings are read."""
    whole = path.stat().st_size
    with open(path, "rb") as file:
        header = exactly(file, HEADER)
        if header.startswith(b"MATLAB 7.3") or header[1:4] == b"HDF":
            raise ValueError("it is of MATLAB 7.3 (HDF5). Save it with save(FILE, '-v7')")
        if header[126:] != b"IM":
            raise ValueError("it has no header of MATLAB 5 to 7.2 (little-endian)")
        for _ in range(MOST_ELEMENTS):
            start = file.tell()
            if start == whole:
                return
            kind, size = _tag(file)
            end = start + 8 + size
            if kind not in (DEFLATED, MATRIX) or end > whole:
                raise ValueError(f"byte {start} promises {size} bytes of type {kind}")
            is_deflated = kind == DEFLATED
            yield _Variable(path, start + 8 if is_deflated else start, size, is_deflated)
            file.seek(end)
    raise ValueError(f"it has more than {MOST_ELEMENTS} elements")


def _tag(file):
    return struct.unpack("<II", exactly(file, 8))


def _tag_or_small(file):
    """(type, size, content): the content only of elements of at most four bytes, which lie within
    their own tag.
    """
    tag = exactly(file, 8)
    kind, size = struct.unpack("<II", tag)
    if not kind >> 16:
        return kind, size, None
    kind, size = kind & 0xFFFF, kind >> 16
    if size > 4:
        raise ValueError(f"a small element has {size} bytes")
    return kind, size, tag[4 : 4 + size]


def _small(file, expected, limit):
    """The content of an element of at most `limit` bytes."""
    kind, size, content = _tag_or_small(file)
    if (expected is not None and kind != expected) or size > limit:
        raise ValueError(f"an element of type {kind} has {size} bytes")
    if content is None:
        content = exactly(file, size)
        exactly(file, -size % 8)
    return content


def _images(variable, count, record):
    size = variable.count
    if size > MOST_FOLD * variable.path.stat().st_size + IN_MEMORY:
        raise ValueError(f"it is too small for `X` of shape {variable.shape}")
    if not variable.is_deflated and variable.small is None:
        mapped = np.memmap(variable.path, np.uint8, "r", variable.tell, (count, *record))
        return mapped.transpose(0, 3, 2, 1)
    if size <= IN_MEMORY:
        return variable.array().reshape(count, *record).transpose(0, 3, 2, 1)
    return Sequential(variable.path, variable.values, count, record, ORDER)


def _labels(variable):
    """int64 (n,), of whole numbers of any type."""
    if variable.kind is None:
        raise ValueError("`y` holds no numbers")
    values = variable.array()
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise ValueError("`y` must hold whole numbers")
    return values.astype(np.int64)
