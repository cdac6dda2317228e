"""Transforms: those of torchvision number for number, the ones without scaling, refusals, and that
names, notes and fingerprints say which was used.
"""

import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from ood_suite import data, processors
from ood_suite.data import decoding, framing
from ood_suite.data.streams import FolderImages
from ood_suite.data.transforms import to_shape
from ood_suite.files import load_npz
from tests import published

REFERENCES = pathlib.Path(__file__).parents[2] / "tests" / "references"
SIZE = 28


def references():
    """{"37x45": {"image", "squash", ...}} and the versions that they were made with."""
    arrays = load_npz(REFERENCES / "torchvision.npz")
    found = {}
    for name, array in arrays.items():
        size, slash, part = name.partition("/")
        if slash:
            found.setdefault(size, {})[part] = array
    return found, json.loads(str(arrays["versions"]))


def framed(image, transform, name="a"):
    return decoding.picture(Image.fromarray(image), (SIZE, SIZE, 3), transform, name)


@pytest.mark.parametrize(
    "transform", ["centre_crop", "imagenet", "imagenet_232", "shorter_side", "squash"]
)
def test_they_are_those_of_torchvision(transform):
    found, versions = references()
    assert versions["torchvision"] and len(found) == 6
    for arrays in found.values():
        image = arrays["image"]
        if transform == "centre_crop" and min(image.shape[:2]) < SIZE:
            continue  # torchvision fills up with black, which we refuse
        np.testing.assert_array_equal(framed(image, transform), arrays[transform])


def test_scaling_is_antialiased_as_on_tensors():
    for arrays in references()[0].values():
        squashed = framed(arrays["image"], "squash").astype(int)
        assert np.abs(squashed - arrays["squash_of_tensor"]).max() <= 1
        as_arrays, _ = to_shape(arrays["image"][None], (SIZE, SIZE, 3))
        np.testing.assert_array_equal(as_arrays[0], squashed)


def test_scaling_is_a_triangle_filter(rng):
    """The definition: weights max(0, 1 - |distance| / scale), of pixels' centres, scale >= 1."""
    image = rng.integers(0, 256, (50, 41, 3)).astype(np.uint8)

    def weights(size, wanted):
        scale = max(size / wanted, 1.0)
        centres = (np.arange(wanted) + 0.5) * size / wanted
        distance = np.abs(np.arange(size) + 0.5 - centres[:, None])
        found = np.maximum(0.0, 1.0 - distance / scale)
        return found / found.sum(axis=1, keepdims=True)

    expected = np.einsum(
        "ih,jw,hwc->ijc", weights(50, SIZE), weights(41, SIZE), image.astype(float)
    )
    assert np.abs(framed(image, "squash") - expected).max() < 1.01


def test_crops_without_scaling(rng):
    image = rng.integers(0, 256, (64, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(framed(image, "centre_crop"), image[18:46, 11:39])
    crops = [framed(image, "random_crop", f"{i}") for i in range(200)]
    np.testing.assert_array_equal(crops[7], framed(image, "random_crop", "7"))
    windows = np.lib.stride_tricks.sliding_window_view(image, (SIZE, SIZE, 3))[..., 0, :, :, :]
    windows = windows.reshape(37, 23, SIZE, SIZE, 3)
    places = [np.argwhere((windows == crop).all(axis=(2, 3, 4)))[0] for crop in crops]
    assert np.ptp(places, axis=0).tolist() == [36, 22]
    assert np.abs(np.mean(places, axis=0) - (18, 11)).max() < 2.5
    np.testing.assert_array_equal(framed(image[:SIZE, :SIZE], "exact"), image[:SIZE, :SIZE])
    for transform, message in (
        ("exact", "a has 20x40 pixels. Expected 28x28"),
        ("centre_crop", "from which 28x28 cannot be cut. Take another transform, such as squash"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            framed(image[:20, :40], transform)


def test_names_and_notes_say_which(tmp_path, rng):
    images = rng.integers(0, 256, (6, 40, 60, 3), dtype=np.uint8)
    published.write_folder(tmp_path / "dtd", images, np.zeros(6, int))
    prints = {FolderImages(tmp_path / "dtd", (32, 32, 3)).fingerprint}
    for transform in framing.TRANSFORMS:
        found = data.load(f"{tmp_path}/dtd:{transform}", "test", image_shape=(32, 32, 3))
        assert found.name == "dtd" and "32x32" in found.images.steps[0]
        prints.add(found.images.fingerprint)
        if transform != "exact":
            assert found.images[0:2].shape == (2, 32, 32, 3)
    assert len(prints) == len(framing.TRANSFORMS)  # "cover" is what there is without a name
    with pytest.raises(ValueError, match="class0/0000.png has 40x60 pixels. Expected 32x32"):
        data.load(f"{tmp_path}/dtd:exact", "test", image_shape=(32, 32, 3)).images[0:1]
    with pytest.raises(ValueError, match="no transform 'squish' .*Known: centre_crop, cover"):
        data.load(f"{tmp_path}/dtd:squish", "test", image_shape=(32, 32, 3))


def test_arrays_are_transformed_too(tmp_path, rng):
    images = rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    published.write_downsampled(tmp_path / "val_data", images, np.arange(6))
    found = data.load(f"{tmp_path}/val_data:centre_crop", "test", image_shape=(32, 32, 3))
    np.testing.assert_array_equal(found.images[:], images[:, 16:48, 16:48])
    np.testing.assert_array_equal(found.images[np.array([4, 1])], images[[4, 1], 16:48, 16:48])
    data.npz.write_images(tmp_path / "own_test.npz", images, np.arange(6))
    other = data.load("own:centre_crop", "test", tmp_path, (32, 32, 3))
    np.testing.assert_array_equal(other.images[:], found.images[:])
    assert other.images.fingerprint == found.images.fingerprint
    crops = data.load("own:random_crop", "test", tmp_path, (32, 32, 3)).images
    np.testing.assert_array_equal(crops[2:4], crops[:][2:4])
    with pytest.raises(ValueError, match="own must be told the size"):
        data.load("own:squash", "test", tmp_path)


def test_threads_change_nothing(tmp_path, rng, monkeypatch):
    images = rng.integers(0, 256, (50, 20, 20, 3), dtype=np.uint8)
    published.write_folder(tmp_path, images, np.zeros(50, int), "jpg")
    found = {}
    for count in (1, 2, 7):
        monkeypatch.setattr(processors, "threads", lambda count=count: count)
        found[count] = FolderImages(tmp_path, (32, 32, 3))[:]
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_array_equal(found[1], found[7])
    for row in (40, 13):
        (tmp_path / f"class0/{row:04d}.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match="0013.jpg cannot be read"):
        FolderImages(tmp_path, (32, 32, 3))[:]
