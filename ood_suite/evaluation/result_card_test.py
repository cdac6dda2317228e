"""Leaderboard lines over repeats, and where there is nothing to say."""

import types

import numpy as np
import pytest

from ood_suite import scores
from ood_suite.evaluation import page, result_card
from ood_suite.evaluation.report import GroupReport, over_repeats


def report(aurocs, near, accuracy=0.9):
    rows = [
        {"score": "energy", "ood": ood, "auroc": auroc, "num_ood": 5}
        for ood, auroc in aurocs.items()
    ]
    rows.append({"score": "energy", "ood": "mean of all", "auroc": 0.0})  # no set of its own
    return GroupReport(
        0, rows, [], None, [], {}, "msp", classifier={"accuracy": accuracy}, near=near
    )


def run(**settings):
    return types.SimpleNamespace(settings=settings, kind="classifier")


def test_mean_and_deviation_over_repeats():
    reports = [
        report({"a": 0.9, "b": 0.8, "c": 0.5}, ["a", "b"], 0.94),
        report({"a": 0.8, "b": 0.8, "c": 0.6}, ["a", "b"], 0.96),
    ]
    (line,) = result_card.leaderboard(run(oe_method="oe", outliers="x", um=0.1), reports)
    spread = np.std([85.0, 80.0], ddof=1)
    assert line["Near-OOD_AUROC"] == f"82.50 ± {spread:.2f}"
    assert line["Far-OOD_AUROC"] == "55.00 ± 7.07"
    assert line["ID_Accuracy"] == "95.00 ± 1.41"
    assert (line["Training"], line["Outlier_Data"]) == ("oe", "Yes")
    assert line["Additional_Description"] == "Unleashing Mask 0.1"


def test_a_score_of_some_repeats_is_averaged_over_those():
    """A standard deviation of one value is no number, which JSON does not know."""
    reports = [report({"a": 0.9}, []), report({"a": 0.8}, [])]
    (extra,) = [row | {"score": "vim"} for row in reports[1].rows if row["score"] == "energy"][:1]
    reports[1].rows.append(extra)
    found = {row["score"]: row for row in over_repeats(reports) if row["ood"] == extra["ood"]}
    assert (found["vim"]["repeats"], found["vim"]["auroc_std"]) == (1, None)
    assert found["energy"]["repeats"] == 2 and found["energy"]["auroc_std"] > 0
    assert page.cell(reports, "vim", extra["ood"], "auroc") == "0.8000 (1 of 2 repeats)"
    lines = {line["Postprocessor"]: line for line in result_card.leaderboard(run(), reports)}
    assert lines["VIM"]["Far-OOD_AUROC"] == "80.00"
    assert lines["VIM"]["Additional_Description"] == "1 of 2 repeats"
    assert lines["EBO"]["Additional_Description"] == "/"


def test_without_near_sets_or_a_classifier():
    (line,) = result_card.leaderboard(run(backbone="convnet"), [report({"c": 0.5}, [])])
    assert (line["Near-OOD_AUROC"], line["Far-OOD_AUROC"]) == ("/", "50.00")
    density = report({"c": 0.5}, [])
    density.classifier = {}
    assert result_card.leaderboard(run(), [density]) == []


@pytest.mark.parametrize("name", result_card.POSTPROCESSORS)
def test_postprocessors_are_scores(name):
    assert scores.get(name)
