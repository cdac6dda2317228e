"""What happens to OOD images before a model of other images sees them."""

import numpy as np
from PIL import Image

PIXEL_RANGES = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0)}
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as tf.image.rgb_to_grayscale


def to_grey(images):
    """RGB uint8 (n, height, width, 3) -> luminance uint8 (n, height, width, 1), rounded."""
    return np.rint(images @ LUMINANCE)[..., None].astype(np.uint8)


def to_grey_rgb(images):
    """RGB uint8 (n, height, width, 3) -> the same shape with its luminance in all three
    channels.
    """
    return np.repeat(to_grey(images), 3, axis=-1)


def to_shape(images, image_shape):
    """Brings images to the ID data's size and channels.

    Channels: 3 -> 1 by luminance, 1 -> 3 by repetition. Size: bilinear with antialiasing (Pillow).

    Returns:
        (images, steps): uint8 (n, *image_shape), and the list of what was done, for the report.
    """
    height, width, channels = image_shape
    steps = []
    if images.shape[-1] != channels:
        if (images.shape[-1], channels) not in ((1, 3), (3, 1)):
            raise ValueError(
                f"Images of {images.shape[-1]} channels cannot become ones of {channels} channels."
            )
        steps.append(f"{images.shape[-1]} to {channels} channels")
        images = to_grey(images) if channels == 1 else np.repeat(images, 3, axis=-1)
    if images.shape[1:3] != (height, width):
        steps.append(f"{images.shape[1]}x{images.shape[2]} resized to {height}x{width} (bilinear)")
        images = _resized(images, height, width)
    return images, steps


def _resized(images, height, width):
    resized = np.empty((len(images), height, width, images.shape[-1]), np.uint8)
    for i, image in enumerate(images):
        for channel in range(images.shape[-1]):
            plane = Image.fromarray(image[..., channel])
            resized[i, ..., channel] = plane.resize((width, height), Image.Resampling.BILINEAR)
    return resized
