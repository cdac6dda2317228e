"""Scores as they are written on a command line."""

import numpy as np
import pytest

from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from ood_suite.scores import named


def test_names_and_parameters_of_a_flag_that_was_split_at_commas():
    text = "HIMPLoS(mask_percentile=60,clip=1.6),react(threshold=1.6)+energy,energy&knn(k=10),all"
    names, parameters = named.parsed(text.split(","))
    assert names == ("himplos", "react+energy", "energy&knn", "all")
    assert parameters == {
        "himplos": {"mask_percentile": 60, "clip": 1.6},
        "react+energy": {"react.threshold": 1.6},
        "energy&knn": {"knn.k": 10},
    }


def test_what_is_parsed_is_what_a_detector_takes(rng):
    logits = rng.normal(0.0, 3.0, (9, 4))
    (name,), parameters = named.parsed(["Energy(temperature=2.5)"])
    found = Detector(name, parameters=parameters[name]).score(Outputs(logits=logits))
    expected = -2.5 * np.log(np.exp(logits / 2.5).sum(axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "text, message",
    [
        ("himplos(x=1)", "himplos has no parameter 'x'. It has: mask_percentile=60.0"),
        ("react(clip=1)+energy", "no parameter 'react.clip'. It has: react.percentile"),
        ("knn(k=10", "brackets of 'knn.k=10' do not match"),
        ("knn)k(", "do not match"),
        ("knn(k=(1))", "do not match"),
        ("knn(10)", "are written name=value"),
        ("knn(k=1.5)", "k must be of type int. Received: 1.5"),
        ("energy(temperature=1e999)", "must be a number, True, False or a word"),
        ("energy(temperature=[1])", "must be a number, True, False or a word"),
        ("enrgy(temperature=1)", "Unknown score 'enrgy'. Did you mean energy"),
        ("knn(k=1),knn(k=2)", "named twice"),
        ("knn(k=1)x", "is no score"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        named.parsed(text.split(","))
