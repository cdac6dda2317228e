"""Which scores an evaluation takes, and with which parameters."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from ood_suite import files, scores
from ood_suite.detector import Detector
from ood_suite.evaluation import gathering, report
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


def test_what_all_leaves_out_stands_beside_it():
    asked = ("all", "react+max_logit", "msp&knn", "knn", "rankfeat", "energy", "knn(k=10)")
    found = gathering.completed(Request(scores=asked)).scores
    assert found == ("all", "react+max_logit", "msp&knn", "rankfeat", "knn(k=10)")


@pytest.mark.parametrize("wanted", [("all",), ("msp",)])
def test_a_baseline_may_have_parameters_or_members(wanted, rng):
    logits = rng.normal(size=(40, 3))
    held_out = Outputs(logits=logits, features=logits)
    given = Material(
        held_out=held_out, training=held_out, validation_ood=None, selection=None, tests=None,
        fingerprints={}, baseline="msp", scores=("msp", "energy"),
    )  # fmt: skip
    for baseline in ("energy(temperature=2.0)", "msp&energy", "knn(k=3)"):
        request = Request(scores=wanted, baseline=baseline)
        names, found = gathering.names_of(given, gathering.completed(request))
        assert found == baseline and names[0] == baseline and "msp" in names
    with pytest.raises(ValueError, match="--baseline=odin has not the outputs that it needs"):
        gathering.names_of(given, Request(scores=wanted, baseline="odin"))


def test_the_files_of_an_earlier_report_that_this_one_has_not_are_removed(tmp_path):
    config = {"settings": {"id_dataset": "mine"}, "versions": {}, "git_commit": None}

    def reported(figures, **more):
        return report.GroupReport(0, [], [], None, [], figures, "msp", **more)

    figure = Figure(figsize=(1, 1))
    more = {"by_class": [{"of": "a"}], "classifier": {"accuracy": 0.9}}
    report.write(tmp_path, config, [reported({"old": figure, "both": figure}, **more)])
    assert (tmp_path / "by_class.csv").exists()
    (tmp_path / "leaderboard.csv").touch()  # as result_card writes it, of a classifier
    own = [tmp_path / "figures" / "mine.png", tmp_path / "notes.csv"]
    for path in own:
        path.touch()
    report.write(tmp_path, config, [reported({"both": figure})])
    assert not list(tmp_path.glob("[bl]*.csv")) and all(path.exists() for path in own)
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"both.png", "mine.png"}
    known = files.read_json(tmp_path / "results.json")
    known["optional_files"] = ["../outside.csv", "notes.csv", "figures/../../outside.csv"]
    files.write_json(tmp_path / "results.json", known)
    (tmp_path.parent / "outside.csv").touch()
    report.write(tmp_path, config, [reported({})])
    assert (tmp_path.parent / "outside.csv").exists() and own[1].exists()
