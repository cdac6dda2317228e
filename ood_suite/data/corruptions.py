"""ID images under covariate shift: noise, blur, weather of the sensor and loss of data, at five
severities, called NAME:SHIFT_SEVERITY, such as "cifar10:gaussian_noise_3". Uint8 in, uint8 out.

What is seen remains what it was, so that a classifier should still be right; a detector that flags
such images mistakes noise for news. Formulas are ours after the descriptions of Hendrycks &
Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019, with ImageNet-C's levels; the blur, which is one of pixels, is scaled from 224 pixels to the
side of the image. They are not the published files of CIFAR-10-C and ImageNet-C: for a comparison
with papers, give those as they are.
"""

import difflib
import io

import numpy as np
from PIL import Image
from scipy import ndimage

from ood_suite.data.decoding import decoded
from ood_suite.data.synthetic import jigsaw
from ood_suite.data.views import content_fingerprint, row_numbers
from ood_suite.files import fingerprint

SIDE = 224  # pixels of the images that the widths of blurs are of
SEVERITIES = (1, 2, 3, 4, 5)


def gaussian_noise(image, level, rng):
    """Adds normal noise of standard deviation `level`."""
    return image + rng.normal(0.0, level, image.shape)


def shot_noise(image, level, rng):
    """Counts photons: Poisson of `level` a pixel at full brightness."""
    return rng.poisson(image * level) / level


def impulse_noise(image, level, rng):
    """Makes a share `level` of the values 0 or 1, each with equal probability."""
    hit, salt = rng.random(image.shape) < level, rng.random(image.shape) < 0.5
    return np.where(hit, salt, image)


def gaussian_blur(image, level, rng):
    """Blurs by a Gaussian of standard deviation `level`, in 224ths of the shorter side."""
    width = level * min(image.shape[:2]) / SIDE
    return ndimage.gaussian_filter(image, (width, width, 0.0), mode="nearest")


def brightness(image, level, rng):
    """Adds `level` to the value of HSV, the largest channel; hue and saturation stay."""
    value = image.max(axis=-1, keepdims=True)
    lighter = np.minimum(value + level, 1.0)
    grey = np.broadcast_to(lighter, image.shape)
    return np.divide(image * lighter, value, out=grey.copy(), where=value > 0)


def contrast(image, level, rng):
    """Pulls every value towards the channel's mean, of which a share `level` of the way remains."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * level + mean


def pixelate(image, level, rng):
    """Shrinks both sides to a share `level` by means of boxes, and enlarges the pixels again."""
    height, width = image.shape[:2]
    small = max(1, int(width * level)), max(1, int(height * level))

    def coarse(picture):
        return picture.resize(small, Image.BOX).resize((width, height), Image.NEAREST)

    return _by_pillow(image, coarse)


def jpeg(image, level, rng):
    """Encodes as JPEG of quality `level`."""

    def encoded(picture):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=level)
        return Image.open(file)

    return _by_pillow(image, encoded)


def _by_pillow(image, change):
    pixels = np.rint(255.0 * image).astype(np.uint8)
    picture = change(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    return np.asarray(picture).reshape(image.shape) / 255.0


# Shift -> (function(image float64 in [0, 1], level, generator), its levels by severity).
SHIFTS = {
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "gaussian_blur": (gaussian_blur, (1, 2, 3, 4, 6)),
    "gaussian_noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "impulse_noise": (impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "jpeg": (jpeg, (25, 18, 15, 10, 7)),
    "pixelate": (pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "shot_noise": (shot_noise, (60, 25, 12, 5, 3)),
}
NAMES = tuple(f"{shift}_{severity}" for shift in SHIFTS for severity in SEVERITIES)


def permuted_pixels(image, rng):
    """The pixels, each with its channels, in another order."""
    return rng.permutation(image.reshape(-1, image.shape[-1])).reshape(image.shape)


def permuted_patches(image, rng):
    """The 4 x 4 patches in another order, see synthetic.jigsaw."""
    return jigsaw(image[None], rng)[0]


# ID images of which nothing but colours, or textures, is left: no shifts, unit tests as NINCO's
# (evaluation.unit_tests). Each image has an order of its own.
PERMUTED = {"permuted_patches": permuted_patches, "permuted_pixels": permuted_pixels}
CHANGES = (*NAMES, *PERMUTED)


def expanded(asked):
    """Names of shifts with severities, of "all", of shifts (all severities) or of such names.

    Raises:
        ValueError: a name that is none of these.

    >>> expanded(["jpeg_2", "contrast"])[:3]
    ('jpeg_2', 'contrast_1', 'contrast_2')
    """
    found = []
    for name in asked:
        own = [known for known in NAMES if name in ("all", known, known.rpartition("_")[0])]
        if not own:
            close = difflib.get_close_matches(name, [*NAMES, *SHIFTS], 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"There is no shift {name!r}.{hint} Known: all, {', '.join(SHIFTS)}; one severity "
                "of five as gaussian_noise_3."
            )
        found += own
    return tuple(dict.fromkeys(found))


def corrupted(image, name, row=0):
    """An image of uint8 (height, width, channels) under a shift such as "gaussian_noise_3", or
    permuted.

    Args:
        row: of the image in its set, which random numbers depend on, with the name.
    """
    rng = np.random.default_rng([row, CHANGES.index(name)])
    if name in PERMUTED:
        return PERMUTED[name](image, rng)
    shift, _, severity = name.rpartition("_")
    function, levels = SHIFTS[shift]
    changed = function(image / 255.0, levels[int(severity) - 1], rng)
    return np.rint(255.0 * np.clip(changed, 0.0, 1.0)).astype(np.uint8)


class Shifted:
    """Images under a shift, computed when they are taken; the same whichever are taken at once.

    Args:
        images: uint8 (n, height, width, channels), or a stream that gives such slices.
        name: of CHANGES.
    """

    labels_apart = True  # see views

    def __init__(self, images, name):
        self.images, self.name, self.shape = images, name, images.shape
        self.steps = [*getattr(images, "steps", []), f"shifted by {name}"]

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        numbers = row_numbers(rows, len(self))
        pairs = zip(numbers, self.images[rows], strict=True)
        return decoded(pairs, lambda pair: corrupted(pair[1], self.name, int(pair[0])))

    @property
    def fingerprint(self):
        """Of the images and the shift."""
        images = self.images
        own = content_fingerprint(images) if isinstance(images, np.ndarray) else images.fingerprint
        return fingerprint(np.frombuffer(f"{own} {self.name}".encode(), np.uint8))
