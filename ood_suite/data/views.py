"""Images larger than memory that behave like uint8 arrays (n, height, width, channels): several
arrays as one, some rows of a set, what is read in order alone, and images that are transformed when
they are taken.

All take slices, and arrays of row numbers. Their fingerprints say nothing of labels, which lie
elsewhere (`labels_apart`).
"""

import hashlib

import numpy as np
from PIL import Image

from ood_suite.data import framing
from ood_suite.data.decoding import decoded, picture
from ood_suite.files import fingerprint, reading

IN_MEMORY = 2**28  # bytes up to which what cannot be mapped is read into memory
BYTES_AT_ONCE = 2**24  # of what is only passed through


class Joined:
    """Several arrays of images, one behind the other; use `joined` to get one."""

    labels_apart = True

    def __init__(self, parts):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])
        self._fingerprint = None

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        rows = row_numbers(rows, len(self))
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        owners = np.searchsorted(self.ends, rows, side="right")
        for number in np.unique(owners):
            own = owners == number
            before = self.ends[number] - len(self.parts[number])
            found[own] = self.parts[number][rows[own] - before]
        return found

    @property
    def fingerprint(self):
        """Of the contents."""
        if self._fingerprint is None:
            self._fingerprint = content_fingerprint(self)
        return self._fingerprint


def joined(parts, paths):
    """The arrays of images of several files as one: an array where it is one, or small; otherwise
    Joined.
    """
    for part, path in zip(parts, paths, strict=True):
        if part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"{path} holds images of shape {part.shape[1:]}, and {paths[0]} ones of "
                f"{parts[0].shape[1:]}."
            )
    if len(parts) == 1:
        return parts[0]
    if sum(part.nbytes for part in parts) <= IN_MEMORY:
        return np.concatenate(parts)
    return Joined(parts)


class Rows:
    """Some rows of a stream, in this order."""

    def __init__(self, images, rows):
        self.images, self.rows = images, rows
        self.shape = (len(rows), *images.shape[1:])
        self.steps = getattr(images, "steps", [])
        self.labels_apart = getattr(images, "labels_apart", False)
        names = getattr(images, "names", None)
        self.names = None if names is None else names[rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        return self.images[self.rows[rows]]

    @property
    def fingerprint(self):
        """Of the whole stream's and the rows."""
        return fingerprint(np.frombuffer(self.images.fingerprint.encode(), np.uint8), self.rows)


class Sequential:
    """Images of one size in a compressed file, which is read from its start again when rows are
    asked for that lie before the last ones.

    Args:
        path: of the file.
        opened: function() -> file object at the first image.
        record: shape of an image in the file. order: of its axes that gives (height, width,
            channels).
    """

    labels_apart = True

    def __init__(self, path, opened, count, record, order):
        self.path, self.opened, self.record, self.order = path, opened, record, order
        self.shape = (count, *(record[axis] for axis in order))
        self._file, self._position, self._last = None, 0, None

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        rows = row_numbers(rows, len(self))
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        with reading(self.path, "images"):
            for place in np.argsort(rows, kind="stable"):
                if self._file is None or rows[place] + 1 != self._position:
                    self._read(rows[place])
                found[place] = self._last
        return found

    def _read(self, row):
        size = int(np.prod(self.record))
        if self._file is None or row < self._position:
            self.close()
            self._file, self._position = self.opened(), 0
        skipped = (row - self._position) * size
        while skipped:
            skipped -= len(exactly(self._file, min(skipped, BYTES_AT_ONCE)))
        image = np.frombuffer(exactly(self._file, size), np.uint8).reshape(self.record)
        self._position, self._last = row + 1, image.transpose(self.order)

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    __del__ = close

    @property
    def fingerprint(self):
        """Of the file's name, size, time and shape; the content is not read."""
        found = self.path.stat()
        text = f"{self.path.name} {found.st_size} {found.st_mtime_ns} {self.shape}"
        return fingerprint(np.frombuffer(text.encode(), np.uint8))


class Transformed:
    """Images that are brought to a shape when they are taken."""

    labels_apart = True

    def __init__(self, images, image_shape, transform):
        self.images, self.transform = images, transform
        self.shape = (len(images), *image_shape)
        self.steps = [framing.note(transform, image_shape)]

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        numbers = row_numbers(rows, len(self))
        return decoded(zip(numbers, self.images[rows], strict=True), self._transformed)

    def _transformed(self, job):
        row, image = job
        file = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.asarray(image))
        return picture(file, self.shape[1:], self.transform, f"row {row}")

    @property
    def fingerprint(self):
        """Of the images, the shape and the transform."""
        images = self.images
        own = content_fingerprint(images) if isinstance(images, np.ndarray) else images.fingerprint
        text = f"{own} {self.shape} {self.transform}"
        return fingerprint(np.frombuffer(text.encode(), np.uint8))


def row_numbers(rows, count):
    """int64 (k,) of a slice, or of an array of row numbers."""
    return np.arange(count)[rows]


def exactly(file, size):
    """So many bytes of a file object, or a ValueError."""
    parts, left = [], size
    while left:
        parts.append(file.read(min(left, BYTES_AT_ONCE)))
        if not parts[-1]:
            raise ValueError(f"it is cut: {size} bytes were expected, {size - left} are there")
        left -= len(parts[-1])
    return b"".join(parts)


def content_fingerprint(images):
    """files.fingerprint of all images as one array, without holding them at once."""
    digest = hashlib.sha256(f"|u1{images.shape}".encode())
    at_once = max(1, BYTES_AT_ONCE // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), at_once):
        digest.update(np.ascontiguousarray(images[start : start + at_once]).data)
    return digest.hexdigest()[:16]
