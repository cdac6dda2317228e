"""Images that are read when they are asked for: folders of files, and TFDS splits.

Both behave like a uint8 array (n, height, width, channels) of which slices are taken in order, so
that a data set larger than memory passes through an extractor in batches; folders give rows in any
order too.
"""

import itertools
import pathlib
import re

import numpy as np

from ood_suite.data import framing
from ood_suite.data.decoding import (
    SUFFIXES,
    check_channels,
    decoded,
    image_files,
    opened,
    picture,
    stamp,
)
from ood_suite.data.npz import UNLABELLED
from ood_suite.files import fingerprint, reading
from ood_suite.optional import optional

# Of a TFDS data set: name, config, version. A namespace before it, and arguments behind it, could
# have TFDS read other places and the network.
TFDS_NAME = re.compile(r"[a-zA-Z]\w*(/[\w+.-]+)?(:[\d.*]+)?")


class FolderImages:
    """Image files below a folder, in sorted order, brought to one shape, by several threads.

    Args:
        folder: searched with all its sub-folders; where there are sub-folders directly below, their
            sorted names are the classes.
        image_shape: (height, width, channels), 1 (grey) or 3 (RGB) channels.
        transform: of framing.TRANSFORMS.

    Attributes:
        labels: int32 (n,), number of the sub-folder in `classes`, or -1 without sub-folders.
        classes: sorted names of the sub-folders.
        steps: what is done to the images, for the report.

    Raises:
        ValueError: no images there, a folder that cannot be listed; or, when it is read, a file
            that is no image.
    """

    def __init__(self, folder, image_shape, transform=framing.COVER):
        self.folder, self.transform = pathlib.Path(folder), transform
        self.paths = np.array(sorted(image_files(self.folder)), dtype=object)
        if not len(self.paths):
            raise ValueError(
                f"The folder {folder} holds no images ({', '.join(sorted(SUFFIXES))})."
            )
        check_channels(image_shape)
        self.steps = [framing.note(transform, image_shape)]
        self.shape = (len(self.paths), *image_shape)
        parts = [path.relative_to(self.folder).parts for path in self.paths]
        self.classes = sorted({part[0] for part in parts if len(part) > 1})
        numbers = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([numbers.get(part[0], UNLABELLED) for part in parts], np.int32)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, rows):
        return decoded(self.paths[rows], self._read)

    @property
    def names(self):
        """Paths as text, (n,)."""
        return self.paths.astype(str)

    @property
    def fingerprint(self):
        """Of the relative paths, sizes, times, shape and transform; contents are not read."""
        lines = [f"{p.relative_to(self.folder)} {stamp(p, self.folder)}" for p in self.paths]
        named = [] if self.transform == framing.COVER else [self.transform]
        text = "\n".join([*lines, str(self.shape), *named])
        return fingerprint(np.frombuffer(text.encode(errors="surrogateescape"), np.uint8))

    def _read(self, path):
        with reading(path, "an image"), opened(path) as file:
            name = str(path.relative_to(self.folder))
            return picture(file, self.shape[1:], self.transform, name)


class TfdsImages:
    """A split of a TFDS data set of fixed image size, read in stored order; nothing is downloaded.

    Attributes:
        labels: int32 (n,), read in a pass of their own, or -1 where there are none.

    Raises:
        ValueError: not NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION; the data set is
            unknown, not prepared, or has no images of one fixed size.
    """

    def __init__(self, name, split, tfds_dir=None):
        if not TFDS_NAME.fullmatch(name):
            raise ValueError(
                "A TFDS data set is called NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION. "
                f"Received: {name!r:.200}."
            )
        tfds = optional("tensorflow_datasets")
        self.name, self.split, self.tfds_dir = name, split, tfds_dir
        try:
            builder = tfds.builder(name, data_dir=tfds_dir)
            self.dataset = builder.as_dataset(split=split, shuffle_files=False)
        except Exception as error:  # builders raise what comes to hand
            raise ValueError(
                f"TFDS cannot give the split {split!r} of {name!r}: {error}. Prepare it once with "
                f"tfds.builder({name!r}).download_and_prepare()."
            ) from error
        if "image" not in self.dataset.element_spec:
            known = ", ".join(self.dataset.element_spec)
            raise ValueError(f'The examples of {name} hold no "image". Received: {known}.')
        shape = self.dataset.element_spec["image"].shape
        if None in shape:
            raise ValueError(
                f"The images of {name} have no fixed size ({shape}). Write them into a folder."
            )
        labelled = "label" in self.dataset.element_spec
        labels = self.dataset.map(lambda example: example["label"] if labelled else UNLABELLED)
        self.labels = np.fromiter(labels.as_numpy_iterator(), np.int32)
        self.shape = (len(self.labels), *shape)
        self._position, self._images = None, None

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if not isinstance(rows, slice):
            return self._chosen(rows)
        start, stop, _ = rows.indices(len(self))
        if self._position != start:
            images = self.dataset.skip(start).map(lambda example: example["image"])
            self._images = images.as_numpy_iterator()
        self._position = stop
        return np.stack(list(itertools.islice(self._images, stop - start)))

    def _chosen(self, rows):
        """The images of some rows, of which those between are passed over."""
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place in np.argsort(rows, kind="stable"):
            before = self._position if self._position is not None else -1
            if before < 0 or before > rows[place]:
                self._position = before = 0
                images = self.dataset.map(lambda example: example["image"])
                self._images = images.as_numpy_iterator()
            image = next(itertools.islice(self._images, rows[place] - before, None))
            self._position, found[place] = rows[place] + 1, image
        return found

    @property
    def fingerprint(self):
        """Of name, split, shape and labels."""
        text = f"{self.name} {self.split} {self.shape}"
        return fingerprint(np.frombuffer(text.encode(), np.uint8), self.labels)
