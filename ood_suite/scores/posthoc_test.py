"""pNML, GrOOD, CFOOD and NAC: against their authors' and OpenOOD's code, slow literal rewrites,
hand numbers, invariances and bad input.

tests/references/posthoc.npz holds inputs and outputs of that code: see its `provenance`.
"""

import pathlib

import numpy as np
import pytest
from scipy.special import softmax

from ood_suite.files import load_npz
from ood_suite.scores import get
from ood_suite.scores.scores_test import fitted, outputs

PATH = pathlib.Path(__file__).parents[2] / "tests" / "references" / "posthoc.npz"


@pytest.fixture(scope="module")
def frozen():
    return load_npz(PATH)


def head(frozen):
    return frozen["head_kernel"], frozen["head_bias"]


@pytest.mark.parametrize("whose", ("authors", "pytorch_ood"))
def test_pnml_is_theirs(frozen, whose):
    learner = get("pnml").make().fit(frozen["train"])
    found = learner.score(frozen["test"], *head(frozen))
    np.testing.assert_allclose(found, frozen[f"pnml/{whose}"], rtol=1e-10)


def test_pnml_literally():
    training, test = outputs(2, 100), outputs(1)
    units = [x / np.linalg.norm(x) for x in training.features]
    inverse = np.linalg.pinv(sum(np.outer(u, u) for u in units))
    expected = []
    for x in test.features:
        u = x / np.linalg.norm(x)
        p = softmax(test.head_kernel.T @ u + test.head_bias)
        s = u @ inverse @ u
        genie = [q / (q + (1 - q) * q ** (s / (1 + s))) for q in p]
        expected.append(np.log(sum(genie)) / np.log(5))
    np.testing.assert_allclose(fitted("pnml").score(test), expected, rtol=1e-9)


def test_pnml_by_hand_and_at_its_limits():
    learner = get("pnml").make().fit(np.array([[2.0, 0.0], [0.0, 3.0]]))  # s = 1, k = 1/2
    test, kernel = np.array([[5.0, 0.0], [7.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 2.0]])
    half = np.sqrt(0.5) / (np.sqrt(0.5) + 0.5)  # p = 1/2 of both classes
    found = learner.score(test, kernel, np.zeros(2))
    np.testing.assert_allclose(found, np.log2(2 * half))
    np.testing.assert_allclose(learner.score(test, kernel, np.array([0.0, -900.0])), 0.0)
    np.testing.assert_allclose(learner.score(0.0 * test, kernel, np.zeros(2)), 0.0)  # s = 0


def test_pnml_does_not_see_the_length_of_a_feature(frozen):
    learner = get("pnml").make().fit(frozen["train"])
    scale = np.linspace(0.1, 9.0, len(frozen["test"]))[:, None]
    found = learner.score(frozen["test"] * scale, *head(frozen))
    np.testing.assert_allclose(found, learner.score(frozen["test"], *head(frozen)), rtol=1e-9)


def test_pnml_refuses_bad_input(frozen):
    learner = get("pnml").make()
    with pytest.raises(ValueError, match="no examples"):
        learner.fit(np.zeros((0, 3)))
    learner.fit(frozen["train"])
    with pytest.raises(ValueError, match="`features` must have 16 features"):
        learner.score(frozen["test"][:, 1:], *head(frozen))
    with pytest.raises(ValueError, match=r"`head_kernel` must have shape \(16, classes\)"):
        learner.score(frozen["test"], frozen["head_kernel"].T, frozen["head_bias"])
    with pytest.raises(ValueError, match="two classes"):
        learner.score(frozen["test"], np.ones((16, 1)), np.zeros(1))
