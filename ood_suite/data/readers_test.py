"""Every published format gives the images that were written; whatever the split, the slices and the
order of rows.
"""

import os
import pathlib
import pickle

import numpy as np
import pytest
import scipy.io
from PIL import Image

from ood_suite import data
from ood_suite.data import array_pickles, idx, matlab, readers, views
from tests import published

SHAPE = (32, 32, 3)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (22, *SHAPE), dtype=np.uint8)


@pytest.fixture
def labels():
    return np.arange(22) % 10


def grey(images):
    return images[:, :28, :28, :1]


# Name of the file or folder -> (what writes it, whether it is grey).
WRITERS = {
    "a.mat": (published.write_svhn, False),
    "a.npy": (published.write_two_arrays, False),
    "a.tar": (lambda p, i, n: archive(p, i, n), False),
    "a.tar.gz": (lambda p, i, n: archive(p, i, n), False),
    "a.zip": (lambda p, i, n: archive(p, i, n), False),
    "cifar-100-binary": (published.write_cifar100_binary, False),
    "cifar-100-python": (published.write_cifar100, False),
    "flat.mat": (lambda p, i, n: published.write_svhn(p, i, n, packed=False), False),
    "folder": (published.write_folder, False),
    "t10k-images-idx3-ubyte": (published.write_idx, True),
    "t10k-images-idx3-ubyte.gz": (published.write_idx, True),
    "val_data": (published.write_downsampled, False),
}


def archive(path, images, labels):
    names = [f"LSUN/test/{label}/{row:04d}.png" for row, label in enumerate(labels)]
    contents = map(published.encoded, images)
    published.write_archive(path, dict(zip(names, contents, strict=True)) | {"LSUN/a.txt": b"a"})


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_written_is_read(name, tmp_path, images, labels):
    write, is_grey = WRITERS[name]
    images = grey(images) if is_grey else images
    write(tmp_path / name, images, labels)
    found = data.load(str(tmp_path / name), "test", image_shape=images.shape[1:])
    order = np.lexsort((np.arange(22), labels)) if name == "folder" else slice(None)
    np.testing.assert_array_equal(found.images[:], images[order])
    np.testing.assert_array_equal(found.labels, labels[order])
    assert found.labels.dtype == np.int32 and found.images.shape == images.shape
    rows = np.array([3, 20, 7])
    np.testing.assert_array_equal(found.images[rows], images[order][rows])
    np.testing.assert_array_equal(found.images[5:9], images[order][5:9])
    again = data.load(str(tmp_path / name), "test", image_shape=images.shape[1:])
    assert found.fingerprint == again.fingerprint and len(found.fingerprint) == 16


def test_a_path_needs_no_slash(tmp_path, images, labels, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published.write_svhn(pathlib.Path("test_32x32.mat"), images, labels)
    found = data.load("test_32x32.mat", "test")
    assert found.name == "test_32x32" and len(found) == 22
    published.write_folder(pathlib.Path("photos@3"), images, labels)
    assert len(data.load("photos@3", "test", image_shape=SHAPE)) == 22


@pytest.mark.parametrize("write", [published.write_cifar10, published.write_cifar10_binary])
def test_batches_are_split_as_ever(write, tmp_path, images, labels):
    write(tmp_path / "batches", images, labels)
    parts = {s: data.load(str(tmp_path / "batches"), s) for s in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 16, "val": 4, "test": 2}
    whole = np.concatenate([part.images for part in parts.values()])
    np.testing.assert_array_equal(whole, images)
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts.values()]), labels)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_all_protocols(protocol, tmp_path, images, labels):
    content = {"data": published.planes(images), b"labels": labels, "fine_labels": list(labels)}
    content |= {"mean": np.linspace(0, 1, 5), "text": "abc", "many": np.arange(6).reshape(2, 3).T}
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(content, protocol))
    if protocol == 0:  # of texts alone; nobody publishes arrays so
        with pytest.raises(ValueError):
            array_pickles.load(path)
        return
    if protocol < 3:
        with pytest.raises(ValueError, match="a text or number of"):
            array_pickles.load(path)
        content["data"] = content["data"][:1, :300]
        path.write_bytes(pickle.dumps(content, protocol))
    found = array_pickles.load(path)
    assert found["text"] == "abc" and found["fine_labels"] == labels.tolist()
    for name in ("data", "mean", "many"):
        np.testing.assert_array_equal(found[name], content[name])
    np.testing.assert_array_equal(found["labels"], labels)
    assert isinstance(found["data"], np.memmap) == (protocol > 2)


def test_svhn_is_as_scipy_reads_it(tmp_path, images, labels):
    path = tmp_path / "test_32x32.mat"
    published.write_svhn(path, images, labels)
    found, digits = matlab.read(path)
    expected = scipy.io.loadmat(path)
    np.testing.assert_array_equal(found, expected["X"].transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(digits, expected["y"][:, 0] % 10)


@pytest.mark.parametrize("name", ["a.mat", "t10k-images-idx3-ubyte.gz", "a.tar.gz"])
def test_what_is_large_is_streamed(name, tmp_path, images, labels, monkeypatch):
    write, is_grey = WRITERS[name]
    images = grey(images) if is_grey else images
    write(tmp_path / name, images, labels)
    for module in ("archives", "idx", "matlab"):
        monkeypatch.setattr(f"ood_suite.data.{module}.IN_MEMORY", 100)
    found = data.load(str(tmp_path / name), "test", image_shape=images.shape[1:])
    assert not isinstance(found.images, np.ndarray)
    for rows in (slice(0, 5), slice(5, 9), slice(2, 4), np.array([9, 1, 1, 4])):
        np.testing.assert_array_equal(found.images[rows], images[rows])
    if name == "a.mat":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9000])
        with pytest.raises(ValueError, match="a.mat cannot be read"):
            data.load(str(tmp_path / name), "test").images[:]


