"""The discretised logistic mixture: sums to 1, equals TensorFlow Probability's, exact in the
tails.
"""

import itertools

import numpy as np
import pytest
from scipy.special import expit, log_softmax, logsumexp
from scipy.stats import kstest

from images_ood import logistic_mixture as mixture


def random_parameters(rng, channels, mixtures, rescale, shape=(2, 3, 4)):
    raw = rng.normal(0, 1.5, (*shape, mixture.num_parameters(channels, mixtures)))
    return mixture.split_parameters(raw.astype(np.float32), channels, mixtures, rescale)


@pytest.mark.parametrize("rescale", [True, False])
def test_the_256_values_of_a_grey_pixel_sum_to_one(rng, rescale):
    parameters = random_parameters(rng, 1, 3, rescale)
    every = [
        np.exp(mixture.log_prob_map(parameters, np.full((2, 3, 4, 1), value)))
        for value in range(256)
    ]
    np.testing.assert_allclose(np.sum(every, axis=0), 1.0, rtol=2e-5)


def test_summing_blue_out_leaves_the_probability_of_red_and_green(rng):
    parameters = random_parameters(rng, 3, 2, True, shape=(1, 1, 1))
    pixels = np.tile(np.array([13.0, 200.0, 0.0], np.float32), (256, 1, 1, 1))
    pixels[..., 2] = np.arange(256)[:, None, None]
    joint = [float(mixture.log_prob_map(parameters, pixel[None])[0, 0, 0]) for pixel in pixels]
    marginal = literal_log_prob(parameters, pixels[0, 0, 0], channels=2)
    assert logsumexp(joint) == pytest.approx(marginal, abs=2e-4)


def literal_log_prob(parameters, pixel, channels):
    """log p of one pixel's first channels, by the formula of the paper in float64."""
    logits, locations, scales, coefficients = (
        np.asarray(a, np.float64)[0, 0, 0] for a in parameters[:4]
    )
    terms = log_softmax(logits)
    pairs = list(itertools.combinations(range(3), 2))
    order = sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    for m in range(len(logits)):
        for k in range(channels):
            location = locations[m, k]
            for i, (earlier, later) in enumerate(order):
                if later == k:
                    location += coefficients[m, i] * (pixel[earlier] - parameters.center)
            high = 1.0 if pixel[k] == 255 else expit((pixel[k] + 0.5 - location) / scales[m, k])
            low = 0.0 if pixel[k] == 0 else expit((pixel[k] - 0.5 - location) / scales[m, k])
            terms[m] += np.log(high - low)
    return logsumexp(terms)


@pytest.mark.parametrize("rescale", [True, False])
def test_equal_to_the_literal_formula(rng, rescale):
    for pixel in ([0, 128, 255], [255, 0, 3], [90, 91, 92]):
        parameters = random_parameters(rng, 3, 2, rescale, shape=(1, 1, 1))
        ours = mixture.log_prob_map(parameters, np.array(pixel).reshape(1, 1, 1, 3))
        expected = literal_log_prob(parameters, np.array(pixel), channels=3)
        if expected > -30:  # beyond that the literal formula itself has cancelled away
            assert float(ours[0, 0, 0]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("channels, rescale", [(1, True), (1, False), (3, True), (3, False)])
def test_equal_to_tensorflow_probability(rng, channels, rescale):
    parameters = random_parameters(rng, channels, 3, rescale)
    images = rng.integers(0, 256, (2, 3, 4, channels)).astype(np.float32)
    expected = np.asarray(mixture.distribution(parameters).log_prob(images))
    ours = np.asarray(mixture.log_prob_map(parameters, images))
    near = expected > -40  # TFP falls back to an approximation far out in the tails
    assert near.mean() > 0.5
    np.testing.assert_allclose(ours[near], expected[near], rtol=1e-3, atol=2e-3)


def test_far_tails_are_finite_and_linear():
    raw = np.zeros((1, 1, 1, 3), np.float32)
    raw[..., 1] = -1.0  # location 0
    raw[..., 2] = -30.0  # smallest scale
    parameters = mixture.split_parameters(raw, 1, 1, True)
    values = [mixture.log_prob_map(parameters, np.full((1, 1, 1, 1), v)) for v in (100, 200)]
    slope = (float(values[0][0, 0, 0]) - float(values[1][0, 0, 0])) / 100
    assert slope == pytest.approx(1 / float(parameters.scales[0, 0, 0, 0, 0]), rel=1e-4)


@pytest.mark.tensorflow
def test_samples_follow_the_probabilities(rng):
    raw = np.zeros((1, 1, 1, 3), np.float32)
    raw[..., 2] = -4.0
    parameters = mixture.split_parameters(raw, 1, 1, True)
    drawn = np.asarray(mixture.distribution(parameters).sample(4000, seed=[1, 2])).ravel()
    assert set(np.unique(drawn % 1)) == {0.0}
    for value in (126, 127, 128):
        expected = np.exp(mixture.log_prob_map(parameters, np.full((1, 1, 1, 1), value))[0, 0, 0])
        assert np.mean(drawn == value) == pytest.approx(float(expected), abs=0.025)


@pytest.mark.tensorflow
def test_channels_are_drawn_given_those_before(rng):
    """The last channel of 3000 pixels, given the two before it that were drawn with it: its
    distribution function there is uniform, and is not if it is given those of other pixels.
    """
    raw = np.array([0.3, -0.5, 0.1, 0.4, -2.0, -2.2, -1.9, 0.9, -0.8, 0.7], np.float32)
    parameters = mixture.split_parameters(np.tile(raw, (3000, 1, 1, 1)), 3, 1, True)
    drawn = np.asarray(mixture.distribution(parameters).sample(seed=[1, 2]))[:, 0, 0]
    assert drawn.shape == (3000, 3) and set(np.unique(drawn % 1)) == {0.0}

    def distance_from_uniform(before):
        scale = 127.5 * (np.log1p(np.exp(-1.9)) + np.exp(-7))
        where = 127.5 * (0.4 + 1) + (before - 127.5) @ np.array([-0.8, 0.7])
        low = expit((drawn[:, 2] - 0.5 - where) / scale) * (drawn[:, 2] > 0)
        high = np.where(drawn[:, 2] < 255, expit((drawn[:, 2] + 0.5 - where) / scale), 1.0)
        return kstest(rng.uniform(low, high), "uniform").statistic

    assert distance_from_uniform(drawn[:, :2]) < 0.035  # 1.95 / sqrt(3000): p = 0.001
    assert distance_from_uniform(rng.permutation(drawn[:, :2])) > 0.05


def test_number_of_parameters():
    assert mixture.num_parameters(1, 1) == 3
    assert mixture.num_parameters(3, 10) == 100
