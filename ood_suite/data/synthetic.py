"""OOD images that need no OOD data: noise, and spoilt ID images. Seeded, any size, uint8 0..255."""

import numpy as np
from scipy import ndimage

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


def rademacher(count, image_shape, seed=SEED):
    """Every value of every pixel 0 or 255 with equal probability (Hendrycks et al., ICLR 2019)."""
    rng = np.random.default_rng(seed)
    return 255 * rng.integers(0, 2, (count, *image_shape), dtype=np.uint8)


def blobs(count, image_shape, seed=SEED):
    """Amorphous shapes with definite edges: ones with probability 0.7, blurred by a Gaussian of
    standard deviation 1.5 (over the channels too), 0 where that is below 0.75, times 255
    (Hendrycks et al., ICLR 2019).
    """
    rng = np.random.default_rng(seed)
    images = np.empty((count, *image_shape), np.uint8)
    for i in range(count):
        blurred = ndimage.gaussian_filter((rng.random(image_shape) < 0.7).astype(np.float64), 1.5)
        images[i] = np.rint(255.0 * np.where(blurred < 0.75, 0.0, blurred))
    return images


def constant(count, image_shape, seed=SEED):
    """One colour an image, each channel uniform on 0..255."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (count, 1, 1, image_shape[-1]), dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours, (count, *image_shape)))


def jigsaw(images, seed=SEED):
    """Each of uint8 (n, height, width, channels) with its 4 x 4 patches in another order, what is
    left over at the edges cut off and repeated (Hendrycks et al., ICLR 2019).
    """
    rng = np.random.default_rng(seed)
    count, height, width, channels = images.shape
    high, wide = max(1, height // 4), max(1, width // 4)
    lines, columns = height // high, width // wide
    whole = images[:, : lines * high, : columns * wide]
    patches = whole.reshape(count, lines, high, columns, wide, channels).swapaxes(2, 3)
    patches = patches.reshape(count, lines * columns, high, wide, channels)
    patches = np.stack([own[rng.permutation(lines * columns)] for own in patches])
    patches = patches.reshape(count, lines, columns, high, wide, channels).swapaxes(2, 3)
    left = ((0, 0), (0, height - lines * high), (0, width - columns * wide), (0, 0))
    return np.pad(patches.reshape(whole.shape), left, mode="edge")


def mixed(images, seed=SEED):
    """Means of each image with another one, rounded (Hendrycks et al., ICLR 2019)."""
    others = np.roll(np.random.default_rng(seed).permutation(len(images)), 1)
    first, second = images.astype(np.uint16), images[others].astype(np.uint16)
    return ((first + second + 1) // 2).astype(np.uint8)
