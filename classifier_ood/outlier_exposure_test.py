"""Auxiliary outliers: crops, order, batches; POEM's regression and choice."""

import keras
import numpy as np
import pytest

from classifier_ood import outlier_exposure, poem
from ood_suite import data
from ood_suite.data.streams import FolderImages
from tests import published


def image_set(images):
    labels = np.arange(len(images), dtype=np.int32) % 10
    return data.ImageSet("own", "train", images, labels)


@pytest.fixture
def outliers(rng):
    images = rng.integers(1, 256, (40, 12, 12, 1), dtype=np.uint8)
    return outlier_exposure.Outliers(image_set(images), (8, 8, 1), seed=3)


def test_crops_are_patches_of_their_image_and_fresh_in_each_epoch(outliers):
    rows = np.array([5, 0, 39, 5])
    seen = set()
    for epoch in range(30):
        crops = outliers.crops(epoch, rows)
        assert crops.shape == (4, 8, 8, 1) and crops.dtype == np.uint8
        np.testing.assert_array_equal(crops[0], crops[3])  # a function of epoch and image
        np.testing.assert_array_equal(outliers.crops(epoch, rows[:1]), crops[:1])
        for crop, row in zip(crops, rows, strict=True):
            padded = np.pad(outliers.images[row], ((4, 4), (4, 4), (0, 0)))
            matches = [
                (top, left, flip)
                for top in range(13)
                for left in range(13)
                for flip in (1, -1)
                if (padded[top : top + 8, left : left + 8][:, ::flip] == crop).all()
            ]
            assert matches
            seen.add((row, *matches[0]))
    assert len(seen) > 60 and {s[1] for s in seen} >= {0, 12} and {s[3] for s in seen} == {1, -1}


def test_other_shapes_and_folders(rng, tmp_path):
    small = outlier_exposure.Outliers(
        image_set(rng.integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)), (8, 8, 1), seed=0
    )
    assert small.crops(0, np.array([2, 0])).shape == (2, 8, 8, 1)
    from PIL import Image

    for i in range(3):
        Image.fromarray(np.full((9, 9), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
    folder = outlier_exposure.load(str(tmp_path), None, (8, 8, 1), seed=0)
    assert isinstance(folder.images, FolderImages)
    assert folder.crops(0, np.array([2, 1])).max(axis=(1, 2, 3)).tolist() == [120, 60]
    with pytest.raises(FileNotFoundError, match="no embedded sample of cifar10"):
        outlier_exposure.load("cifar10", tmp_path, (8, 8, 1), seed=0)


@pytest.mark.parametrize("pool, other", [("files", "array"), ("array", "files"), ("files",) * 2])
def test_images_of_files_are_compared_too(rng, tmp_path, pool, other):
    images = rng.integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
    for name, own in (("a", images), ("b", images[[6, 2]])):
        published.write_folder(tmp_path / name, own, np.zeros(len(own), int))
    sets = {
        kind: [image_set(FolderImages(tmp_path / name, (8, 8, 1)) if kind == "files" else own)
               for name, own in (("a", images), ("b", images[[6, 2]]))]
        for kind in ("files", "array")
    }  # fmt: skip
    outliers = outlier_exposure.Outliers(sets[pool][0], (8, 8, 1), seed=0)
    outliers.leave_out(sets[other][1])
    assert outliers.rows.tolist() == [0, 1, 3, 4, 5]


def test_large_uncompressed_pools_stay_on_disk(tmp_path, rng):
    images = rng.integers(0, 256, (3000, 32, 32, 1), dtype=np.uint8)
    np.savez(tmp_path / "pool.npz", images=images)
    pool = outlier_exposure.load(str(tmp_path / "pool.npz"), None, (28, 28, 1), seed=0)
    assert isinstance(pool.images, np.memmap)
    assert pool.crops(0, np.array([7, 1])).shape == (2, 28, 28, 1)


def test_random_rows_show_all_before_any_again(outliers):
    rows = outlier_exposure.at_random(outliers, 60, seed=1)
    assert sorted(rows(0)[:40]) == list(range(40)) and len(rows(0)) == 60
    np.testing.assert_array_equal(rows(4), rows(4))
    assert np.any(rows(0) != rows(1))


def test_joined_batches_are_the_same_from_any_step(outliers, rng):
    own = image_set(rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8))
    rows = {epoch: outlier_exposure.at_random(outliers, 12, 0)(epoch) for epoch in (0, 1)}

    def batches(step):
        joined = outlier_exposure.joined_batches(
            own, outliers, step, batch_size=5, outlier_batch=3, seed=7, rows=rows, per_epoch=4
        )
        return list(joined)

    whole = batches(0)
    assert len(whole) == 8
    for (images, labels), (later, same) in zip(whole[5:], batches(5), strict=True):
        np.testing.assert_array_equal(images, later)
        np.testing.assert_array_equal(labels, same)
    images, labels = whole[6]
    assert images.shape == (8, 8, 8, 1) and labels[5:].tolist() == [-1] * 3
    np.testing.assert_array_equal(images[5:], outliers.crops(1, rows[1][6:9]))


def test_regression_is_the_formula(rng):
    inside, outside = rng.normal(size=(30, 4)), rng.normal(1.0, 1.0, (20, 4))
    regression = poem.Regression(4)
    regression.add(inside, -3.9, weight=2)
    for part in np.array_split(outside, 3):
        regression.add(part, 3.9)
    z = np.concatenate([inside, inside, outside])
    y = np.r_[np.full(60, -3.9), np.full(20, 3.9)]
    a = z.T @ z / 0.5 + np.eye(4) / 20.0
    np.testing.assert_allclose(regression.mean(), np.linalg.inv(a) @ z.T @ y / 0.5, rtol=1e-9)
    draws = np.array([regression.draw(np.random.default_rng(i)) for i in range(4000)])
    np.testing.assert_allclose(draws.mean(0), regression.mean(), atol=0.05)
    expected = 20.0 * np.linalg.inv(a)
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.1 * expected.max())


