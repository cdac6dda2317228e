"""How an image of any size becomes one of the model's size: the named transforms of the papers.

A name may end with ":TRANSFORM", such as "dtd:squash"; what was done is in the notes of a report.
Scaling is bilinear with antialiasing, by Pillow, as torchvision does it on images of files.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable

from PIL import Image

LONGEST = 32  # times the short side, beyond which an image is cut before it is scaled
# The size to which the shorter side is scaled, over the size that is cut out.
MARGIN, MARGIN_232 = 256 / 224, 232 / 224
SEED = 0  # of random crops


def centre_crop(image, size, name):
    """Cuts out the centre, without scaling (torchvision's CenterCrop).

    Raises:
        ValueError: the image is smaller.
    """
    return _cut(image, size, name, 0.5, 0.5)


def cover(image, size, name):
    """Scales until the image just covers the size, and cuts out its centre; long strips are cut
    before.
    """
    width, height = size
    if max(image.size) > LONGEST * min(image.size):
        image = _middle(image, width / height)
    scale = max(height / image.height, width / image.width)
    whole = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = _scaled(image, whole)
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def exact(image, size, name):
    """Leaves the image as it is.

    Raises:
        ValueError: it has another size.
    """
    if image.size != size:
        raise ValueError(f"{name} has {_sizes(image.size)} pixels. Expected {_sizes(size)}")
    return image


def imagenet(image, size, name):
    """Scales the shorter side to 256/224 of the size, and cuts out the centre (torchvision's
    Resize(256) and CenterCrop(224), for models of 224 pixels).
    """
    return centre_crop(_shorter_side(image, round(max(size) * MARGIN)), size, name)


def imagenet_232(image, size, name):
    """Scales the shorter side to 232/224 of the size, and cuts out the centre (torchvision's
    Resize(232) and CenterCrop(224), for the second version of its weights).
    """
    return centre_crop(_shorter_side(image, round(max(size) * MARGIN_232)), size, name)


def random_crop(image, size, name):
    """Cuts out a piece without scaling; the same of an image of the same name (seed 0).

    Raises:
        ValueError: the image is smaller.
    """
    digest = hashlib.blake2b(f"{SEED} {name}".encode(errors="replace"), digest_size=16).digest()
    places = (int.from_bytes(part, "little") / 2**64 for part in (digest[:8], digest[8:]))
    return _cut(image, size, name, *places, is_random=True)


def shorter_side(image, size, name):
    """Scales the shorter side to the size, and cuts out the centre (torchvision's Resize(32) and
    CenterCrop(32), for models of 32 pixels).
    """
    return centre_crop(_shorter_side(image, max(size)), size, name)


def squash(image, size, name):
    """Scales to the size, whatever the proportions (torchvision's Resize((32, 32)))."""
    return _scaled(image, size)


@dataclasses.dataclass(frozen=True)
class Transform:
    """A function (image, (width, height), name) -> image of that size, and its line in reports."""

    function: Callable
    note: str


TRANSFORMS = {
    "centre_crop": Transform(centre_crop, "the centre {} cut out, not scaled"),
    "cover": Transform(cover, "scaled to cover {}, the centre cut out (bilinear, antialiased)"),
    "exact": Transform(exact, "{} as they are"),
    "imagenet": Transform(
        imagenet,
        "shorter side scaled to 256/224, the centre {} cut out (bilinear, antialiased)",
    ),
    "imagenet_232": Transform(
        imagenet_232,
        "shorter side scaled to 232/224, the centre {} cut out (bilinear, antialiased)",
    ),
    "random_crop": Transform(random_crop, "{} cut out at random (seed 0), not scaled"),
    "shorter_side": Transform(
        shorter_side, "shorter side scaled, the centre {} cut out (bilinear, antialiased)"
    ),
    "squash": Transform(squash, "squashed to {} (bilinear, antialiased)"),
}
COVER = "cover"  # of folders and archives, unless a name says otherwise


def note(transform, image_shape):
    """The line of a report: "squashed to 32x32 (bilinear, antialiased)"."""
    height, width = image_shape[:2]
    return TRANSFORMS[transform].note.format(f"{height}x{width}")


def _cut(image, size, name, down, across, is_random=False):
    room = image.width - size[0], image.height - size[1]
    if min(room) < 0:
        raise ValueError(
            f"{name} has {_sizes(image.size)} pixels, from which {_sizes(size)} cannot be cut. "
            "Take another transform, such as squash"
        )
    if is_random:
        left, top = int(across * (room[0] + 1)), int(down * (room[1] + 1))
    else:
        left, top = round(room[0] / 2.0), round(room[1] / 2.0)  # as torchvision rounds
    return image.crop((left, top, left + size[0], top + size[1]))


def _shorter_side(image, size):
    """The longer side is cut down to whole pixels, as torchvision does."""
    short, long = sorted(image.size)
    if long > LONGEST * short:
        image = _middle(image, 1.0)
        short, long = sorted(image.size)
    other = int(size * long / short)
    return _scaled(image, (size, other) if image.width <= image.height else (other, size))


def _scaled(image, size):
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _middle(image, ratio):
    """The middle of a long strip, twice as much as the cut after scaling takes: scaled as a whole,
    40,000 pixels in a row would fill the memory.
    """
    width = min(image.width, math.ceil(2 * ratio * image.height))
    height = min(image.height, math.ceil(2 / ratio * image.width))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _sizes(size):
    return f"{size[1]}x{size[0]}"
