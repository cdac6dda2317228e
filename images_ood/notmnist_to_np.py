"""Turns notMNIST_small, a folder or tar of A..J/*.png, into notmnist.npz.

    python -m images_ood.notmnist_to_np --source=notMNIST_small.tar.gz --data_dir=image_data

The original has a few files that are no images: they are counted, listed and left out.
"""

import io
import pathlib
import tarfile
import warnings

import numpy as np
from absl import flags, logging

from ood_suite import data
from ood_suite.data.decoding import opened
from ood_suite.data.npz import write_images
from ood_suite.files import reading
from ood_suite.progress import progress
from ood_suite.runs.cli import run_app

FLAGS = flags.FLAGS
LETTERS = "ABCDEFGHIJ"  # the folders of notMNIST, and its classes
SIDE = 28  # pixels
FILE_BYTES = 2**20  # of an image of so many pixels; what is larger is none


def entries(source):
    """(path inside the source, bytes) of every file; no bytes of those larger than FILE_BYTES.

    Nothing is extracted to the disk.

    Raises:
        ValueError: a missing source, no tar, a damaged one, or a member whose path or link leaves
            the folder.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        root = source.resolve()
        for path in sorted(source.rglob("*")):
            if not path.resolve().is_relative_to(root):
                raise ValueError(f"{path} leads out of {source}: refused.")
            if path.is_file():
                is_small = path.stat().st_size <= FILE_BYTES
                yield path.relative_to(source), path.read_bytes() if is_small else b""
        return
    if not source.exists():
        raise ValueError(f"There is no {source}.")
    with reading(source, "a folder or a tar file"), tarfile.open(source) as archive:
        for member in archive:
            path = pathlib.PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or member.issym() or member.islnk():
                raise ValueError(f"The member {member.name[:200]!r} leads out of it: refused")
            if member.isfile():  # a sparse one of terabytes is a few bytes in the archive
                is_small = member.size <= FILE_BYTES
                yield path, archive.extractfile(member).read() if is_small else b""
        archive.fileobj.seek(archive.offset)  # where tarfile takes whatever it finds for the end
        if any(block := archive.fileobj.read(tarfile.BLOCKSIZE)) or len(block) < tarfile.BLOCKSIZE:
            raise ValueError("its end is missing, or a header within it is damaged")


def convert(source):
    """(images, labels, unreadable): uint8 (n, 28, 28, 1), int32 (n,) with 0..9 = A..J, by path;
    what is no image.

    The label is the name of the file's folder; files elsewhere and other suffixes than .png are
    ignored.
    """
    images, unreadable = {}, []
    for path, content in progress(entries(source), desc="notMNIST", unit="file"):
        if path.suffix.lower() != ".png" or path.parent.name not in tuple(LETTERS):
            continue
        try:
            with warnings.catch_warnings(action="ignore"), opened(io.BytesIO(content)) as image:
                if image.size != (SIDE, SIDE):  # before its pixels are decoded
                    raise ValueError(f"size {image.width}x{image.height}")
                pixels = np.asarray(image.convert("L"))
        except Exception as error:  # decoders raise what comes to hand
            unreadable.append(f"{path} ({str(error)[:100]})")
            continue
        images[str(path)] = pixels[..., None], LETTERS.index(path.parent.name)
    if not images:
        raise ValueError(
            f"{source} holds no readable PNG in folders {LETTERS[0]} to {LETTERS[-1]}."
        )
    pictures, labels = zip(*(images[path] for path in sorted(images)), strict=True)
    return np.stack(pictures), np.array(labels, np.int32), unreadable


def main(_):
    images, labels, unreadable = convert(FLAGS.source)
    path = pathlib.Path(FLAGS.data_dir or data.IMAGE_DATA) / "notmnist.npz"
    write_images(path, images, labels)
    logging.info("Wrote %d images to %s.", len(images), path)
    if unreadable:
        logging.warning("%d files are no 28x28 images: %s", len(unreadable), "; ".join(unreadable))


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "notMNIST_small: a folder or a tar (.tar, .tar.gz).")
    flags.DEFINE_string("data_dir", None, "Folder to write notmnist.npz to; default: image_data.")
    flags.mark_flag_as_required("source")
    run_app(main, continues=False)
