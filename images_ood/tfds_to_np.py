"""Saves a TFDS image data set as npz, once, so that training, background and evaluation see the
same rows.

    python -m images_ood.tfds_to_np --name=fashion_mnist --data_dir=image_data

Writes <name>_train.npz (the first 80% of the official training rows, in their order),
<name>_val.npz (the rest) and <name>_test.npz. TFDS downloads the data if it has none yet; nothing
else in this project ever downloads.
"""

import pathlib

import numpy as np
from absl import flags, logging

from ood_suite import data
from ood_suite.data.npz import write_images
from ood_suite.data.readers import TRAIN_SHARE
from ood_suite.optional import optional
from ood_suite.progress import progress
from ood_suite.runs.cli import run_app

FLAGS = flags.FLAGS
NAMES = ("cifar10", "cifar100", "fashion_mnist", "mnist", "svhn_cropped")


def read(name, split, tfds_dir=None):
    """One official split in stored order: images uint8 (n, height, width, channels), labels int32
    (n,).
    """
    tfds = optional("tensorflow_datasets")
    dataset = tfds.load(name, split=split, data_dir=tfds_dir, shuffle_files=False)
    examples = list(progress(tfds.as_numpy(dataset), desc=f"{name} {split}", unit="image"))
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples], np.int32)


def convert(name, folder, tfds_dir=None):
    """Writes the three files of a data set into `folder`; returns {split: number of images}."""
    if name not in NAMES:
        raise ValueError(f"Unknown data set {name!r}. Known: {', '.join(NAMES)}.")
    images, labels = read(name, "train", tfds_dir)
    cut = int(TRAIN_SHARE * len(images))
    parts = {  # train last: alone it would be taken for the whole official training set
        "test": read(name, "test", tfds_dir),
        "val": (images[cut:], labels[cut:]),
        "train": (images[:cut], labels[:cut]),
    }
    for split, (part, part_labels) in parts.items():
        write_images(pathlib.Path(folder) / f"{name}_{split}.npz", part, part_labels)
    return {split: len(part) for split, (part, _) in parts.items()}


def main(_):
    folder = FLAGS.data_dir or str(data.IMAGE_DATA)
    for name in FLAGS.name:
        counts = convert(name, folder, FLAGS.tfds_dir)
        logging.info("%s: wrote %s to %s.", name, counts, folder)


if __name__ == "__main__":
    flags.DEFINE_list("name", list(NAMES), f"Data sets, of {', '.join(NAMES)}.")
    flags.DEFINE_string("data_dir", None, "Folder to write to; default: image_data.")
    flags.DEFINE_string("tfds_dir", None, "TFDS's own folder; default: TFDS's.")
    run_app(main, continues=False)
