"""Noise images: the OOD sets that need no data. Seeded, of any size, uint8 0..255."""

import numpy as np

COUNT, SEED = 10_000, 0  # of the sets in the catalogue


def uniform(count, image_shape, seed=SEED):
    """Every value of every pixel uniform on 0..255 (Liang et al., ICLR 2018)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *image_shape), dtype=np.uint8)


def gaussian(count, image_shape, seed=SEED):
    """Every value normal with mean 0.5 and standard deviation 1, clipped to [0, 1], times 255
    (Liang et al., ICLR 2018).
    """
    rng = np.random.default_rng(seed)
    images = np.empty((count, *image_shape), np.uint8)
    for i in range(count):  # one at a time: ten thousand large images as float64 fill a memory
        images[i] = np.rint(255.0 * np.clip(rng.normal(0.5, 1.0, image_shape), 0.0, 1.0))
    return images
