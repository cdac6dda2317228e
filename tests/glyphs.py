"""Letters A to J from the fonts that matplotlib ships: a small stand-in for notMNIST."""

import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGHIJ"
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol",
    "STIXGeneralItalic", "cmb10", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip


def render(count, seed=0, size=28):
    """White letters on black with a random font, size, rotation, shear, shift and brightness.

    Returns:
        images uint8 (count, size, size, 1) and labels int32 (count,), 0..9 for A..J, balanced.
    """
    import matplotlib  # slow to start, and only its fonts are needed

    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 4 * size) for name in FONTS]
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % len(LETTERS)
    images = np.empty((count, size, size, 1), np.uint8)
    for i, label in enumerate(labels):
        canvas = Image.new("L", (8 * size, 8 * size))
        position = (4 * size, 4 * size)
        font = fonts[rng.integers(len(fonts))]
        ImageDraw.Draw(canvas).text(position, LETTERS[label], fill=255, font=font, anchor="mm")
        angle, shear = rng.uniform(-0.3, 0.3), rng.uniform(-0.25, 0.25)
        zoom = 4 * size / (size * rng.uniform(0.75, 1.1))  # canvas pixels per image pixel
        forward = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = zoom * forward @ np.array([[1.0, shear], [0.0, 1.0]])
        offset = 4 * size - matrix @ (size / 2 + rng.uniform(-2.0, 2.0, 2))
        coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
        # Antialiasing: draw the turned letter four times as large, then reduce.
        large = np.array(coefficients).reshape(2, 3)
        large[:, :2] /= 4
        letter = canvas.transform(
            (4 * size, 4 * size),
            Image.Transform.AFFINE,
            tuple(large.ravel()),
            Image.Resampling.BILINEAR,
        ).reduce(4)
        images[i, ..., 0] = np.asarray(letter) * rng.uniform(0.6, 1.0)
    return images, labels
