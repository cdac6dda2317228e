"""The losses against hand numbers, literal rewrites of their formulas, and their gradients."""

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
