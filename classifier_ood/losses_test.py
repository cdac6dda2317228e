"""The losses against hand numbers, literal rewrites of their formulas, and their gradients."""

import keras
import numpy as np
import pytest

from classifier_ood import losses


@pytest.fixture
def logits(rng):
    return rng.normal(0.0, 3.0, (7, 5)).astype(np.float32)


def gradient(function, x):
    """Of a scalar function, by central differences."""
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-2
        found[i] = (float(function(x + step)) - float(function(x - step))) / 2e-2
    return found


@pytest.mark.parametrize("constraint", losses.CONSTRAINTS)
def test_um_zero_is_the_cross_entropy(constraint):
    values = np.float32([0.3, 0.0, 2.1])
    loss, ascent = losses.unleashing_mask(values, 0.0, constraint, running_mean=0.5)
    assert float(loss) == pytest.approx(0.8) and float(ascent) == 0.0


def test_the_gradient_turns_round_under_the_constraint():
    values = np.float32([0.2, 0.6])  # mean 0.4

    def of(um, constraint="batch", running_mean=None):
        def function(x):
            return losses.unleashing_mask(x, um, constraint, running_mean)[0]

        return gradient(function, values)

    np.testing.assert_allclose(of(0.3), [0.5, 0.5], atol=1e-3)
    np.testing.assert_allclose(of(0.5), [-0.5, -0.5], atol=1e-3)
    np.testing.assert_allclose(of(0.4 - 0.1, "sample"), [-0.5, 0.5], atol=1e-3)
    np.testing.assert_allclose(of(0.5, "running", 0.6), [0.5, 0.5], atol=1e-3)
    np.testing.assert_allclose(of(0.3, "running", 0.1), [-0.5, -0.5], atol=1e-3)


@pytest.mark.parametrize(
    "um, constraint, running, loss, ascent",
    [
        (0.3, "batch", None, 0.4, 0.0),
        (0.5, "batch", None, 0.6, 1.0),
        (0.3, "sample", None, 0.5, 0.5),
        (0.3, "running", 0.2, 0.2, 1.0),
        (0.3, "running", 0.9, 0.4, 0.0),
    ],
)
def test_hand_numbers(um, constraint, running, loss, ascent):
    found = losses.unleashing_mask(np.float32([0.2, 0.6]), um, constraint, running)
    assert [float(x) for x in found] == pytest.approx([loss, ascent])


def test_unknown_constraint():
    with pytest.raises(ValueError, match="one of batch, sample, running. Received: 'row'"):
        losses.unleashing_mask(np.float32([1.0]), 0.1, "row")


def softmax(z):
    e = [np.exp(float(v) - float(max(z))) for v in z]
    return [v / sum(e) for v in e]


def test_cross_entropy_to_uniform_is_one(logits):
    expected = [-sum(np.log(p) for p in softmax(row)) / len(row) for row in logits]
    np.testing.assert_allclose(losses.cross_entropy_to_uniform(logits), expected, rtol=1e-5)
    assert np.min(losses.cross_entropy_to_uniform(logits)) >= np.log(5)


def test_energy_margins_literally(logits):
    inside, outside = logits[:3], logits[3:]

    def energy(row):
        return -np.log(sum(np.exp(float(v)) for v in row))

    expected = np.mean([max(energy(r) + 5.0, 0.0) ** 2 for r in inside])
    expected += np.mean([max(-3.0 - energy(r), 0.0) ** 2 for r in outside])
    found = float(losses.energy_margins(inside, outside, m_in=-5.0, m_out=-3.0))
    assert found == pytest.approx(expected, rel=1e-5) and found > 0.0


def test_sensitivity_is_the_squared_derivative_by_the_scale(logits):
    logits = logits.astype(np.float64)

    def mean_loss(scale):
        rows = scale * logits
        return np.mean([np.log(sum(np.exp(v) for v in row)) - np.mean(row) for row in rows])

    derivative = (mean_loss(1 + 1e-5) - mean_loss(1 - 1e-5)) / 2e-5
    assert float(losses.sensitivity_to_scale(logits)) == pytest.approx(derivative**2, rel=1e-4)


def test_unleashing_mask_in_a_training_of_ones_own(rng, tmp_path):
    """The three lines of docs/coming_from.md: the loss settles at the constraint, not at zero."""
    images = rng.normal(0.0, 1.0, (64, 4)).astype(np.float32)
    labels = (images[:, 0] > 0).astype(np.int32)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), loss=losses.UnleashingMask(um=0.3))
    model.fit(images, labels, batch_size=64, epochs=60, verbose=0)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(plain(labels, model(images))) == pytest.approx(0.3, abs=0.05)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.loss.um == 0.3


def test_unleashing_mask_of_logits_and_of_probabilities(logits):
    labels = np.arange(7) % 5
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    mean = -log_p[np.arange(7), labels].mean()
    expected = abs(mean - 9.0) + 9.0
    assert float(losses.UnleashingMask(9.0)(labels, logits)) == pytest.approx(expected, rel=1e-5)
    of_probabilities = losses.UnleashingMask(9.0, from_logits=False)
    assert float(of_probabilities(labels, np.exp(log_p))) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="`um` must be 0 or more"):
        losses.UnleashingMask(-1.0)
