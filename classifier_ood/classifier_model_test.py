"""The parts of training against torch, hand numbers and their defining properties."""

import pathlib

import keras
import numpy as np
import pytest

from classifier_ood import classifier_model
from ood_suite.files import load_npz

NETWORKS = pathlib.Path(__file__).parents[1] / "tests" / "references" / "networks.npz"


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torch(nesterov):
    frozen = load_npz(NETWORKS)
    weights = keras.Variable(frozen["sgd/start"].astype(np.float32))
    optimizer = classifier_model.CoupledSGD(0.1, 0.9, nesterov, l2=0.02)
    optimizer.build([weights])
    for gradient, rate in zip(frozen["sgd/gradients"], frozen["sgd/rates"], strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))])
    expected = frozen[f"sgd/nesterov_{nesterov}"]
    np.testing.assert_allclose(np.asarray(weights), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.jax
def test_cross_entropy_by_hand():
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).astype(np.float32)
    plain = np.asarray(classifier_model.cross_entropy(logits, np.array([0, 1])))
    np.testing.assert_allclose(plain, [-np.log(0.5), -np.log(0.1)], rtol=1e-6)
    smooth = np.asarray(classifier_model.cross_entropy(logits, np.array([0, 1]), 0.1))
    mean = -np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).mean(1)
    np.testing.assert_allclose(smooth, 0.9 * plain + 0.1 * mean, rtol=1e-6)


def test_schedules():
    cosine = classifier_model.schedule("cosine", 0.1, 10, 7)
    rates = [float(cosine(step)) for step in range(70)]
    assert len({round(rate, 9) for rate in rates}) == 10 and rates[0] == rates[6]
    np.testing.assert_allclose(rates[::7], 0.05 * (1 + np.cos(np.pi * np.arange(10) / 10)), 1e-5)
    step = classifier_model.schedule("step", 0.1, 10, 4)
    rates = [float(step(i)) for i in range(40)]
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.01, 0.001], [20, 10, 10]), 1e-5)


@pytest.mark.jax
def test_epochs_begin_on_time_in_a_compiled_program():
    """XLA divides by a constant by multiplying: 61 * float32(1 / 61) is less than 1."""
    cosine = classifier_model.schedule("cosine", 1.0, 100, 61)
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(cosine)
    else:
        import tensorflow as tf

        compiled = tf.function(cosine, jit_compile=True)
    steps = np.concatenate([[61 * k - 1, 61 * k] for k in range(1, 100)]).astype(np.int32)
    expected = 0.5 * (1.0 + np.cos(np.pi * (steps // 61) / 100))
    np.testing.assert_allclose([float(compiled(step)) for step in steps], expected, atol=1e-6)


def test_crops_and_flips_are_shifts_of_each_image(rng):
    images = rng.integers(1, 256, (64, 9, 11, 2)).astype(np.float32)
    layer = classifier_model.CropFlip("crop_flip", seed=3)
    np.testing.assert_array_equal(layer(images, training=False), images)
    shifted = np.asarray(layer(images, training=True))
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    seen = set()
    for image, source in zip(shifted, padded, strict=True):
        matches = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (1, -1)
            if (source[top : top + 9, left : left + 11][:, ::flip] == image).all()
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 40 and {flip for _, _, flip in seen} == {1, -1}
    assert {top for top, _, _ in seen} == set(range(9)) == {left for _, left, _ in seen}
    again = np.asarray(classifier_model.CropFlip("crop_flip", seed=3)(images, training=True))
    np.testing.assert_array_equal(again, shifted)
    only = np.asarray(classifier_model.CropFlip("flip", seed=1)(images, training=True))
    same, turned = ((only == x).all((1, 2, 3)) for x in (images, images[:, :, ::-1]))
    assert (same | turned).all() and 10 < turned.sum() < 54
    with pytest.raises(ValueError, match="one of none, crop, flip"):
        classifier_model.CropFlip("rotate", seed=0)
