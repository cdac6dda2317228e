"""SCORES: the catalogue. Adding a score is one function (or class, if it learns) and one line here.

A plain function maps arrays to scores; a class has `fit(*arrays) -> self` and `score(*arrays)`, and
what it learns ends in an underscore. `needs` names the fields of `ood_suite.outputs.Outputs` that
are its arguments, in order. Every score is float64 (n,) and HIGHER = MORE OOD.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

from ood_suite.scores import likelihood


class Score(NamedTuple):
    """A line of the catalogue: what computes the score, and from which arrays."""

    fn: Callable
    needs: tuple

    @property
    def learns(self):
        return inspect.isclass(self.fn)


SCORES = {
    "background_mean": Score(likelihood.background_mean, ("log_prob", "background_log_probs")),
    "input_complexity": Score(likelihood.input_complexity, ("log_prob", "code_length")),
    "likelihood": Score(likelihood.likelihood, ("log_prob",)),
    "likelihood_ratio": Score(likelihood.likelihood_ratio, ("log_prob", "background_log_prob")),
    "typicality": Score(likelihood.Typicality, ("log_prob",)),
}


def get(name):
    """The score of that name; ValueError lists the known names."""
    if name not in SCORES:
        raise ValueError(f"Unknown score {name!r}. Known: {', '.join(SCORES)}.")
    return SCORES[name]
