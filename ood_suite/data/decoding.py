"""Image files as arrays of one shape, decoded by several threads: Pillow releases Python's lock."""

import collections
import importlib.util
import io
import os
import pathlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from ood_suite import processors
from ood_suite.data.framing import COVER, TRANSFORMS

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
FORMATS = [  # none that runs another program, as EPS does; AVIF where Pillow has it
    "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP",
    *(["AVIF"] if importlib.util.find_spec("PIL.AvifImagePlugin") else []),
]  # fmt: skip
AHEAD = 4  # images a thread that are begun before the first of them is done
LARGE = 2**24  # pixels from which images are decoded one at a time
MOST_PIXELS = 2**26  # of an image in an archive or a list
MOST_BYTES = 2**25  # of a file in an archive
_UNLISTED = "The folder {} cannot be listed ({}). Make it readable, or take it away."
_ONE_AT_A_TIME = threading.Lock()


def is_image(name):
    """Whether a file's name says so: macOS puts files "._NAME" beside each, which are none."""
    base = name.rpartition("/")[2]
    return os.path.splitext(base)[1].lower() in SUFFIXES and not base.startswith("._")


def image_files(folder, lost=None):
    """Yields the paths of the image files below a folder, through links too, each folder once: by
    its own path rather than by a link.

    Args:
        lost: {path: ValueError} that takes the folders that cannot be listed; without it the first
            of them is raised: all labels behind it would be those of other folders.
    """

    def unlisted(error):
        unread = ValueError(_UNLISTED.format(error.filename, error.strerror))
        if lost is None:
            raise unread from error
        lost[error.filename] = unread

    known, waiting = set(), [pathlib.Path(folder)]
    while waiting:
        start = waiting.pop(0)
        target = pathlib.Path(os.path.realpath(start))
        if known.intersection([target, *target.parents]):
            continue
        known.add(target)
        for place, folders, files in os.walk(start, onerror=unlisted):
            own = target / pathlib.Path(place).relative_to(start)
            folders[:] = [name for name in sorted(folders) if own / name not in known]
            below = (pathlib.Path(place, name) for name in folders)
            waiting += [path for path in below if path.is_symlink()]  # which walk does not enter
            yield from (pathlib.Path(place, name) for name in files if is_image(name))


def stamp(path, source):
    """Size and time of change of an image file, as text.

    Args:
        source: the list or folder that has it.

    Raises:
        ValueError: it is lost, or a link to what is: no FileNotFoundError, which would say that
            there is no such data set.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise ValueError(
            f"{path}, an image of {source}, cannot be read ({error.strerror}). Put it back, or take"
            f" it out of {source}."
        ) from error
    return f"{found.st_size} {found.st_mtime_ns}"


def decoded(jobs, function):
    """uint8 (n, height, width, channels) of function(job) of each; the order is kept, and the first
    error in this order is raised. Jobs are asked for a few ahead.
    """
    count = processors.threads()
    if count == 1:
        return np.stack([function(job) for job in jobs])
    found, begun = [], collections.deque()
    with ThreadPoolExecutor(count) as pool:
        for job, error in _with_error(jobs):
            begun.append(pool.submit(_raise, error) if error else pool.submit(function, job))
            if len(begun) > AHEAD * count:
                found.append(begun.popleft().result())
        found.extend(future.result() for future in begun)
    return np.stack(found)


def _with_error(jobs):
    """(job, None) of each, and (None, the error that ends them): its turn comes behind theirs."""
    try:
        for job in jobs:
            yield job, None
    except Exception as error:
        yield None, error


def _raise(error):
    raise error


def opened(source):
    """An image file, open: of FORMATS, whatever its name. (Pillow goes by content, and some formats
    are programs: EPS is handed to Ghostscript.)

    Args:
        source: path, or an open binary file.
    """
    return Image.open(source, formats=FORMATS)


def picture(file, image_shape, transform=COVER, name="the image"):
    """uint8 (height, width, channels) of an open Pillow image.

    Args:
        transform: of TRANSFORMS. name: of the image, which random crops depend on.
    """
    height, width, channels = image_shape
    if file.mode[0] in "IF":
        raise ValueError(f"mode {file.mode}, more than 8 bits; convert it to 8 bits")
    if file.width * file.height > LARGE:
        with _ONE_AT_A_TIME:
            image = _framed(file, (width, height), channels, transform, name)
    else:
        image = _framed(file, (width, height), channels, transform, name)
    return np.asarray(image).reshape(height, width, channels)


def _framed(file, size, channels, transform, name):
    image = file.convert("L" if channels == 1 else "RGB")
    return TRANSFORMS[transform].function(image, size, name)


def picture_of(content, image_shape, transform, name):
    """The same of the bytes of a file, or of its path.

    Raises:
        ValueError: the image has more than MOST_PIXELS.
    """
    with opened(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
        if file.width * file.height > MOST_PIXELS:
            raise ValueError(f"{file.width} x {file.height} pixels; at most {MOST_PIXELS:,} are")
        return picture(file, image_shape, transform, name)


def check_channels(image_shape):
    """Refuses a shape to which image files cannot be brought."""
    if image_shape[-1] not in (1, 3):
        raise ValueError(f"Images have 1 or 3 channels. Received: {image_shape[-1]}.")
