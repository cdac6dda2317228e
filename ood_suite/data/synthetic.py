"""OOD images that need no OOD data: noise, and spoilt ID images. Seeded, any size, uint8 0..255."""

import numpy as np
from scipy import ndimage

COUNT, SEED = 10_000, 0  # of the sets in the catalogue
STRIPES = (4, 5, 7, 10, 15, 20)
# The simplest images that no class has: a detector that accepts many of one kind has a blind spot.
# Those of NINCO (Bitterwolf et al., "In or Out? Fixing ImageNet Out-of-Distribution Detection
# Evaluation", ICML 2023) that need no ID images, as our own generators make them; those that do are
# corruptions.PERMUTED.
UNIT_TESTS = (
    "black", "blobs", "constant", "gaussian", "grey", "horizontal_stripes", "low_frequency",
    "rademacher", "tricolour", "tricolour_primary", "uniform", "vertical_stripes", "white",
)  # fmt: skip


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


def grey(count, image_shape, seed=SEED):
    """One grey an image, the same in all channels, uniform on 0..255 (NINCO)."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, 1, 1, 1), dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (count, *image_shape)))


def black(count, image_shape):
    """Every value 0 (NINCO)."""
    return np.zeros((count, *image_shape), np.uint8)


def white(count, image_shape):
    """Every value 255 (NINCO)."""
    return np.full((count, *image_shape), 255, np.uint8)


def horizontal_stripes(count, image_shape, seed=SEED):
    """Lines of 4 to 20 stripes, each of one colour, uniform on 0..255 (NINCO)."""
    return _striped(count, image_shape, seed, STRIPES, (0,))


def vertical_stripes(count, image_shape, seed=SEED):
    """The same in columns (NINCO)."""
    return _striped(count, image_shape, seed, STRIPES, (1,))


def tricolour(count, image_shape, seed=SEED):
    """Flags: three stripes in lines or columns (NINCO)."""
    return _striped(count, image_shape, seed, (3,), (0, 1))


def tricolour_primary(count, image_shape, seed=SEED):
    """Flags whose colours have channels of 0 or 255 (NINCO)."""
    return _striped(count, image_shape, seed, (3,), (0, 1), primary=True)


def _striped(count, image_shape, seed, numbers, axes, *, primary=False):
    """Images of stripes: of how many, and along which axes, is drawn for each."""
    rng = np.random.default_rng(seed)
    images = np.empty((count, *image_shape), np.uint8)
    for image in images:
        number, axis = int(rng.choice(numbers)), int(rng.choice(axes))
        colours = rng.integers(0, 256, (number, image_shape[-1]), dtype=np.uint8)
        if primary:
            colours = 255 * (colours // 128)
        side = image_shape[axis]
        which = np.minimum(np.arange(side) // max(1, side // number), number - 1)
        image[:] = np.expand_dims(colours[which], 1 - axis)
    return images


def low_frequency(count, image_shape, seed=SEED):
    """Uniform noise, blurred by a Gaussian of 10 to 85 of 224 pixels around the edges, stretched to
    0..255 (NINCO).
    """
    rng = np.random.default_rng(seed)
    images = np.empty((count, *image_shape), np.uint8)
    for image in images:
        width = rng.choice([10, 15, 25, 40, 60, 85]) * min(image_shape[:2]) / 224
        blurred = ndimage.gaussian_filter(rng.random(image_shape), (width, width, 0), mode="wrap")
        low, high = blurred.min(), blurred.max()
        image[:] = np.rint(255.0 * (blurred - low) / (high - low))
    return images


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
    for row in np.flatnonzero(others == np.arange(len(images))):
        if others[row] == row:  # one now and then, not itself
            others[[row, row - 1]] = others[[row - 1, row]]
    first, second = images.astype(np.uint16), images[others].astype(np.uint16)
    return ((first + second + 1) // 2).astype(np.uint8)
