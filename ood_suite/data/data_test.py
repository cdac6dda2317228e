"""Data sets: where they are looked for, the fixed split, derived sets, transforms, refusals."""

import hashlib
import re

import numpy as np
import pytest

from ood_suite import data, shipped
from ood_suite.data import transforms
from ood_suite.data.npz import check_images, read_images, write_images
from tests import glyphs


def test_the_whole_training_file_is_split_80_20_in_order(tmp_path, rng):
    images = rng.integers(0, 256, (10, 4, 4, 1), dtype=np.uint8)
    write_images(tmp_path / "mnist_train.npz", images, np.arange(10))
    train, val = (data.load("mnist", split, tmp_path) for split in ("train", "val"))
    np.testing.assert_array_equal(train.labels, np.arange(8))
    np.testing.assert_array_equal(val.images, images[8:])
    assert train.note == "" and train.fingerprint != val.fingerprint
    write_images(tmp_path / "mnist_val.npz", images[:2], np.arange(2))
    assert len(data.load("mnist", "train", tmp_path)) == 10


def test_embedded_samples_are_announced_balanced_and_as_documented(tmp_path):
    readme = (data.IMAGE_DATA / "README.md").read_text()
    for split, count in (("train", 10000), ("val", 2000), ("test", 2000)):
        sample = data.load("fashion_mnist", split, tmp_path)
        assert sample.images.shape == (count, 28, 28, 1)
        assert (np.bincount(sample.labels) == count // 10).all()
        assert "embedded sample" in sample.note and "tfds_to_np" in sample.note
    assert len(data.load("mnist", "test")) == 2000 and len(data.load("glyphs", "test")) == 1000
    files = sorted((shipped.resource("image_data") / "samples").glob("*.npz"))
    assert sum(path.stat().st_size for path in files) < 8 * 2**20
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme, path.name


def test_a_missing_set_names_file_and_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"svhn_cropped_test\.npz.*tfds_to_np --name=svhn"):
        data.load("svhn_cropped", "test", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Known data sets: black, blobs, cifar10"):
        data.load("fashionmnist", "test", tmp_path)
    with pytest.raises(ValueError, match="`split` must be one of"):
        data.load("mnist", "training", tmp_path)


def test_the_stand_in_is_announced(tmp_path, rng):
    found = data.first_available(("notmnist", "glyphs"), "test", tmp_path)
    assert found.name == "glyphs" and "glyphs stands in for notmnist, which is absent" in found.note
    write_images(tmp_path / "notmnist.npz", np.zeros((2, 28, 28, 1), np.uint8), np.zeros(2))
    assert data.first_available(("notmnist", "glyphs"), "test", tmp_path).note == ""


def test_one_file_is_no_training_and_validation_data(tmp_path, rng):
    """A path is read as it is: the model was validated on what it learned."""
    images, labels = rng.integers(0, 256, (20, 4, 4, 1), np.uint8), np.arange(20) % 2
    write_images(tmp_path / "mine.npz", images, labels)
    with pytest.raises(ValueError, match="same images for training and validation. Call the files"):
        data.training_and_validation(str(tmp_path / "mine.npz"))
    (tmp_path / "mine.npz").rename(tmp_path / "mine_train.npz")
    training, validation = data.training_and_validation("mine", tmp_path)
    assert (len(training), len(validation)) == (16, 4)


def test_grey_cifar(tmp_path, rng):
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    write_images(tmp_path / "cifar10_test.npz", images, np.arange(5))
    grey = data.load("cifar10_grey", "test", tmp_path)
    expected = np.rint(images @ np.array([0.299, 0.587, 0.114]))
    for channel in range(3):
        np.testing.assert_array_equal(grey.images[..., channel], expected)


def test_ood_images_pass_through_the_id_shape(rng):
    colour = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    images, steps = transforms.to_shape(colour, (28, 28, 1))
    assert images.shape == (3, 28, 28, 1) and images.dtype == np.uint8
    assert steps == ["3 to 1 channels", "32x32 resized to 28x28 (bilinear)"]
    same, steps = transforms.to_shape(colour, (32, 32, 3))
    assert same is colour and steps == []
    flat, _ = transforms.to_shape(np.full((1, 30, 30, 1), 77, np.uint8), (28, 28, 3))
    assert (flat == 77).all()
    with pytest.raises(ValueError, match="4 channels cannot become"):
        transforms.to_shape(np.zeros((1, 8, 8, 4), np.uint8), (8, 8, 3))


def test_glyphs_are_seeded_varied_and_centred():
    images, labels = glyphs.render(20, seed=3)
    again, _ = glyphs.render(20, seed=3)
    np.testing.assert_array_equal(images, again)
    assert images.dtype == np.uint8 and (labels[:10] == np.arange(10)).all()
    assert (images.reshape(20, -1).max(1) > 120).all()
    assert len({image.tobytes() for image in images}) == 20
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    assert np.mean(border > 0) < 0.05


@pytest.mark.parametrize(
    "images, message",
    [
        (np.random.rand(2, 4, 4, 1), "Received: float64 in [0, 1]. Convert with (255 * images)"),
        (np.zeros((2, 4, 4, 1), np.int64), "must be uint8 in 0..255. Received: dtype=int64"),
        (np.zeros((2, 4, 4), np.uint8), "must have shape (n, height, width, channels)"),
        (np.zeros((0, 4, 4, 1), np.uint8), "must not be empty"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_images(images)


def test_bad_files(tmp_path):
    path = tmp_path / "x.npz"
    images = np.zeros((3, 4, 4, 1), np.uint8)
    with pytest.raises(ValueError, match="3 images and 2 labels"):
        write_images(path, images, [0, 1])
    np.savez(path, images=images, labels=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"`labels` of .* must be integers of shape \(3,\)"):
        read_images(path)
    np.savez(path, pictures=images)
    with pytest.raises(ValueError, match=r"must hold an array `images`. Received: \['pictures'\]"):
        read_images(path)
    np.savez(path, images=images)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated"):
        read_images(path)


@pytest.mark.parametrize("label", [2**32 + 1, 2**63, -(2**40)])
def test_labels_that_would_wrap_are_refused(tmp_path, label):
    images = np.zeros((2, 4, 4, 1), np.uint8)
    labels = np.array([0, label], np.uint64 if label > 2**62 else np.int64)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    with pytest.raises(ValueError, match="`labels` of .*a.npz must lie in"):
        read_images(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="`labels` must lie in"):
        write_images(tmp_path / "b.npz", images, labels)


def test_names_are_matched_without_regard_to_case(tmp_path):
    write_images(tmp_path / "MNIST2_test.npz", np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2))
    assert data.load("Uniform", "test", tmp_path, (4, 4, 1)).name == "uniform"
    assert data.load("MNIST2", "test", tmp_path).name == "MNIST2"
    with pytest.raises(FileNotFoundError, match="Did you mean lsun_resize"):
        data.load("lsun_resise", "test", tmp_path)
