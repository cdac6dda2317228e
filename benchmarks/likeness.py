"""Near-duplicates: how many changed images are found as copies, and how many unrelated ones are.

    python benchmarks/likeness.py --data_dir=FOLDER --tiny=TEST.npz --tiny_train=TRAIN.npz

Of ood_suite/data/likeness.py, on FashionMNIST, MNIST (both whole), notMNIST and Tiny ImageNet at
32x32. Writes benchmarks/likeness.json and prints the tables of docs/reliability.md; minutes.
"""

import functools
import io
import pathlib
import sys

import numpy as np
from absl import app, flags
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ood_suite import data  # noqa: E402
from ood_suite.data.likeness import FLAT, lookalikes, perceptual_hashes  # noqa: E402
from ood_suite.files import write_json  # noqa: E402
from ood_suite.progress import progress  # noqa: E402

FLAGS = flags.FLAGS
CHANGED, COUNT, SEED = 2000, 10_000, 0  # images of each set: that are changed, that are unrelated


def encoded(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def scaled(image, side):
    """There and back, by other filters than the evaluation uses."""
    there = image.resize((side, side), Image.Resampling.BICUBIC)
    return there.resize(image.size, Image.Resampling.BILINEAR)


def shifted(image, down, right):
    """What leaves at one side comes in at the other."""
    return np.roll(np.asarray(image), (down, right), (0, 1))


# Change -> function(Pillow image).
CHANGES = {
    "JPEG, quality 75": lambda image: encoded(image, 75),
    "JPEG, quality 50": lambda image: encoded(image, 50),
    "to 20x20 and back": lambda image: scaled(image, 20),
    "to 56x56 and back": lambda image: scaled(image, 56),
    "a pixel to the right": lambda image: shifted(image, 0, 1),
    "a pixel to the right and one down": lambda image: shifted(image, 1, 1),
}
# (images, those that they are compared with): no image of the first is of the second.
UNRELATED = (
    ("mnist test", "fashion_mnist train"), ("fashion_mnist test", "mnist train"),
    ("notmnist test", "mnist train"), ("notmnist test", "fashion_mnist train"),
    ("tiny test", "tiny train"), ("fashion_mnist test", "fashion_mnist train"),
    ("mnist test", "mnist train"),
)  # fmt: skip


@functools.cache
def images(name):
    """uint8 (n, height, width, channels) of "SET SPLIT"; all training images, validation too."""
    title, split = name.split()
    if title == "tiny":
        path = FLAGS.tiny if split == "test" else FLAGS.tiny_train
        return data.load(path, split).images
    parts = ("train", "val") if split == "train" else (split,)
    return np.concatenate([data.load(title, part, FLAGS.data_dir).images for part in parts])


@functools.cache
def hashes(name):
    return perceptual_hashes(images(name)[:COUNT] if name.endswith("test") else images(name))


def changed(image, change):
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(CHANGES[change](pixels)).reshape(image.shape)


def found(name, change):
    """Share of images that are found, changed, as copies of what they were."""
    rows = np.random.default_rng(SEED).permutation(len(images(name)))[:CHANGED]
    own = perceptual_hashes(images(name)[rows])
    moved = perceptual_hashes(np.stack([changed(i, change) for i in images(name)[rows]]))
    asked, partners = lookalikes(moved, own)
    return float((asked == partners).sum() / len(rows))


def main(_):
    names = ("fashion_mnist test", "mnist test", "notmnist test", "tiny test")
    record = {"changed": {}, "unrelated": {}}
    for change in progress(CHANGES, desc="changes", unit="change"):
        record["changed"][change] = {name: found(name, change) for name in names}
    for one, other in progress(UNRELATED, desc="unrelated", unit="pair"):
        rows, _ = lookalikes(hashes(one), hashes(other))
        record["unrelated"][f"{one} in {other}"] = [len(rows), len(hashes(one)), len(hashes(other))]
    grey = images("notmnist test").astype(np.float32)
    record["flat"] = {"notmnist test": int((grey.std(axis=(1, 2, 3)) < FLAT).sum())}
    write_json(ROOT / "benchmarks" / "likeness.json", record)
    print("| change | " + " | ".join(names) + " |\n|" + "---|" * (1 + len(names)))
    for change, row in record["changed"].items():
        print(f"| {change} | " + " | ".join(f"{share:.3f}" for share in row.values()) + " |")
    for pair, (count, own, other) in record["unrelated"].items():
        print(f"{pair}: {count} of {own} ({other})")
    print("flat:", record["flat"])


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Folder of the npz files.")
    flags.DEFINE_string("tiny", None, "Tiny ImageNet's test images at 32x32, npz.")
    flags.DEFINE_string("tiny_train", None, "Training images of it at 32x32, npz.")
    flags.mark_flags_as_required(["data_dir", "tiny", "tiny_train"])
    app.run(main)
