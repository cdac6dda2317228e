"""Images in a tar or zip file, read in place, and image files that a list names.

Both are streams of one shape, as FolderImages are, and their labels are the sorted names of the
folders, or what the list says.
"""

import os
import pathlib
import weakref

import numpy as np

from ood_suite.data import framing, members
from ood_suite.data.decoding import check_channels, decoded, is_image, picture_of, stamp
from ood_suite.data.inflating import Gzip
from ood_suite.data.npz import UNLABELLED
from ood_suite.data.views import IN_MEMORY, exactly, row_numbers
from ood_suite.files import fingerprint, reading

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
ADVICE = " Fetch or copy it again."
MOST_LIST = 2**28  # bytes of a list of images
MOST_LINE = 4096
# Where the files of a list lie, beside its own folder: OpenOOD's are in data/benchmark_imglist/SET.
BESIDE_LISTS = ("", "images_classic", "images_largescale")
ABOVE = 3  # folders above a list that are looked into


class ArchiveImages:
    """The images of an archive in its order, without unpacking it, brought to one shape.

    Gzipped tar files are read forwards; up to 256 MiB of image files are kept, larger archives are
    read anew whenever earlier rows are asked for. Give those as .tar or .zip to train on them.

    Args:
        path: .tar, .tar.gz, .tgz or .zip.
        image_shape: (height, width, channels), 1 (grey) or 3 (RGB). transform: of TRANSFORMS.

    Attributes:
        names: (n,) of the members. labels: int32 (n,), number of the folder below the innermost one
            that holds all images, in `classes`, or -1 for images in that folder itself.
        steps: what is done to the images, for the report.

    Raises:
        ValueError: damaged, no images in it, or member names that lead out of it; or, when it is
            read, a member that is no image.
    """

    def __init__(self, path, image_shape, transform=framing.COVER):
        check_channels(image_shape)
        self.path, self.transform = pathlib.Path(path), transform
        self.steps = [framing.note(transform, image_shape)]
        with reading(path, "an archive of images", ADVICE):
            self.is_packed = members.is_gzipped(self.path)
            self._members = self._listed()
            if not self._members.names:
                raise ValueError("it holds no images")
        self.shape = (len(self._members.names), *image_shape)
        self.names = np.array(self._members.names)
        self.labels, self.classes = classes_of(self._members.names)
        self._file, self._kept = None, None

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        rows = row_numbers(rows, len(self))
        with reading(self.path, "an archive of images", ADVICE):
            if not self.is_packed:
                if self._file is None:
                    self._file = open(self.path, "rb")  # noqa: SIM115
                    weakref.finalize(self, self._file.close)
                return decoded(rows, self._decoded)
            order = np.argsort(rows, kind="stable")
            found = decoded(self._forwards(rows[order]), self._decoded_content)
        return found[np.argsort(order, kind="stable")]

    def _listed(self):
        is_zip = self.path.name.lower().endswith(".zip")
        self._content = members.read_zipped if is_zip else members.read_plain
        return members.of_zip(self.path) if is_zip else members.of_tar(self.path)

    def _decoded(self, row):
        try:
            content = self._content(self._file.fileno(), self._members, row)
        except ValueError as error:
            raise ValueError(f"{self.names[row]}: {error}") from error
        return self._decoded_content((row, content))

    def _decoded_content(self, job):
        row, content = job
        try:
            return picture_of(content, self.shape[1:], self.transform, str(self.names[row]))
        except Exception as error:  # decoders raise what comes to hand; their texts name no file
            raise ValueError(f"{self.names[row]} in it is no image: {str(error)[:200]}") from error

    def _forwards(self, rows):
        """Yields (row, content) of ascending rows of a gzipped archive."""
        starts, sizes = self._members.starts, self._members.sizes
        if sizes.sum() <= IN_MEMORY:
            if self._kept is None:
                with Gzip(self.path) as file:
                    self._kept = [_at(file, *where) for where in zip(starts, sizes, strict=True)]
            yield from ((row, self._kept[row]) for row in rows)
            return
        if self._file is None:
            self._file = Gzip(self.path)
            weakref.finalize(self, self._file.close)
        for row in rows:
            yield row, _at(self._file, starts[row], sizes[row])

    @property
    def fingerprint(self):
        """Of the archive's size and time, the members' names and sizes, shape and transform."""
        found = self.path.stat()
        text = f"{found.st_size} {found.st_mtime_ns} {self.shape} {self.transform}\n"
        text += "\n".join(self._members.names)
        content = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
        return fingerprint(content, self._members.sizes)


