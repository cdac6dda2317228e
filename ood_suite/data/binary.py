"""The binary batches of CIFAR-10 (a byte of label an image) and CIFAR-100 (coarse, then fine), each
followed by three planes of 32x32 pixels.
"""

import re

import numpy as np

from ood_suite.data.npz import as_labels
from ood_suite.data.views import joined
from ood_suite.files import reading

SIDE = 32
ADVICE = " Compare it with the publisher's checksum, or fetch it again."
FILES = {
    "train": re.compile(r"data_batch_\d+\.bin|train\.bin"),
    "test": re.compile(r"test_batch\.bin|test\.bin"),
}


def files_of(folder, split):
    """The batches of a split ("train" or "test") in a folder, in the order of their numbers."""
    found = [p for p in folder.iterdir() if FILES[split].fullmatch(p.name) and p.is_file()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def read(paths):
    """(images, labels) of some batches: uint8 (n, 32, 32, 3), mapped, and int32 (n,), the fine
    labels of CIFAR-100.

    Raises:
        ValueError: a file that is cut, or no such batch.
    """
    images, labels = zip(*map(_read, paths), strict=True)
    return joined(images, paths), np.concatenate(labels)


def _read(path):
    with reading(path, "a binary batch of CIFAR", ADVICE):
        size, pixels = path.stat().st_size, 3 * SIDE * SIDE
        # 3073 and 3074 have no common factor: a file of both kinds has 9.4 million bytes or more.
        is_hundred = path.name in ("train.bin", "test.bin") or size % (1 + pixels)
        record = (2 if is_hundred else 1) + pixels
        if not size or size % record:
            raise ValueError(f"it has {size} bytes, no multiple of 3073 or 3074, those of an image")
        fields = np.dtype([("labels", "u1", (record - pixels,)), ("images", "u1", (3, SIDE, SIDE))])
        content = np.memmap(path, fields, "r")
        labels = content["labels"][:, -1]
        if labels.max() > (99 if is_hundred else 9):
            raise ValueError(f"it has the label {labels.max()}")
        return content["images"].transpose(0, 2, 3, 1), as_labels(labels, len(labels))