def test_many_large_batches_are_one_stream(tmp_path, images, labels, monkeypatch):
    for number in range(1, 11):
        rows = slice(number, number + 4)
        path = tmp_path / f"train_data_batch_{number}"
        published.write_downsampled(path, images[rows], labels[rows])
    small, classes = readers.read(tmp_path, "train")
    monkeypatch.setattr(views, "IN_MEMORY", 100)
    large, _ = readers.read(tmp_path, "train")
    assert isinstance(small, np.ndarray) and not isinstance(large, np.ndarray)
    order = np.concatenate([np.arange(number, number + 4) for number in range(1, 11)])[:32]
    np.testing.assert_array_equal(small, images[order])
    np.testing.assert_array_equal(large[:], small)
    np.testing.assert_array_equal(large[np.array([8, 0, 4])], small[[8, 0, 4]])
    np.testing.assert_array_equal(classes, labels[order])
    with pytest.raises(FileNotFoundError, match="files of the train images alone"):
        readers.read(tmp_path, "test")


@pytest.mark.parametrize(
    "write, lost",
    [
        (published.write_cifar10, "data_batch_3"),
        (published.write_cifar10, "data_batch_5"),
        (published.write_cifar10_binary, "data_batch_5.bin"),
    ],
)
def test_a_lost_batch_is_named(write, lost, tmp_path, images, labels):
    write(tmp_path / "batches", images, labels)
    (tmp_path / "batches" / lost).unlink()
    with pytest.raises(ValueError, match=f"has 4 batches, and {lost} is missing"):
        readers.read(tmp_path / "batches", "train")
    assert len(readers.read(tmp_path / "batches", "test")[0]) == 2


def test_a_lost_batch_of_imagenet_is_named(tmp_path, images, labels):
    for number in (1, 3):
        published.write_downsampled(tmp_path / f"train_data_batch_{number}", images, labels)
    with pytest.raises(ValueError, match="train_data_batch_2 is missing"):
        readers.read(tmp_path, "train")


def test_an_archive_is_its_folder(tmp_path, rng):
    pixels = [rng.integers(0, 256, (20 + 7 * i, 40, 3), np.uint8) for i in range(6)]
    names = [f"dtd/images/{'ab'[i % 2]}/{i}.jpg" for i in range(6)]
    contents = [published.encoded(image, "jpeg") for image in pixels]
    members = dict(zip(names, contents, strict=True))
    for name, content in members.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    folder = data.load(str(tmp_path / "dtd/images"), "test", image_shape=SHAPE)
    for suffix in ("tar", "tar.gz", "tgz", "zip"):
        path = tmp_path / f"dtd-r1.0.1.{suffix}"
        published.write_archive(path, members | {"dtd/images/a/._0.jpg": b"of macOS"})
        found = data.load(str(path), "test", image_shape=SHAPE)
        assert found.images.names.tolist() == names and found.images.classes == ["a", "b"]
        rows = [names.index(p.relative_to(tmp_path).as_posix()) for p in folder.images.paths]
        np.testing.assert_array_equal(found.images[rows], folder.images[:])
        np.testing.assert_array_equal(found.labels[rows], folder.labels)


def test_lists_as_openood_has_them(tmp_path, images, labels):
    names = published.write_folder(tmp_path / "images_classic/tin/val", images, labels)
    names = [f"tin/val/{name}" for name in names]
    path = tmp_path / "benchmark_imglist/cifar10/test_tin.txt"
    published.write_list(path, names[::-1], [-1] * 22)
    found = data.load(str(path), "test", image_shape=SHAPE)
    np.testing.assert_array_equal(found.images[:], images[::-1])
    assert found.name == "test_tin" and set(found.labels) == {-1}
    assert all(map(os.path.isfile, found.images.names)), "the sheets of a report are drawn of them"
    path.write_text(f"{names[0]} 3\n\n{names[1]}\n")
    assert data.load(str(path), "test", image_shape=SHAPE).labels.tolist() == [3, -1]


def test_labels_and_shapes_of_idx(tmp_path, images):
    path = tmp_path / "train-images-idx3-ubyte"
    published.write_idx(path, grey(images))
    assert set(idx.read(path)[1]) == {-1}
    published.write_idx(path, grey(images), range(21))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte .*\(21,\) for 22 images"):
        idx.read(path)
    published.write_idx(tmp_path / "emnist-digits-train-images-idx3-ubyte.gz", grey(images))
    with pytest.raises(ValueError, match="several sets. Give one file: emnist-digits-train"):
        data.load(str(tmp_path), "train")
    with pytest.raises(ValueError, match="Give the file of images"):
        idx.read(tmp_path / "train-labels-idx1-ubyte")


def test_what_is_no_data_set(tmp_path, images):
    Image.fromarray(images[0]).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"one.png is no data set .*Give the folder"):
        data.load(str(tmp_path / "one.png"), "test")
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(ValueError, match="x is no data set of a kind that is known. Expected"):
        data.load(str(tmp_path / "x"), "test")
    with pytest.raises(FileNotFoundError, match="There is no file or folder none.tar.gz"):
        data.load("none.tar.gz", "test")
    np.savez(tmp_path / "x.npz", images=images)
    (tmp_path / "x").write_bytes((tmp_path / "x.npz").read_bytes())
    assert len(data.load(str(tmp_path / "x"), "test")) == 22
    assert len(data.load(str(tmp_path / "x.npz"), "test")) == 22
