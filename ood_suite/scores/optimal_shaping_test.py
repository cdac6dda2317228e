"""OptFS: the authors' numbers, a literal rewrite, hand numbers, optimality, bad input."""

import pathlib

import numpy as np
import pytest
from scipy.special import logsumexp

from ood_suite.detector import Detector
from ood_suite.files import load_npz
from ood_suite.outputs import Outputs
from ood_suite.scores.optimal_shaping import OptFS
from ood_suite.scores.scores_test import fitted, outputs

REFERENCES = pathlib.Path(__file__).parents[2] / "tests" / "references"


def test_equals_the_authors_code():
    arrays, theirs = load_npz(REFERENCES / "scores.npz"), load_npz(REFERENCES / "optfs.npz")
    head = {name: arrays[name] for name in ("head_kernel", "head_bias")}
    training = Outputs(features=arrays["train"], logits=arrays["train_logits"], **head)
    detector = Detector("optfs+energy").fit(training, training)
    shaper = detector.learner.shapers["optfs"]
    np.testing.assert_allclose(shaper.edges_[:-1], theirs["left_edges"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(np.diff(shaper.edges_), theirs["width"], rtol=1e-6)
    np.testing.assert_allclose(shaper.weights_, theirs["theta"], rtol=1e-4, atol=1e-3)
    found = detector.score(Outputs(features=arrays["test"], **head))
    np.testing.assert_allclose(found, -theirs["energy"], rtol=1e-5)
    # Their variant V, with what is here: the logit of the class that was predicted before.
    shaped, kernel, _ = shaper.shape(arrays["test"].astype(np.float64), *head.values())
    predicted = arrays["test_logits"].argmax(1)
    vanilla = (shaped * kernel.T[predicted]).sum(1)
    np.testing.assert_allclose(vanilla, theirs["vanilla"], rtol=1e-5, atol=1e-3)


def test_literally():
    training, test = outputs(2, 100), outputs(1)
    x, kernel, bias = training.features, training.head_kernel, training.head_bias
    low, high = np.quantile(np.float32(x), [0.001, 0.999]).astype(np.float64)
    width = (high - low) / 20
    importance = np.zeros(20)
    for row in x:
        predicted = np.argmax(row @ kernel + bias)
        for d, value in enumerate(row):
            for k in range(20):
                if low + k * width <= value < low + (k + 1) * width:
                    importance[k] += value * kernel[d, predicted] / len(x)
    theta = 7.0 * importance / np.sqrt(np.sum(importance**2))
    expected = []
    for row in test.features:
        shaped = np.zeros(12)
        for d, value in enumerate(row):
            for k in range(20):
                if low + k * width <= value < low + (k + 1) * width:
                    shaped[d] = value * theta[k]
        expected.append(-logsumexp(shaped @ kernel + bias))
    found = fitted("optfs+energy", {"optfs.bins": 20, "optfs.norm": 7.0}).score(test)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # quantiles are those of float32


def test_by_hand():
    features = np.float32([[0.0, 4.0], [1.0, 3.0]] * 600)  # values 0, 1, 3, 4; quantiles 0 and 4
    kernel, bias = np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2)
    shaper = OptFS(bins=4, norm=10.0).fit(features, kernel, bias)
    np.testing.assert_allclose(shaper.edges_, [0, 1, 2, 3, 4])
    # Class 1 is predicted, its weight 1 sees 4 (on the last edge: outside) and 3 alone.
    np.testing.assert_allclose(shaper.weights_, [0.0, 0.0, 0.0, 10.0])
    shaped, *_ = shaper.shape(np.array([[3.5, 0.5], [-1.0, 4.0], [9.0, 3.0]]), kernel, bias)
    np.testing.assert_allclose(shaped, [[35.0, 0.0], [0.0, 0.0], [0.0, 30.0]])


def test_no_other_theta_of_that_length_gives_larger_logits(rng):
    training = outputs(2, 100)
    x, head = training.features, (training.head_kernel, training.head_bias)
    shaper = OptFS(bins=10, norm=2.0).fit(x, *head)
    predicted = (x @ head[0] + head[1]).argmax(1)

    def mean_logit(weights):
        shaper.weights_ = weights
        return (shaper.shape(x, *head)[0] * head[0].T[predicted]).sum(1).mean()

    best = shaper.weights_
    assert np.linalg.norm(best) == pytest.approx(2.0)
    others = [rng.normal(size=10) for _ in range(50)]
    others += [best + 0.1 * rng.normal(size=10) for _ in range(50)]
    largest = max(mean_logit(2.0 * other / np.linalg.norm(other)) for other in others)
    assert largest < mean_logit(best)


def test_it_learns_from_what_shapers_before_it_leave():
    training, test = outputs(2, 100), outputs(1)
    clipped = Outputs(
        features=np.minimum(training.features, 0.8), head_kernel=training.head_kernel,
        head_bias=training.head_bias,
    )  # fmt: skip
    alone = Detector("optfs+energy").fit(clipped, clipped).learner.shapers["optfs"]
    both = fitted("react+optfs+energy", {"react.threshold": 0.8})
    np.testing.assert_allclose(both.learner.shapers["optfs"].weights_, alone.weights_)
    assert not np.allclose(both.score(test), fitted("optfs+energy").score(test))


@pytest.mark.parametrize(
    "parameters, features, message",
    [
        ({"optfs.bins": 0}, None, "`bins` must be more than 0"),
        ({"optfs.norm": -1.0}, None, "`norm` must be more than 0"),
        ({}, np.ones((60, 12)), "do not vary: 99.8% of them are 1"),
        ({}, np.full((60, 12), np.nan), "NaN"),
    ],
)
def test_bad_input(parameters, features, message):
    training = outputs(2)
    if features is not None:
        training.features = features
    with pytest.raises(ValueError, match=message):
        Detector("optfs+energy", parameters=parameters).fit(outputs(0), training)
