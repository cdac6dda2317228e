"""Data sets: `load(name, split, data_dir)` and the catalogue DATASETS.

A set lives in `data_dir` as `<name>_<split>.npz` with `images` uint8 (n, height, width, channels),
0..255, and integer `labels` (n,). Where only the embedded sample exists it is used, and
`ImageSet.note` says so with the command that gets the full set. Nothing here downloads.

Besides, a name may be the path of a file or folder that `data.readers` knows, or "tfds:NAME": a
file or a folder of images is read as it is, whatever the split. TFDS gives the split asked for, or
that of "tfds:NAME@SPLIT", such as "tfds:mnist@train[80%:]". Below a `data_root` the papers' own
folders are found by name (`data.layouts`). NAME:TRANSFORM, NAME:SHIFT and NAME@COUNT: see
`data.names`.
"""

import dataclasses
import difflib
import pathlib
import re

import numpy as np

from ood_suite import shipped
from ood_suite.data import corruptions, layouts, names, readers, synthetic
from ood_suite.data.npz import UNLABELLED, read_images
from ood_suite.data.readers import needed
from ood_suite.data.streams import TfdsImages
from ood_suite.data.transforms import to_grey_rgb
from ood_suite.data.views import Rows
from ood_suite.files import fingerprint

IMAGE_DATA = pathlib.Path("image_data")  # in the current folder, unless --data_dir says otherwise
FOLD = 5  # of image files for training, sorted by class, every so many is "val"
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What the catalogue knows of a data set.

    Attributes:
        command: what makes the full set; shown whenever it is missing.
        derived_from, transform: another set whose images, transformed, make this one.
        generator: function(count, image_shape) of a set that is generated.
    """

    command: str = ""
    derived_from: str = ""
    transform: object = None
    generator: object = None


_TFDS = "python -m images_ood.tfds_to_np --name={} --data_dir={{data_dir}}"

DATASETS = {
    "black": DataSet(generator=synthetic.black),
    "blobs": DataSet(generator=synthetic.blobs),
    "cifar10": DataSet(_TFDS.format("cifar10")),
    "cifar100": DataSet(_TFDS.format("cifar100")),
    "cifar10_grey": DataSet(_TFDS.format("cifar10"), "cifar10", to_grey_rgb),
    "constant": DataSet(generator=synthetic.constant),
    "fashion_mnist": DataSet(_TFDS.format("fashion_mnist")),
    "gaussian": DataSet(generator=synthetic.gaussian),
    "glyphs": DataSet("see image_data/README.md"),
    "grey": DataSet(generator=synthetic.grey),
    "horizontal_stripes": DataSet(generator=synthetic.horizontal_stripes),
    "low_frequency": DataSet(generator=synthetic.low_frequency),
    "mnist": DataSet(_TFDS.format("mnist")),
    "notmnist": DataSet(
        "python -m images_ood.notmnist_to_np --source=FOLDER_OR_TAR --data_dir={data_dir}",
    ),
    "rademacher": DataSet(generator=synthetic.rademacher),
    "svhn_cropped": DataSet(_TFDS.format("svhn_cropped")),
    "tiny_imagenet": DataSet("put tiny_imagenet_test.npz into {data_dir}, see docs/data.md"),
    "tricolour": DataSet(generator=synthetic.tricolour),
    "tricolour_primary": DataSet(generator=synthetic.tricolour_primary),
    "uniform": DataSet(generator=synthetic.uniform),
    "vertical_stripes": DataSet(generator=synthetic.vertical_stripes),
    "white": DataSet(generator=synthetic.white),
}


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """One split of one data set.

    Attributes:
        images: uint8 (n, height, width, channels), or a stream that gives such slices.
        labels: int32 (n,).
        note: "" or one sentence on what a report must say of these data.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    note: str = ""

    def __len__(self):
        return len(self.images)

    @property
    def fingerprint(self):
        if isinstance(self.images, np.ndarray):
            return fingerprint(self.images, self.labels)
        own = self.images.fingerprint
        if not getattr(self.images, "labels_apart", False):
            return own
        return fingerprint(np.frombuffer(own.encode(), np.uint8), self.labels)


