"""Warnings of scores that are worse than chance."""

import numpy as np

from ood_suite.evaluation.below_chance import below_chance
from ood_suite.outputs import Outputs


def row(score, ood, auroc, high):
    return {"score": score, "ood": ood, "auroc": auroc, "auroc_high": high}


def outputs(length):
    return Outputs(log_prob=np.zeros(3), code_length=np.full(3, float(length)))


def test_what_is_below_chance_is_named_with_how_complex_it_is():
    rows = [
        row("likelihood", "mnist", 0.05, 0.06),
        row("likelihood_ratio", "natural", 0.07, 0.08),
        row("likelihood_ratio", "mnist", 0.99, 1.0),
        row("typicality", "letters", 0.48, 0.51),  # its interval holds chance
    ]
    tests = {"mnist": outputs(50), "natural": outputs(150), "letters": outputs(100)}
    named, simple, complicated = below_chance(rows, outputs(100), tests)
    assert "likelihood on mnist (0.050), likelihood_ratio on natural (0.070)." in named
    assert "letters" not in named
    assert simple.startswith("mnist: PNG lengths are 0.50") and "simple images" in simple
    assert complicated.startswith("natural: PNG lengths are 1.50")


def test_reads_and_classifiers_are_named_without_complexity():
    parts = {"x": Outputs(log_prob=np.zeros(3))}
    assert len(below_chance([row("energy", "x", 0.1, 0.2)], parts["x"], parts)) == 1
    assert below_chance([row("energy", "x", 0.9, 0.95)], parts["x"], parts) == []
