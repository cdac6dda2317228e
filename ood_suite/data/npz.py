"""Image data as npz files: checked when read and when written."""

import pathlib

import numpy as np

from ood_suite.files import atomic_path, load_npz

UNLABELLED = -1  # what stands for a label where there is none


def check_images(images, source="`images`"):
    """Refuses everything but uint8 (n, height, width, channels), 0..255, with at least one image.

    Raises:
        ValueError: what was expected, what came, and what to do.
    """
    images = np.asanyarray(images)  # a memory map stays one
    if images.dtype.kind == "f" and images.size and 0.0 <= images.min() <= images.max() <= 1.0:
        raise ValueError(
            f"{source} must be uint8 in 0..255. Received: {images.dtype} in [0, 1]. "
            "Convert with (255 * images).round().astype('uint8')."
        )
    if images.dtype != np.uint8:
        raise ValueError(f"{source} must be uint8 in 0..255. Received: dtype={images.dtype}.")
    if images.ndim != 4:
        raise ValueError(
            f"{source} must have shape (n, height, width, channels). Received: "
            f"shape={images.shape}."
        )
    if 0 in images.shape:
        raise ValueError(f"{source} must not be empty. Received: shape={images.shape}.")
    return images


def read_images(path):
    """Reads `images` and `labels` (-1 if absent): uint8 (n, height, width, channels) and int32
    (n,). Large images that the file holds uncompressed stay on disk, as a memory map.
    """
    arrays = load_npz(path, mapped=True)
    if "images" not in arrays:
        raise ValueError(f"{path} must hold an array `images`. Received: {sorted(arrays)}.")
    images = check_images(arrays["images"], f"`images` of {path}")
    labels = arrays.get("labels", np.full(len(images), UNLABELLED, np.int32))
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`labels` of {path} must be integers of shape ({len(images)},). "
            f"Received: {labels.dtype}, shape={labels.shape}."
        )
    return images, _int32(labels, f"`labels` of {path}")


def write_images(path, images, labels):
    """Writes a data file atomically, compressed."""
    images = check_images(images)
    if len(labels) != len(images):
        raise ValueError(f"There are {len(images)} images and {len(labels)} labels.")
    with atomic_path(pathlib.Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, images=images, labels=_int32(np.asarray(labels), "`labels`"))


def as_labels(labels, count):
    """int32 (count,) of the labels that a file has; ValueError if they are none."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"its labels must be integers of shape ({count},). Received: {labels.dtype}, "
            f"shape={labels.shape}"
        )
    return _int32(labels, "its labels")


def _int32(labels, source):
    """The labels as int32; those that would wrap are refused."""
    limits = np.iinfo(np.int32)
    if labels.size and not limits.min <= int(labels.min()) <= int(labels.max()) <= limits.max:
        raise ValueError(
            f"{source} must lie in {limits.min}..{limits.max}. Received: {labels.min()} to "
            f"{labels.max()}."
        )
    return labels.astype(np.int32)
