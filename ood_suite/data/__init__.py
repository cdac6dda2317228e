"""Data sets: `load(name, split, data_dir)` and the catalogue DATASETS.

A set lives in `data_dir` as `<name>_<split>.npz` with `images` uint8 (n, height, width, channels),
0..255, and integer `labels` (n,). Where only the embedded sample exists it is used, and
`ImageSet.note` says so with the command that gets the full set. Nothing here downloads.

Besides, a name may be the path of an npz file, the path of a folder of images, or "tfds:NAME":
those are read as they are, whatever the split. TFDS gives the split asked for, or that of
"tfds:NAME@SPLIT", such as "tfds:mnist@train[80%:]".
"""

import dataclasses
import pathlib
import re

import numpy as np

from ood_suite import shipped
from ood_suite.data import synthetic
from ood_suite.data.npz import UNLABELLED, read_images
from ood_suite.data.streams import FolderImages, TfdsImages
from ood_suite.data.transforms import to_grey_rgb
from ood_suite.files import fingerprint

IMAGE_DATA = pathlib.Path("image_data")  # in the current folder, unless --data_dir says otherwise
TRAIN_SHARE = 0.8  # of the official training rows, in their order; the rest is "val"
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
    "blobs": DataSet(generator=synthetic.blobs),
    "cifar10": DataSet(_TFDS.format("cifar10")),
    "cifar100": DataSet(_TFDS.format("cifar100")),
    "cifar10_grey": DataSet(_TFDS.format("cifar10"), "cifar10", to_grey_rgb),
    "constant": DataSet(generator=synthetic.constant),
    "fashion_mnist": DataSet(_TFDS.format("fashion_mnist")),
    "gaussian": DataSet(generator=synthetic.gaussian),
    "glyphs": DataSet("see image_data/README.md"),
    "mnist": DataSet(_TFDS.format("mnist")),
    "notmnist": DataSet(
        "python -m images_ood.notmnist_to_np --source=FOLDER_OR_TAR --data_dir={data_dir}",
    ),
    "rademacher": DataSet(generator=synthetic.rademacher),
    "svhn_cropped": DataSet(_TFDS.format("svhn_cropped")),
    "tiny_imagenet": DataSet("put tiny_imagenet_test.npz into {data_dir}"),
    "uniform": DataSet(generator=synthetic.uniform),
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
        if not isinstance(self.images, np.ndarray):
            return self.images.fingerprint
        return fingerprint(self.images, self.labels)


def load(name, split, data_dir=None, image_shape=None):
    """Loads one split of a data set.

    Looks for `<name>_<split>.npz`, then (for a set with one file only) `<name>.npz`;
    `<name>_train.npz` without a `<name>_val.npz` beside it is the whole official training set, of
    which the first 80% are "train" and the rest is "val". At last the embedded sample.

    Args:
        name: a name of DATASETS, any `<name>` whose npz lies in `data_dir`, a path, or "tfds:NAME".
        split: "train", "val" or "test".
        data_dir: folder; None is `image_data` in the current folder.
        image_shape: (height, width, channels) of the model's images, which noise is generated in
            and image folders are cut to.

    Raises:
        ValueError: an unknown split, or files that do not hold such images.
        FileNotFoundError: neither file nor sample; the message names both path and command.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}. Received: {split!r}.")
    if data_dir and not pathlib.Path(data_dir).is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir} (--data_dir).")
    data_dir = pathlib.Path(data_dir or IMAGE_DATA)
    known = DATASETS.get(name)
    if known is None and (name.startswith("tfds:") or "/" in name or name.endswith(".npz")):
        return _from_outside(name, split, image_shape)
    if known and known.generator:
        images = known.generator(synthetic.COUNT, _needed(image_shape, name))
        return ImageSet(name, split, images, np.full(len(images), UNLABELLED, np.int32))
    if known and known.derived_from:
        source = load(known.derived_from, split, data_dir)
        return dataclasses.replace(source, name=name, images=known.transform(source.images))
    found = _read(data_dir, name, split)
    if found is not None:
        return ImageSet(name, split, *found)
    command = known.command.format(data_dir=data_dir) if known else "see image_data/README.md"
    found = _read(shipped.resource("image_data") / "samples", name, split)
    if found is None:
        hint = "" if known else f" Known data sets: {', '.join(DATASETS)}."
        raise FileNotFoundError(
            f"There is no {data_dir / f'{name}_{split}.npz'}, and no embedded sample of {name} "
            f"({split}). To make it: {command}.{hint}"
        )
    note = f"{name} ({split}) is the embedded sample of {len(found[0])} images; "
    note += f"the full set: {command}"
    return ImageSet(name, split, *found, note)


def _from_outside(name, split, image_shape):
    """An ImageSet of a path or a "tfds:NAME", called after the last part of it; where that says no
    more than "test", after the last two.
    """
    if name.startswith("tfds:"):
        source, _, part = name.removeprefix("tfds:").partition("@")
        images = TfdsImages(source, part or split)
        label = re.sub(r"\W+", "_", f"{source}_{part}" if part else source).strip("_")
        return ImageSet(label, split, images, images.labels)
    path = pathlib.Path(name)
    if path.is_dir():
        images = FolderImages(path, _needed(image_shape, name))
        return ImageSet(_short_name(path), split, images, images.labels)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    return ImageSet(_short_name(path), split, *read_images(path))


def _short_name(path):
    path = path.resolve()
    generic = path.stem in (*SPLITS, "images", "data")
    return f"{path.parent.name}_{path.stem}" if generic else path.stem


def _needed(image_shape, name):
    if image_shape is None:
        raise ValueError(f"`image_shape` is needed to load {name}.")
    return tuple(image_shape)


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
        images, labels = read_images(whole_train)
        cut = int(TRAIN_SHARE * len(images))
        rows = slice(None, cut) if split == "train" else slice(cut, None)
        return images[rows], labels[rows]
    if not path.exists() and split == "test":
        path = folder / f"{name}.npz"
    return read_images(path) if path.exists() else None
