"""Two arrays in one .npy file, images and labels, as the likelihood-ratio authors save data sets
(`np.save` twice into one open file); or images alone.
"""

import math

import numpy as np

from ood_suite.data.npz import UNLABELLED, as_labels, check_images
from ood_suite.files import read_array_header, reading


def read(path):
    """(images, labels): uint8 (n, height, width, channels), mapped, and int32 (n,), -1 where the
    file ends after the images. Images (n, height, width) get a channel.

    Raises:
        ValueError: damaged, objects, or other arrays.
    """
    with reading(path, "arrays of images and labels", " Copy it again."), open(path, "rb") as file:
        whole = path.stat().st_size
        images = _mapped(path, file, whole)
        if images.ndim == 3:
            images = images[..., None]
        images = check_images(images)
        if file.tell() == whole:
            return images, np.full(len(images), UNLABELLED, np.int32)
        labels = _mapped(path, file, whole)
        if file.tell() != whole:
            raise ValueError(f"{whole - file.tell()} bytes follow behind the labels")
        if labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)):
            labels = labels.astype(np.int64)
        return images, as_labels(labels.ravel(), len(images))


def _mapped(path, file, whole):
    """The array at a file's position, which is left behind it."""
    shape, is_fortran, dtype = read_array_header(file)
    start, size = file.tell(), math.prod(shape) * dtype.itemsize
    if size > whole - start or not size:
        raise ValueError(f"{whole - start} bytes follow for an array of shape {shape}")
    file.seek(start + size)
    return np.memmap(path, dtype, "r", start, shape, "F" if is_fortran else "C")
