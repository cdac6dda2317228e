"""Where the papers' repositories and OpenOOD keep their data sets: the catalogue LAYOUTS, searched
below --data_root, and the folders that a command is told of.
"""

import dataclasses
import os
import pathlib
from typing import TypeAlias

from ood_suite.data import readers
from ood_suite.data.decoding import image_files

_OPENOOD = "OpenOOD's download script"
_ODIN = "the page of ODIN (facebookresearch/odin), under its OOD data sets"
_MOS = "the page of MOS (deeplearning-wisc/large_scale_ood), 10,000 images chosen of it"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set may lie.

    Attributes:
        places: relative paths of the test images, or of a folder of batches of all splits; the
            first that is there counts.
        source: where the set is to be had.
        train: places of the training images, where those of `places` are not the whole set. Sets
            without them are read as they are, whatever the split. Those whose name does not say
            "train" hold all splits, which batches tell apart, and a folder of images does not.
    """

    places: tuple[str, ...]
    source: str
    train: tuple[str, ...] = ()


def _torch(folder, *inner):
    """torchvision's root folder, or what lies in it."""
    return tuple(f"{folder}/{name}" for name in inner) + tuple(inner)


_CIFAR10 = _torch("cifar10", "cifar-10-batches-py", "cifar-10-batches-bin")
_CIFAR100 = _torch("cifar100", "cifar-100-python", "cifar-100-binary")
LAYOUTS = {
    "cifar10": Layout(
        (*_CIFAR10, "cifar10", "cifar10/test", "images_classic/cifar10/test"),
        "the CIFAR page of the University of Toronto (python or binary version)",
        (*_CIFAR10, "cifar10", "cifar10/train", "images_classic/cifar10/train"),
    ),
    "cifar100": Layout(
        (*_CIFAR100, "cifar100", "cifar100/test", "images_classic/cifar100/test"),
        "the CIFAR page of the University of Toronto (python or binary version)",
        (*_CIFAR100, "cifar100", "cifar100/train", "images_classic/cifar100/train"),
    ),
    "dtd": Layout(
        ("dtd/images", "ood_data/dtd/images", "Textures/images", "dtd", "Textures",
         "images_classic/texture", "images_largescale/texture", "dtd-r1.0.1.tar.gz"),
        "the Describable Textures page of Oxford's Visual Geometry Group (dtd-r1.0.1.tar.gz)",
    ),
    "fashion_mnist": Layout(
        ("FashionMNIST/raw", "fashion_mnist", "fashion-mnist"),
        "the repository zalandoresearch/fashion-mnist (four idx files)",
        ("FashionMNIST/raw", "fashion_mnist", "fashion-mnist"),
    ),
    "imagenet": Layout(
        ("ilsvrc2012/val", "ImageNet/val", "imagenet/val", "images_largescale/imagenet_1k/val"),
        "image-net.org (ILSVRC 2012), sorted into a folder a class",
        ("ilsvrc2012/train", "ImageNet/train", "imagenet/train",
         "images_largescale/imagenet_1k/train"),
    ),
    "imagenet32": Layout(
        ("ImageNet32", "imagenet32", "Imagenet32_val", "ImageNet32/val"),
        "image-net.org, downsampled ImageNet (Imagenet32_train, Imagenet32_val)",
        ("ImageNet32", "imagenet32", "Imagenet32_train", "ImageNet32/train"),
    ),
    "imagenet64": Layout(
        ("ImageNet64", "imagenet64", "Imagenet64_val", "ImageNet64/val"),
        "image-net.org, downsampled ImageNet (Imagenet64_train, Imagenet64_val)",
        ("ImageNet64", "imagenet64", "Imagenet64_train", "ImageNet64/train"),
    ),
    "inaturalist": Layout(
        ("iNaturalist", "ood_data/iNaturalist", "images_largescale/inaturalist",
         "iNaturalist.tar.gz"), _MOS,
    ),
    "isun": Layout(("iSUN", "ood_data/iSUN", "iSUN.tar.gz"), _ODIN),
    "lsun_c": Layout(
        ("LSUN", "LSUN-C", "LSUN_C", "ood_data/LSUN_C", "ood_data/LSUN-C", "LSUN.tar.gz"), _ODIN,
    ),
    "lsun_r": Layout(
        ("LSUN_resize", "LSUN-resize", "LSUN_R", "LSUN-R", "ood_data/LSUN_R", "ood_data/LSUN-R",
         "LSUN_resize.tar.gz"), _ODIN,
    ),
    "mnist": Layout(
        ("MNIST/raw", "mnist/MNIST/raw", "MNIST/MNIST/raw", "MNIST", "mnist",
         "images_classic/mnist"),
        "the MNIST page of Yann LeCun, or torchvision (four idx files)",
        ("MNIST/raw", "mnist/MNIST/raw", "MNIST/MNIST/raw", "MNIST", "mnist"),
    ),
    "ninco": Layout(("images_largescale/ninco", "NINCO"), _OPENOOD),
    "openimage_o": Layout(
        ("images_largescale/openimage_o", "openimage_o"), _OPENOOD,
    ),
    "places": Layout(
        ("Places", "ood_data/Places", "images_largescale/places", "Places.tar.gz"), _MOS,
    ),
    "places365": Layout(
        ("places365/test_subset", "ood_data/places365/test_subset", "images_classic/places365",
         "places365"),
        f"the Places365 page of MIT, a subset of its test images; or {_OPENOOD}",
    ),
    "ssb_hard": Layout(("images_largescale/ssb_hard", "ssb_hard"), _OPENOOD),
    "sun": Layout(("SUN", "ood_data/SUN", "SUN.tar.gz"), _MOS),
    "svhn_cropped": Layout(
        ("svhn/test_32x32.mat", "SVHN/test_32x32.mat", "ood_data/SVHN/test_32x32.mat",
         "ood_data/svhn/test_32x32.mat", "test_32x32.mat", "images_classic/svhn/test",
         "images_classic/svhn"),
        "the SVHN page of Stanford (format 2: train_32x32.mat, test_32x32.mat)",
        ("svhn", "SVHN", "ood_data/SVHN", "ood_data/svhn"),
    ),
    "tin_c": Layout(("Imagenet", "Imagenet_crop", "Imagenet.tar.gz"), _ODIN),
    "tin_r": Layout(("Imagenet_resize", "Imagenet_resize.tar.gz"), _ODIN),
    "tiny_imagenet": Layout(
        ("tinyimagenet/test", "tiny-imagenet-200/val/images", "tiny-imagenet-200/val",
         "images_classic/tin/val", "images_classic/tin"),
        "the course page CS231n of Stanford (tiny-imagenet-200.zip)",
        ("tinyimagenet/train", "tiny-imagenet-200/train", "images_classic/tin/train"),
    ),
}  # fmt: skip
# How the papers and their folders call them, in lower case with _ for -.
ALIASES = {
    "cifar_10": "cifar10", "cifar_100": "cifar100", "ilsvrc2012": "imagenet",
    "imagenet_1k": "imagenet", "imagenet_crop": "tin_c", "imagenet_resize": "tin_r",
    "lsun": "lsun_c", "lsun_crop": "lsun_c", "lsun_resize": "lsun_r", "svhn": "svhn_cropped",
    "texture": "dtd", "textures": "dtd", "tin": "tiny_imagenet", "tinyimagenet": "tiny_imagenet",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Folders:
    """--data_dir and --data_root, wherever a `data_dir` is taken; as a path it is the first.

    Attributes:
        data_dir: folder of the npz files; None: the default of the branch.
        data_root: folder of the papers' layouts.
    """

    data_dir: str | None = None
    data_root: str | None = None

    def __fspath__(self):
        return self.data_dir or "."

    def __bool__(self):
        return bool(self.data_dir)

    def __str__(self):
        return self.data_dir or ""


# What a function takes as `data_dir`; None: the default of the branch.
DataDir: TypeAlias = str | os.PathLike | Folders | None


def flags(data_dir):
    """The flags that stand for a `data_dir`, to be pasted."""
    found = [f"--data_dir={data_dir}"] if data_dir else []
    root = data_dir.data_root if isinstance(data_dir, Folders) else None
    return found + ([f"--data_root={root}"] if root else [])


def root_of(data_dir):
    """The data_root of what is given as a `data_dir`, or None.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = data_dir.data_root if isinstance(data_dir, Folders) else None
    if root and not pathlib.Path(root).is_dir():
        raise FileNotFoundError(f"There is no folder {root} (--data_root).")
    return pathlib.Path(root) if root else None


def known(name):
    """The name in LAYOUTS that a name stands for ("LSUN-resize" is lsun_r), or None."""
    plain = name.lower().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    return plain if plain in LAYOUTS else None


def find(root, name, split):
    """The path of a set's split below a folder, or None. Places hold what their name says only if
    there is something in them that is read: an empty folder is passed over.

    Args:
        name: of LAYOUTS. split: "train", "val" or "test".
    """
    layout = LAYOUTS[name]
    is_test = split == "test" or not layout.train
    for place in layout.places if is_test else layout.train:
        path = pathlib.Path(root) / place
        of_all = place in layout.train and "train" not in path.name
        if _holds(path, is_test, of_all):
            return path
    return None


def _holds(place, is_test, of_all):
    if not place.is_dir():
        return place.is_file()
    kind = readers.kind_of(place)
    if kind != "folder":
        return bool(readers.READERS[kind].files_of(place, "test" if is_test else "train"))
    return not of_all and any(True for _ in image_files(place, {}))