@pytest.fixture
def network():
    """Features are the mean of the left and the right half of an image."""
    inputs = keras.Input((8, 8, 1))
    halves = keras.ops.mean(keras.ops.reshape(inputs, (-1, 8, 2, 4)), axis=(1, 3)) / 255.0
    return keras.Model(inputs, {"features": halves, "logits": halves})


def test_poem_takes_the_nearest_to_the_drawn_boundary(network, outliers, rng, tmp_path):
    own = rng.integers(100, 140, (50, 8, 8, 1), dtype=np.uint8)
    chooser = poem.Poem(network, outliers, own, tmp_path, seed=0, count=9, pool_size=32)
    assert chooser.chosen == 4 and len(chooser.rows(0)) == 9 and len(set(chooser.rows(0))) == 4
    chooser.rows(1)
    # the posterior by hand: ID images once for each epoch of the buffer, outliers as shown
    r = network.predict(chooser.id_images, verbose=0)["features"].astype(np.float64)
    shown = [
        network.predict(
            outliers.crops(e, np.load(tmp_path / f"outliers_{e:04d}.npz")["rows"]), verbose=0
        )
        for e in (0, 1)
    ]
    z = np.concatenate([r, r, *(s["features"] for s in shown)])
    y = np.r_[np.full(8, -3.9), np.full(8, 3.9)] + chooser.shift
    a = z.T @ z / 0.5 + np.eye(2) / 20.0
    assert len(z) == len(y)
    regression = chooser._regression(2)
    np.testing.assert_allclose(regression.precision, a, rtol=1e-6)
    np.testing.assert_allclose(regression.mean(), np.linalg.solve(a, z.T @ y / 0.5), rtol=1e-6)
    rng_of_epoch = np.random.default_rng([0, 2, 5])
    pool = np.sort(rng_of_epoch.permutation(40)[:32])
    weights = chooser._boundary(2, rng_of_epoch)
    features = network.predict(outliers.crops(2, pool), verbose=0)["features"].astype(np.float64)
    nearest = pool[np.argsort(np.abs(features @ weights))[:4]]
    assert set(chooser.rows(2)) == set(nearest)


def test_poem_reads_its_choice_again(network, outliers, rng, tmp_path):
    own = rng.integers(100, 140, (50, 8, 8, 1), dtype=np.uint8)
    first = poem.Poem(network, outliers, own, tmp_path, seed=0, count=9, pool_size=32)
    rows = first.rows(0)
    again = poem.Poem(None, outliers, own, tmp_path, seed=0, count=9, pool_size=32)
    np.testing.assert_array_equal(again.rows(0), rows)
