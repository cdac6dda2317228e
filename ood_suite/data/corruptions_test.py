"""Shifts: imagecorruptions' frozen numbers, what must hold of any image, and names of data sets."""

import numpy as np
import pytest

from ood_suite import data
from ood_suite.data import corruptions, names

# (mean, root mean square of the change) of the image below by imagecorruptions 1.1.2 (scikit-image
# 0.26.0, its Gaussian filter with mode="nearest", opencv-python 5.0.0, pillow 13.0.0, numpy 2.4.6,
# np.random.seed(0)) at severities 1, 3 and 5. Without random numbers every pixel was equal to ours
# but for its rounding, which theirs leaves out.
IMAGECORRUPTIONS = {
    "brightness": [(126.8284, 19.016), (155.8198, 52.223), (169.4374, 70.201)],
    "contrast": [(109.5715, 34.635), (109.5715, 46.180), (109.5715, 54.839)],
    "gaussian_blur": [(109.5713, 10.432), (109.5754, 11.856), (109.6098, 12.489)],
    "gaussian_noise": [(109.8561, 19.979), (111.0732, 42.560), (114.4835, 76.172)],
    "impulse_noise": [(110.1837, 24.720), (111.3069, 42.515), (114.1727, 73.820)],
    "jpeg": [(109.4697, 12.498), (109.7410, 13.211), (109.7751, 16.619)],
    "pixelate": [(109.9734, 9.708), (109.7638, 11.238), (109.8182, 12.166)],
    "shot_noise": [(109.3547, 21.235), (107.9775, 44.750), (100.3452, 79.306)],
}
RANDOM = ("gaussian_noise", "impulse_noise", "shot_noise")


def picture():
    """uint8 (224, 224, 3): waves with a little noise."""
    y, x = np.mgrid[0:224, 0:224]
    waves = np.stack(
        [
            127 + 90 * np.sin(x / 17) + 20 * np.cos(y / 9),
            110 + 80 * np.cos((x + y) / 23),
            90 + 70 * np.sin(y / 31),
        ],
        axis=-1,
    )
    noise = np.random.RandomState(5).normal(0, 12, waves.shape)
    return np.clip(np.rint(waves + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shift", corruptions.SHIFTS)
def test_equal_to_imagecorruptions(shift):
    image = picture()
    for severity, (mean, change) in zip((1, 3, 5), IMAGECORRUPTIONS[shift], strict=True):
        found = corruptions.corrupted(image, f"{shift}_{severity}").astype(float)
        spread = np.sqrt(np.mean((found - image) ** 2))
        # jpeg: other builds of libjpeg decode a little otherwise.
        within = (0.6, 0.6) if shift in RANDOM else (0.1, 0.05)
        assert found.mean() == pytest.approx(mean, abs=within[0])
        assert spread == pytest.approx(change, abs=within[1])


@pytest.mark.parametrize("name", corruptions.NAMES)
@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 7, 3)])
def test_any_shape_stays_and_severity_rises(name, shape, rng):
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    found = corruptions.corrupted(image, name, row=3)
    assert found.shape == shape and found.dtype == np.uint8
    np.testing.assert_array_equal(corruptions.corrupted(image, name, row=3), found)
    shift, _, severity = name.rpartition("_")
    levels = corruptions.SHIFTS[shift][1]
    assert len(levels) == 5 and int(severity) in corruptions.SEVERITIES
    assert list(levels) in (sorted(levels), sorted(levels, reverse=True))


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 12, 3)])
def test_permutations_keep_every_pixel_and_each_image_has_its_own(shape, rng):
    image = rng.integers(0, 256, shape, dtype=np.uint8)

    def colours(pixels):
        return np.unique(pixels.reshape(-1, shape[-1]), axis=0, return_counts=True)

    for name in corruptions.PERMUTED:
        found = [corruptions.corrupted(image, name, row) for row in (0, 1)]
        for one in found:
            assert one.dtype == np.uint8 and (one != image).any()
            for ours, theirs in zip(colours(one), colours(image), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert (found[0] != found[1]).any()
    # Patches hold what was in them.
    high, wide = shape[0] // 4, shape[1] // 4
    patch = corruptions.corrupted(image, "permuted_patches", 0)[:high, :wide]
    starts = [(i, j) for i in range(0, shape[0], high) for j in range(0, shape[1], wide)]
    assert any(np.array_equal(patch, image[i : i + high, j : j + wide]) for i, j in starts)


def test_brightness_keeps_the_hue_and_black_becomes_grey():
    image = np.array([[[100, 50, 0], [0, 0, 0]]], np.uint8)
    found = corruptions.corrupted(image, "brightness_1")
    np.testing.assert_array_equal(found, [[[126, 63, 0], [26, 26, 26]]])  # 100 + 25.5; 25.5


def test_a_set_under_a_shift_is_the_same_however_it_is_taken(tmp_path):
    plain = data.load("mnist", "test", tmp_path)
    found = data.load("mnist:shot_noise_4", "test", tmp_path)
    assert found.name == "mnist+shot_noise_4" and len(found) == len(plain)
    np.testing.assert_array_equal(found.labels, plain.labels)
    rows = np.array([5, 2, 9])
    np.testing.assert_array_equal(found.images[rows], found.images[0:10][rows])
    assert (found.images[0:1] != found.images[1:2]).any()
    expected = corruptions.corrupted(plain.images[5], "shot_noise_4", 5)
    np.testing.assert_array_equal(found.images[5:6][0], expected)
    others = [data.load(f"mnist:{n}", "test", tmp_path) for n in ("shot_noise_3", "jpeg_4")]
    assert len({plain.fingerprint, found.fingerprint, *(o.fingerprint for o in others)}) == 4
    some = data.load("mnist:shot_noise_4@20", "test", tmp_path)
    assert some.name == "mnist+shot_noise_4@20" and some.images[0:5].shape == (5, 28, 28, 1)


def test_names():
    assert names.parse("a/b.tar:squash:jpeg_2@7") == names.Name("a/b.tar", "squash", 7, "jpeg_2")
    assert len(corruptions.expanded(["all"])) == 40
    assert corruptions.expanded(["jpeg_2", "jpeg_2", "jpeg"])[0] == "jpeg_2"
    with pytest.raises(ValueError, match="Did you mean gaussian_noise_3"):
        corruptions.expanded(["gausian_noise_3"])
    with pytest.raises(ValueError, match="There is no transform 'jpeg_6'.*shifts"):
        names.parse("mnist:jpeg_6")
