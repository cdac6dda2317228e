"""A threshold accepts the share of new in-distribution examples that it promises."""

import numpy as np
import pytest

from ood_suite import scores
from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from ood_suite.scores.scores_test import outputs


def logits_of(rng, count, classes):
    labels = rng.integers(0, classes, count)
    logits = rng.normal(0, 1, (count, classes))
    logits[np.arange(count), labels] += 4.0
    return Outputs(logits=logits.astype(np.float64), labels=labels)


@pytest.mark.parametrize("classes, count", [(10, 100), (100, 1000), (300, 300)])
def test_kl_matching_accepts_new_examples_as_promised(classes, count):
    """Thresholds from the examples that made the templates accepted .90, .62 and less."""
    rng = np.random.default_rng(0)
    accepted = []
    for _ in range(20 if count < 1000 else 3):
        detector = Detector("kl_matching").fit(logits_of(rng, count, classes))
        accepted.append(np.mean(~detector.is_ood(logits_of(rng, 2000, classes))))
    assert 0.93 <= np.mean(accepted) <= 0.975


def test_a_judge_that_learns_from_held_out_data_keeps_the_promise_too():
    rng = np.random.default_rng(1)
    accepted = []
    for _ in range(10):
        held_out, training, test = (logits_of(rng, n, 10) for n in (100, 50, 1000))
        for part in (held_out, training, test):
            part.features, part.head_kernel, part.head_bias = part.logits, np.eye(10), np.zeros(10)
        parameters = {"react.percentile": 100.0}
        detector = Detector("react+kl_matching", parameters=parameters).fit(held_out, training)
        accepted.append(np.mean(~detector.is_ood(test)))
    assert 0.92 <= np.mean(accepted) <= 0.98


def test_what_is_kept_is_learned_from_all_held_out_examples():
    held_out = outputs(0)
    detector = Detector("typicality").fit(held_out)
    assert detector.learner.entropy_ == pytest.approx(-held_out.log_prob.mean(), rel=1e-12)
    layers = Detector("mahalanobis_layers").fit(held_out, outputs(2, 100), outputs(3, shift=1.0))
    seen = np.sort(layers.score(held_out))[int(np.ceil((len(held_out) + 1) * 0.95)) - 1]
    assert layers.threshold_ != seen  # cross-fitted
    assert Detector("typicality").fit(Outputs(log_prob=np.array([-3.0]))).threshold_ == 0.0


def test_temperature_scaling_needs_no_class_to_be_present():
    held_out = outputs(0)
    held_out.labels = np.where(held_out.labels == 4, 3, held_out.labels)
    assert Detector("temperature_scaling").fit(held_out).learner.temperature_ > 0


@pytest.mark.parametrize("name", [*scores.SCORES, "react+energy", "vim & mahalanobis & nnguide"])
def test_a_held_out_example_is_judged_alike_in_every_batch(name):
    """Sums in another order end in another last digit, beside which its own score lies."""
    held_out = outputs(0)
    detector = Detector(name).fit(held_out, outputs(2, 100), outputs(3, shift=1.0))
    p_values, called = detector.p_values(held_out), detector.is_ood(held_out)
    for size in (7, 1):
        batches = [held_out.take(rows) for rows in np.array_split(np.arange(60), -(-60 // size))]
        parts = [(detector.p_values(batch), detector.is_ood(batch)) for batch in batches]
        np.testing.assert_array_equal(np.concatenate([p for p, _ in parts]), p_values)
        np.testing.assert_array_equal(np.concatenate([c for _, c in parts]), called)
