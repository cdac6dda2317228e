"""Images one by one with their names, from whatever is given: to be decided on, not trained on.

Folders (with all below), image files, npz files of `images`, zip and tar archives, read in place.
"""

import io
import pathlib
import zipfile
from functools import partial

from PIL import UnidentifiedImageError

from ood_suite.data import framing
from ood_suite.data.decoding import image_files, is_image, opened, picture
from ood_suite.data.members import READ, images_of_tar, opened_tar, refuse_long_list
from ood_suite.data.npz import read_images
from ood_suite.data.transforms import to_shape
from ood_suite.data.views import Transformed, exactly
from ood_suite.files import reading

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
LARGEST = 2**28  # bytes of one file in an archive


def named_images(paths, image_shape, transform=framing.COVER):
    """Yields (name, stamp, load). load(), called before the next is asked for, gives the image,
    uint8 (height, width, channels), as FolderImages brings it to a shape, or to_shape for npz, if
    that is "cover"; or the ValueError of what cannot be read. The stamp, size and time of the
    image's file or of the archive or npz that holds it, is another once that is written anew; None
    of what is not there.

    What is not there, a folder without images or that cannot be listed, and an archive that cannot
    be read (to its end) are such a ValueError too: one of many must not end the work on the others.

    Args:
        paths: of folders, image files, npz files and archives, in the order of the result.
        transform: of framing.TRANSFORMS.
    """
    frame = tuple(image_shape), transform
    for path in map(pathlib.Path, paths):
        try:
            yield from _of(path, frame)
        except (OSError, ValueError) as error:
            yield _unread(path, error)


def _unread(path, error):
    return str(path), _stamp(path), partial(_given, ValueError(str(error).rstrip(".")))


def _stamp(path):
    """Of a file before it is read: one that is replaced meanwhile has the stamp of the old."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_size} {found.st_mtime_ns}"


def _given(value):
    return value


def _of(path, frame):
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}")
    if path.is_dir():
        lost: dict[str, ValueError] = {}
        files = sorted(image_files(path, lost))
        if not files and not lost:
            raise ValueError(f"The folder {path} holds no images")
        for file in files:
            yield str(file), _stamp(file), partial(_read, file, partial(_regular, file), frame)
        for folder, error in lost.items():
            yield _unread(pathlib.Path(folder), error)
    elif path.suffix == ".npz":
        yield from _of_npz(path, frame)
    elif path.name.lower().endswith(ARCHIVES):
        with reading(path, "an archive"):
            yield from _of_archive(path, frame)
    else:
        yield str(path), _stamp(path), partial(_read, path, partial(_regular, path), frame)


def _read(name, source, frame):
    """The image of what source() gives, or the ValueError that says why there is none."""
    try:
        with opened(source()) as file:
            return picture(file, *frame, str(name))
    except UnidentifiedImageError:  # its text names an object in memory
        return ValueError(f"{name} is no image of a kind that is known")
    except Exception as error:  # decoders raise what comes to hand
        return ValueError(f"{name} cannot be read as an image ({str(error)[:200]})")


def _regular(path):
    """The path; ValueError for a pipe, which would be waited for."""
    if not path.is_file():
        raise ValueError("it is no regular file")
    return path


def _of_npz(path, frame):
    stamp = _stamp(path)
    images, _ = read_images(path)
    for row in range(len(images)):
        yield f"{path}#{row}", stamp, partial(_row, images, row, frame)


def _row(images, row, frame):
    image_shape, transform = frame
    if transform != framing.COVER:
        return Transformed(images, image_shape, transform)[row : row + 1][0]
    return to_shape(images[row : row + 1], image_shape)[0][0]


def _of_archive(path, frame):
    stamp = _stamp(path)
    if path.suffix.lower() == ".zip":
        with open(path, "rb") as file:
            refuse_long_list(file)
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if is_image(member.filename):
                    name = f"{path}#{member.filename}"
                    opened = partial(_unzipped, archive, member)
                    yield name, stamp, partial(_member, name, member.file_size, opened, frame)
        return
    with opened_tar(path) as file:
        for member in images_of_tar(file):
            name, content = f"{path}#{member.name}", partial(_content, file, member)
            yield name, stamp, partial(_member, name, member.size, content, frame)


def _unzipped(archive, member):
    """The bytes of a member, never more than its archive's list says."""
    if member.compress_type not in READ:
        raise ValueError("it is neither stored nor deflated: pack it so")
    with archive.open(member) as file:
        return file.read(member.file_size)


def _content(file, member):
    file.seek(member.offset_data)
    return exactly(file, member.size)


def _member(name, size, content, frame):
    if size > LARGEST:
        return ValueError(f"{name} has {size:,} bytes, and at most {LARGEST:,} bytes are read")
    return _read(name, lambda: io.BytesIO(content()), frame)
