"""Which scores an evaluation takes, and with which parameters."""

import numpy as np
import pytest

from ood_suite import scores
from ood_suite.detector import Detector
from ood_suite.evaluation import gathering
from ood_suite.evaluation.material import Material
from ood_suite.evaluation.request import Request
from ood_suite.outputs import Outputs
from ood_suite.runs import settings


def material(backgrounds):
    """Of a density model with so many backgrounds."""
    log_prob = np.linspace(-9.0, -1.0, 5)
    held_out = Outputs(
        log_prob=log_prob,
        background_log_prob=log_prob,
        background_log_probs=np.stack([log_prob] * backgrounds, axis=1),
    )
    names = ("background_mean", "likelihood", "likelihood_ratio")
    return Material(
        held_out=held_out, training=None, validation_ood=None, selection=None, tests=None,
        fingerprints={}, baseline="likelihood", scores=names,
    )  # fmt: skip


def test_the_mean_over_one_background_is_no_row_of_its_own():
    """It is likelihood_ratio again."""
    assert gathering.applicable_scores(material(1), ("all",)) == ["likelihood", "likelihood_ratio"]
    assert "background_mean" in gathering.applicable_scores(material(2), ("all",))


@pytest.mark.parametrize("preset", scores.PRESETS)
def test_presets_are_parameters_that_scores_have(preset):
    settings.check(Request(preset=preset))
    for name, parameters in scores.PRESETS[preset].items():
        known = Detector(name, parameters=parameters).entry.parameters  # refuses unknown names
        assert all(type(v) is type(known[k]) for k, v in parameters.items()), name


def test_unknown_presets_are_refused():
    with pytest.raises(ValueError, match="preset must be one of cifar10_densenet"):
        settings.check(Request(preset="cifar"))
