"""Images as PNG files."""

import io

import numpy as np
from PIL import Image

from ood_suite.files import atomic_path


def save_image_grid(path, images):
    """Writes images (n, height, width, channels), 0..255, as one PNG, about as wide as high,
    magnified if small.
    """
    images = np.clip(np.rint(images), 0, 255).astype(np.uint8)
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    lines = -(-count // columns)
    canvas = np.full((lines * (height + 2), columns * (width + 2), channels), 128, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 2) + 1, (i % columns) * (width + 2) + 1
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
    scale = max(1, 600 // max(picture.size))
    size = picture.width * scale, picture.height * scale
    with atomic_path(path) as temporary:
        picture.resize(size, Image.Resampling.NEAREST).save(temporary)


def png_bits(image):
    """Bits of an image (height, width, channels; uint8) as an optimised PNG file."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(buffer, "PNG", optimize=True)
    return 8.0 * buffer.tell()
