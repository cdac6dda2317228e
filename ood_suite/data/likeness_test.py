"""Near-duplicates of real images are found, unrelated images are not."""

import io

import numpy as np
import pytest
from PIL import Image

from ood_suite import data
from ood_suite.data.likeness import lookalikes, perceptual_hashes
from ood_suite.data.synthetic import constant

COUNT = 300


@pytest.fixture(scope="module")
def images():
    """{data set: its first embedded test images}."""
    names = ("fashion_mnist", "glyphs", "mnist")
    return {name: data.load(name, "test").images[:COUNT] for name in names}


@pytest.fixture(scope="module")
def hashes(images):
    return {name: perceptual_hashes(part) for name, part in images.items()}


def as_jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))[..., None]


def scaled(side):
    """There and back, by other filters than the evaluation uses."""

    def call(image):
        there = Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(there.resize((28, 28), Image.Resampling.BILINEAR))[..., None]

    return call


def shifted(down, right):
    return lambda image: np.roll(image, (down, right), (0, 1))


CHANGES = {
    "JPEG": as_jpeg, "larger": scaled(56), "smaller": scaled(20), "down": shifted(1, 0),
    "left": shifted(0, -1), "up and right": shifted(-1, 1), "in colour": lambda i: i.repeat(3, -1),
    "darker": lambda image: image // 2,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["fashion_mnist", "glyphs", "mnist"])
def test_changed_images_are_found(images, hashes, name, change):
    changed = perceptual_hashes(np.stack([CHANGES[change](image) for image in images[name]]))
    rows, partners = lookalikes(changed, hashes[name])
    # Symmetric pictures have coefficients of nearly zero, whose signs a change may turn.
    assert (partners == rows).sum() >= 0.9 * COUNT


def test_unrelated_images_are_not_found(hashes):
    """All embedded images of each set against those of the others."""
    whole = {name: perceptual_hashes(data.load(name, "test").images) for name in hashes}
    trained_on = perceptual_hashes(data.load("fashion_mnist", "train").images)
    for name in ("glyphs", "mnist"):
        for known in (whole["fashion_mnist"], trained_on):
            assert len(lookalikes(whole[name], known)[0]) <= 1
    rows, _ = lookalikes(whole["glyphs"], whole["mnist"])  # mostly the letter I and the digit 1
    letters = data.load("glyphs", "test").labels
    assert len(rows) < 0.02 * len(letters) and np.mean(letters[rows] == 8) > 0.7


def test_a_shift_by_three_pixels_is_not_found(images, hashes):
    moved = perceptual_hashes(np.roll(images["fashion_mnist"], 3, axis=2))
    rows, partners = lookalikes(moved, hashes["fashion_mnist"])
    assert (rows == partners).sum() < 0.05 * COUNT


def test_flat_and_tiny_images_have_no_hash(hashes, rng):
    flat = constant(50, (28, 28, 1))
    noisy = np.clip(flat + rng.integers(-1, 2, flat.shape), 0, 255).astype(np.uint8)
    tiny = rng.integers(0, 256, (5, 15, 40, 3)).astype(np.uint8)
    for images in (flat, noisy, tiny):
        found = perceptual_hashes(images)
        assert found.shape == (len(images), 18) and found.dtype == np.uint64 and not found.any()
        for others in (found, hashes["mnist"]):
            assert not len(lookalikes(found, others)[0])


def test_the_search_finds_what_comparing_all_pairs_finds(rng):
    """Random hashes with up to nine bits turned in each word, some of them twice there."""
    known = rng.integers(0, 2**64, (400, 18), dtype=np.uint64)
    asked = known[rng.integers(0, 400, 300)].copy()
    for row in asked:
        for word in range(18):
            for bit in rng.choice(64, rng.integers(0, 10), replace=False):
                row[word] ^= np.uint64(1) << np.uint64(bit)
    known, asked = np.concatenate([known, known[:9]]), np.concatenate([asked, asked[:9]])

    def near(shifted, plain):
        bits = np.bitwise_count(shifted.reshape(-1, 1, 9, 2) ^ plain[None, :, None, :2])
        return ((bits[..., 0] <= 7) & (bits[..., 1] <= 12)).any(axis=2)

    expected = near(asked, known) | near(known, asked).T
    rows, partners = lookalikes(asked, known)
    assert 50 < len(rows) < 300
    np.testing.assert_array_equal(rows, np.flatnonzero(expected.any(axis=1)))
    assert expected[rows, partners].all()


def test_a_hash_is_that_of_the_shifted_image(images):
    """Columns behind the first two are the hash of the image moved, its edge repeated."""
    padded = np.pad(images["fashion_mnist"], ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    found = perceptual_hashes(images["fashion_mnist"]).reshape(COUNT, 9, 2)
    moved = perceptual_hashes(padded[:, 2:, 1:-1])[:, :2]  # one up
    bits = np.bitwise_count(found[:, 2] ^ moved)
    assert bits.max() <= 1 and np.bitwise_count(found[:, 0] ^ moved).mean() > 5