class ListedImages:
    """Image files that a text names, a path and a label a line, brought to one shape.

    Args:
        path: of the list, as OpenOOD has them. Paths are relative to its folder, or to one of the
            three above, or to images_classic/ or images_largescale/ in them: to the first where the
            first file lies.
        image_shape, transform: see ArchiveImages.

    Attributes:
        listed: (n,), paths as listed. labels: int32 (n,), as listed; -1 where a line has none.
        steps: what is done to the images, for the report.

    Raises:
        ValueError: an empty list, paths that lead out of the folder, files that are not there.
    """

    def __init__(self, path, image_shape, transform=framing.COVER):
        check_channels(image_shape)
        self.path, self.transform = pathlib.Path(path), transform
        self.steps = [framing.note(transform, image_shape)]
        with reading(path, "a list of images", " Each line is a path and a label."):
            listed, labels = _lines(self.path)
            self.folder = _folder_of(self.path, listed[0])
        self.listed, self.labels = np.array(listed), np.array(labels, np.int32)
        self.shape = (len(listed), *image_shape)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return decoded(self.listed[rows], self._read)

    def _read(self, name):
        path = self.folder / name
        if not path.exists():
            raise ValueError(f"There is no {path}, which {self.path} lists.")
        with reading(path, "an image"):
            return picture_of(path, self.shape[1:], self.transform, str(name))

    @property
    def names(self):
        """Whole paths as text, (n,)."""
        return np.array([str(self.folder / name) for name in self.listed])

    @property
    def fingerprint(self):
        """Of names and labels, sizes and times of the files, shape and transform."""
        lines = [f"{name} {stamp(self.folder / name, self.path)}" for name in self.listed]
        text = "\n".join([*lines, str(self.shape), self.transform])
        return fingerprint(np.frombuffer(text.encode(), np.uint8), self.labels)


def classes_of(names):
    """(labels, classes) of paths: the sorted folders directly below what is common to all."""
    folders = [name.split("/")[:-1] for name in names]
    shared = len(os.path.commonprefix(folders))
    below = [folder[shared] if len(folder) > shared else None for folder in folders]
    classes = sorted({name for name in below if name is not None})
    numbers = {name: i for i, name in enumerate(classes)}
    return np.array([numbers.get(name, UNLABELLED) for name in below], np.int32), classes


def _at(file, start, size):
    file.seek(int(start))
    return exactly(file, int(size))


def _lines(path):
    """(names, labels) of a list."""
    if path.stat().st_size > MOST_LIST:
        raise ValueError(f"it has more than {MOST_LIST:,} bytes")
    names, labels = [], []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(iter(lambda: file.readline(MOST_LINE), ""), 1):
            words = line.rsplit(maxsplit=1)
            if not words:
                continue
            is_labelled = len(words) == 2 and words[1].lstrip("-").isdecimal()
            name = words[0].strip() if is_labelled else line.strip()
            label = int(words[1]) if is_labelled else UNLABELLED
            if not is_image(name) or "\0" in name or abs(label) > 2**31 - 1:
                raise ValueError(f"line {number} is no path and label: {line[:100]!r}")
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"line {number} leads out of the folder: {name[:100]!r}")
            names.append(name)
            labels.append(label)
    if not names:
        raise ValueError("it lists no images")
    return names, labels


def _folder_of(path, first):
    """What the paths of a list are relative to."""
    above = [path.resolve().parent, *path.resolve().parent.parents[:ABOVE]]
    places = [folder / name for folder in above for name in BESIDE_LISTS]
    found = next((place for place in places if (place / first).is_file()), None)
    if found is None:
        raise ValueError(f"its first file {first[:100]!r} is not below {above[-1]} and its folders")
    return found
