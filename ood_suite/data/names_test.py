"""Names with transforms and counts: what they mean, and that a sample is the same again, said and
told apart from the whole set.
"""

import numpy as np
import pytest

from ood_suite import data
from ood_suite.data import names
from ood_suite.data.names import Name
from ood_suite.data.npz import write_images
from tests import published


@pytest.mark.parametrize(
    "name, parts",
    [
        ("mnist", Name("mnist")),
        ("mnist@1000", Name("mnist", "", 1000)),
        ("dtd:squash@10", Name("dtd", "squash", 10)),
        ("tfds:mnist", Name("tfds:mnist")),
        ("tfds:mnist@test", Name("tfds:mnist@test")),
        ("tfds:mnist:3.0.1@train[80%:]", Name("tfds:mnist:3.0.1@train[80%:]")),
        ("tfds:mnist@train@7", Name("tfds:mnist@train", "", 7)),
        ("tfds:mnist:squash@7", Name("tfds:mnist", "squash", 7)),
        ("a/b.tar:random_crop", Name("a/b.tar", "random_crop")),
    ],
)
def test_parts(name, parts):
    assert names.parse(name) == parts


@pytest.mark.parametrize(
    "name, message",
    [
        ("mnist@0", "A sample has at least one image"),
        ("mnist:blur", "There is no transform 'blur'"),
        ("mnist@2001", "mnist has 2000 images, of which 2001 cannot be drawn"),
    ],
)
def test_refusals(name, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, "test")


def test_a_sample(tmp_path, rng):
    images = rng.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    write_images(tmp_path / "own_test.npz", images, np.arange(50))
    found, again = (data.load("own@20", "test", tmp_path) for _ in range(2))
    np.testing.assert_array_equal(found.images, images[found.labels])
    np.testing.assert_array_equal(found.images, again.images)
    assert (np.diff(found.labels) > 0).all() and len(found) == 20 and found.name == "own@20"
    assert found.note.startswith("20 of the 50 images of own, drawn with seed 0 (rows ")
    assert found.fingerprint == again.fingerprint
    assert found.fingerprint != data.load("own", "test", tmp_path).fingerprint
    rows, _ = names.sample_rows(50, 20, "own")
    np.testing.assert_array_equal(found.labels, rows)


def test_a_sample_of_a_stream_names_its_rows(tmp_path, rng):
    images = rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    published.write_folder(tmp_path / "photos", images, np.arange(9))
    found = data.load(f"{tmp_path}/photos@4", "test", image_shape=(8, 8, 3))
    np.testing.assert_array_equal(found.images[:], images[found.labels])
    np.testing.assert_array_equal(found.images[1:3], images[found.labels[1:3]])
    for label, name in zip(found.labels, found.images.names, strict=True):
        assert name.endswith(f"{label:04d}.png")
    assert found.images.names.shape == (4,) and "4 of the 9 images" in found.note


def test_a_sample_of_what_has_no_names_has_none(tmp_path, rng, monkeypatch):
    images = rng.integers(0, 256, (9, 28, 28, 1), dtype=np.uint8)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    published.write_idx(path, images)
    monkeypatch.setattr("ood_suite.data.idx.IN_MEMORY", 100)
    found = data.load(f"{path}@4", "test")
    assert len(found.images) == 4 and found.images.names is None


@pytest.mark.tensorflow
def test_a_sample_of_tfds():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=12):
        whole = data.load("tfds:mnist", "test").images[:]
        found = data.load("tfds:mnist@test@5", "test")
        rows, _ = names.sample_rows(12, 5, "")
        np.testing.assert_array_equal(found.images[:], whole[rows])
        np.testing.assert_array_equal(found.images[2:4], whole[rows[2:4]])
        np.testing.assert_array_equal(found.images[np.array([4, 0, 2])], whole[rows[[4, 0, 2]]])
