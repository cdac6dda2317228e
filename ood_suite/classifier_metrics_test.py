"""Accuracy, calibration and OSCR: hand numbers, a literal rewrite, pytorch-ood's frozen number."""

import pathlib

import numpy as np
import pytest

from ood_suite import metrics
from ood_suite.files import load_npz
from ood_suite.scores.logits import energy

FROZEN = pathlib.Path(__file__).parents[1] / "tests" / "references" / "scores.npz"


def test_accuracy_and_calibration_by_hand():
    logits = np.log([[0.8, 0.2], [0.7, 0.3], [0.72, 0.28], [0.1, 0.9]])
    labels = np.array([0, 1, 0, 1])
    assert metrics.accuracy(logits, labels) == 0.75
    # With five bins: (0.6, 0.8] holds three, two of them right; (0.8, 1] holds one, right.
    expected = (abs(0.8 + 0.7 + 0.72 - 2) + abs(0.9 - 1)) / 4
    found = metrics.expected_calibration_error(logits, labels, bins=5)
    assert found == pytest.approx(expected)
    certain = np.array([[1e4, 0.0], [0.0, 1e4]])
    assert metrics.expected_calibration_error(certain, np.array([0, 1])) == 0.0
    assert metrics.expected_calibration_error(certain, np.array([1, 0])) == 1.0


def test_oscr_literally(rng):
    id_scores, ood_scores = rng.integers(0, 6, 50) * 1.0, rng.integers(2, 9, 30) * 1.0
    correct = rng.random(50) < 0.7
    pairs = [
        c * ((i < o) + 0.5 * (i == o))
        for i, c in zip(id_scores, correct, strict=True)
        for o in ood_scores
    ]
    assert metrics.oscr(id_scores, ood_scores, correct) == pytest.approx(np.mean(pairs))
    everything = np.ones(50, bool)
    perfect = metrics.oscr(id_scores, ood_scores + 10, correct)
    assert perfect == pytest.approx(correct.mean())
    assert metrics.oscr(id_scores, ood_scores + 10, everything) == 1.0


def test_oscr_equals_pytorch_ood():
    frozen = load_npz(FROZEN)
    scores, logits = energy(frozen["test_logits"]), frozen["test_logits"][:40]
    correct = logits.argmax(1) == np.arange(40) % 5
    found = metrics.oscr(scores[:40], scores[40:], correct)
    assert found == pytest.approx(float(frozen["score/oscr_of_energy"][0]), abs=1e-6)