def load(name, split, data_dir=None, image_shape=None):
    """Loads one split of a data set.

    Looks below a data_root; then for `<name>_<split>.npz`, then (for a set with one file only)
    `<name>.npz`; `<name>_train.npz` without a `<name>_val.npz` beside it is the whole official
    training set, of which the first 80% are "train" and the rest is "val". At last the embedded
    sample.

    Args:
        name: a name of DATASETS or layouts.LAYOUTS, any `<name>` whose npz lies in `data_dir`, a
            path, or "tfds:NAME"; each may end with a transform, a shift and a count, see
            `data.names`.
        split: "train", "val" or "test".
        data_dir: folder, or layouts.Folders; None is `image_data` in the current folder.
        image_shape: (height, width, channels) of the model's images, which noise is generated in
            and image files are cut to.

    Raises:
        ValueError: an unknown split, or files that do not hold such images.
        FileNotFoundError: neither file nor sample; the message names both path and command.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}. Received: {split!r}.")
    if data_dir and not pathlib.Path(data_dir).is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir} (--data_dir).")
    asked = names.parse(name)
    found = _whole(asked, split, data_dir, image_shape)
    if asked.shift:
        images = corruptions.Shifted(found.images, asked.shift)
        found = dataclasses.replace(found, name=f"{found.name}+{asked.shift}", images=images)
    return _sample(found, asked.count) if asked.count else found


def training_and_validation(name, data_dir=None):
    """The "train" and "val" splits of a data set, as `load` gives them.

    Raises:
        ValueError: they are the same images (a path is read as it is, whatever the split), or
            images of other shapes.
    """
    training, validation = load(name, "train", data_dir), load(name, "val", data_dir)
    shape = training.images.shape[1:]
    if validation.images.shape[1:] != shape:
        raise ValueError(
            f"The images of {validation.name} (val) have shape {validation.images.shape[1:]}, "
            f"those of {training.name} (train) {shape}."
        )
    if training.fingerprint == validation.fingerprint:
        raise ValueError(
            f"{name} gives the same images for training and validation. Call the files "
            "NAME_train.npz, NAME_val.npz and NAME_test.npz (without a val, the last 20% of train "
            "are it), and give NAME and their folder (--data_dir)."
        )
    return training, validation


def _whole(asked, split, data_dir, image_shape):
    """All images of a name in its parts."""
    root = layouts.root_of(data_dir)
    name = _as_known(asked.bare, root, data_dir)
    asked = dataclasses.replace(asked, bare=name)
    known = DATASETS.get(name)
    is_path = "/" in name or name.lower().endswith(tuple(readers.SUFFIXES))
    if known is None and (is_path or name.startswith("tfds:")):
        return _from_outside(asked, split, image_shape, root)
    if known and known.generator:
        count = asked.count or synthetic.COUNT
        images = known.generator(count, needed(image_shape, name))
        return ImageSet(name, split, images, np.full(len(images), UNLABELLED, np.int32))
    if known and known.derived_from:
        whole = dataclasses.replace(asked, bare=known.derived_from, transform="")
        source = _whole(whole, split, data_dir, image_shape)
        images = known.transform(source.images[:])
        return _framed(dataclasses.replace(source, name=name, images=images), asked, image_shape)
    found = _from_root(asked, split, image_shape, root) if root else None
    if found is not None:
        return found
    folder = pathlib.Path(data_dir or IMAGE_DATA)
    arrays = _read(folder, name, split)
    if arrays is not None:
        return _framed(ImageSet(name, split, *arrays), asked, image_shape)
    below = root / name if root and layouts.known(name) is None else pathlib.Path(name)
    if known is None and (pathlib.Path(name).exists() or below.exists()):
        return _from_outside(asked, split, image_shape, root)
    command = known.command.format(data_dir=folder) if known else "see image_data/README.md"
    arrays = _read(shipped.resource("image_data") / "samples", name, split)
    if arrays is None:
        raise FileNotFoundError(
            f"There is no {folder / f'{name}_{split}.npz'}, and no embedded sample of {name} "
            f"({split}). To make it: {command}.{_where_else(name, known, root)}"
        )
    note = f"{name} ({split}) is the embedded sample of {len(arrays[0])} images; "
    note += f"the full set: {command}"
    return _framed(ImageSet(name, split, *arrays, note), asked, image_shape)


def _as_known(name, root, data_dir):
    """The name of DATASETS that is meant, whatever its case, unless files are called so."""
    folders = [pathlib.Path(), pathlib.Path(data_dir or IMAGE_DATA), *filter(None, [root])]
    if name.lower() not in DATASETS or any([*folder.glob(f"{name}*")] for folder in folders):
        return name
    return name.lower()


def _where_else(name, known, root):
    """What else to do about a data set that is not there."""
    found = layouts.known(name)
    if found is None:
        every = sorted({*DATASETS, *layouts.LAYOUTS})
        close = difflib.get_close_matches(name.lower(), [*every, *layouts.ALIASES], 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return "" if known else f"{hint} Known data sets: {', '.join(every)}."
    layout = layouts.LAYOUTS[found]
    below = f"in {root}" if root else "in the folder of --data_root"
    places = ", ".join(layout.places[:3])
    return f" Or put it {below} as one of {places}; it is to be had from {layout.source}."


def _from_outside(asked, split, image_shape, root):
    """An ImageSet of a path or a "tfds:NAME", called after the last part of it; where that says no
    more than "test", after the last two.
    """
    name = asked.bare
    if name.startswith("tfds:"):
        source, _, part = name.removeprefix("tfds:").partition("@")
        images = TfdsImages(source, part or split)
        label = re.sub(r"\W+", "_", f"{source}_{part}" if part else source).strip("_")
        return _framed(ImageSet(label, split, images, images.labels), asked, image_shape)
    path = pathlib.Path(name)
    if not path.exists() and root and (root / name).exists():
        path = root / name
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    found = readers.read(path, split, image_shape, asked.transform)
    return ImageSet(short_name(path), split, *found)


def _from_root(asked, split, image_shape, root):
    """The ImageSet of a name that LAYOUTS has, if it lies below the folder; otherwise None."""
    name = layouts.known(asked.bare)
    path = layouts.find(root, name, split) if name else None
    if path is None:
        return None
    images, labels = readers.read(path, split, image_shape, asked.transform)
    is_split = layouts.LAYOUTS[name].train and readers.READERS[readers.kind_of(path)].is_stream
    if split != "test" and is_split:
        is_val = np.arange(len(images)) % FOLD == FOLD - 1
        rows = np.flatnonzero(is_val if split == "val" else ~is_val)
        images, labels = Rows(images, rows), labels[rows]
    return ImageSet(name, split, images, labels)


def _framed(found, asked, image_shape):
    """The same with the transform that was asked for."""
    images, _ = readers.transformed(
        found.images, found.labels, image_shape, asked.transform, asked.bare
    )
    return dataclasses.replace(found, images=images)


def _sample(found, count):
    """So many images of a set, and the note that says which, unless these are all."""
    if count == len(found):  # as generated sets have as many as are asked for
        return dataclasses.replace(found, name=f"{found.name}@{count}")
    rows, note = names.sample_rows(len(found), count, found.name)
    is_array = isinstance(found.images, np.ndarray)
    return ImageSet(
        f"{found.name}@{count}",
        found.split,
        found.images[rows] if is_array else Rows(found.images, rows),
        found.labels[rows],
        "; ".join(filter(None, [found.note, note])),
    )


def short_name(path):
    """A path's last part, or its last two if that says nothing; of a file without its suffix."""
    path = path.resolve()
    stem = path.name
    if not path.is_dir():  # as photos.2023
        stem = pathlib.PurePath(stem.removesuffix(".gz")).stem
    generic = stem in (*SPLITS, "images", "data")
    return f"{path.parent.name}_{stem}" if generic else stem


def first_available(names, split, data_dir=None, image_shape=None):
    """The first of several data sets that can be loaded, with a note when it is not the first
    choice.
    """
    return first_of(names, lambda name: load(name, split, data_dir, image_shape))


def first_of(names, load_one):
    """The first of load_one(name) that finds its files; a dataclass with a `note`."""
    if not names:
        raise ValueError("No data set is named.")
    for position, name in enumerate(names):
        try:
            found = load_one(name)
        except FileNotFoundError as error:
            missing = error
            continue
        if position == 0:
            return found
        instead = f"{name} stands in for {names[0]}, which is absent"
        return dataclasses.replace(found, note="; ".join(filter(None, [instead, found.note])))
    raise missing


def _read(folder, name, split):
    """(images, labels) of a split from the files of one folder, or None."""
    path = folder / f"{name}_{split}.npz"
    whole_train = folder / f"{name}_train.npz"
    if (
        split in ("train", "val")
        and whole_train.exists()
        and not (folder / f"{name}_val.npz").exists()
    ):
        return readers.part_of(split, *read_images(whole_train))
    if not path.exists() and split == "test":
        path = folder / f"{name}.npz"
    return read_images(path) if path.exists() else None
