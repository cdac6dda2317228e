"""The pickled batches of CIFAR-10, CIFAR-100 and downsampled ImageNet, as their authors publish
them: `data` uint8 (n, 3 * height * width), plane by plane, and labels.
"""

import math
import re

import numpy as np

from ood_suite.data import array_pickles
from ood_suite.data.npz import UNLABELLED, as_labels, check_images
from ood_suite.data.views import joined
from ood_suite.files import reading

LABELS = ("fine_labels", "labels")  # of CIFAR-100, of the others
ADVICE = " Compare it with the publisher's checksum, or fetch it again."
# Split -> names of files within a folder, of CIFAR-10, CIFAR-100 and ImageNet at 64x64 and 32x32.
FILES = {
    "train": re.compile(r"data_batch_\d+|train|train_data_batch_\d+"),
    "test": re.compile(r"test_batch|test|val_data"),
}
FROM_ONE = re.compile(r"(train_data_batch_\d+|val_data)")  # whose classes are 1..1000


def files_of(folder, split):
    """The batches of a split ("train" or "test") in a folder, in the order of their numbers."""
    found = [p for p in folder.iterdir() if FILES[split].fullmatch(p.name) and p.is_file()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def read(paths):
    """(images, labels) of some batches: uint8 (n, height, width, 3), mapped, and int32 (n,) from
    0, or -1 where a file has none.

    Raises:
        ValueError: a damaged file, or one of other contents.
    """
    images, labels = zip(*map(_read, paths), strict=True)
    return joined(images, paths), np.concatenate(labels)


def _read(path):
    with reading(path, "a pickled batch of images", ADVICE):
        content = array_pickles.load(path)
        images = content.get("data")
        if not isinstance(images, np.ndarray) or images.ndim != 2 or images.dtype != np.uint8:
            raise ValueError(
                "it must hold `data`, uint8 (n, 3 * height * width). Received: "
                + ", ".join(f"{str(key)[:30]} ({_kind(value)})" for key, value in content.items())
            )
        side = math.isqrt(images.shape[1] // 3)
        if 3 * side * side != images.shape[1]:
            raise ValueError(f"its images have {images.shape[1]} values, no square of three planes")
        images = images.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
        labels = next((content[name] for name in LABELS if name in content), None)
        if labels is None:
            labels = np.full(len(images), UNLABELLED)
        labels = as_labels(np.asarray(labels) - bool(FROM_ONE.fullmatch(path.name)), len(images))
        return check_images(images), labels


def _kind(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
