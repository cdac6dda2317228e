"""Rows of shifts, full spectrum and unit tests: hand numbers and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ood_suite.data import corruptions, names
from ood_suite.evaluation import shifted, unit_tests
from ood_suite.evaluation.material import asked_roles
from ood_suite.evaluation.report import GroupReport
from ood_suite.evaluation.request import Request
from ood_suite.files import read_csv
from ood_suite.runs.run import Role

OWN = np.array([0.0, 1.0, 2.0, 3.0])
NOISE = np.array([1.0, 2.5, 4.0, 5.0])


def test_rows_by_hand():
    parts = {"clean": [1, 1, 1, 0], "noise_1": [1, 0, 1, 0]}
    found = shifted.rows(
        {"energy": (OWN, {"noise_1": NOISE})}, parts, {"energy": 2.2}, lambda o: np.array(o, bool)
    )
    clean, noise = found
    assert clean == {
        "score": "energy", "shift": "clean", "num": 4, "accuracy": 0.75,
        "flagged_of_correct": 0.0, "flagged": 0.25,
    }  # fmt: skip
    assert (noise["accuracy"], noise["flagged_of_correct"], noise["flagged"]) == (0.5, 0.5, 0.75)
    assert noise["auroc"] == pytest.approx(roc_auc_score([0] * 4 + [1] * 4, np.r_[OWN, NOISE]))
    assert noise["auroc_low"] <= noise["auroc"] <= noise["auroc_high"]


def test_a_density_has_no_accuracy():
    found = shifted.rows(
        {"likelihood": (OWN, {"jpeg_1": NOISE})}, {"clean": 0, "jpeg_1": 0}, {"likelihood": 9.0},
        lambda o: None,
    )  # fmt: skip
    assert all("accuracy" not in row and row["flagged"] == 0.0 for row in found)


def test_full_spectrum_takes_clean_and_shifted_as_id(rng):
    ood, other = rng.normal(2, 1, 30), rng.normal(1, 1, 20)
    values = {"energy": (OWN, {"mnist": ood})}
    (row,) = shifted.full_spectrum(values, {"energy": {"a_1": NOISE, "b_1": other}})
    own = np.r_[OWN, NOISE, other]
    expected = roc_auc_score(np.r_[np.zeros(28), np.ones(30)], np.r_[own, ood])
    assert row["auroc"] == pytest.approx(expected, abs=1e-12)
    assert (row["num_id"], row["num_ood"], row["ood"]) == (28, 30, "mnist")


def test_unit_tests_fail_above_a_tenth(tmp_path):
    own = np.arange(100.0)  # up to 94 are 95%
    units = {"black": np.full(10, 94.5), "white": np.r_[np.zeros(1), np.full(9, 95.0)]}
    units["grey"] = np.r_[np.full(2, 94.0), np.full(8, 95.0)]
    found = unit_tests.rows({"energy": (own, units), "msp": (own, {"grey": units["black"]})})
    shares = {(r["score"], r["unit_test"]): (r["fpr95_id_positive"], r["failed"]) for r in found}
    assert shares == {
        ("energy", "black"): (0.0, False), ("energy", "white"): (0.1, False),
        ("energy", "grey"): (0.2, True), ("msp", "grey"): (0.0, False),
    }  # fmt: skip
    report = GroupReport(0, [], [], None, [], {}, "msp", unit_tests=found)
    lines = unit_tests.table(report)
    assert [line.split() for line in lines[2:]] == [["msp", "0"], ["energy", "1", "grey", "(20%)"]]
    unit_tests.write(tmp_path, [report])
    assert len(read_csv(tmp_path / "unit_tests.csv")) == 4


@pytest.mark.parametrize("own, permuted", [("mnist@60", True), ("mnist:contrast_5", False)])
def test_unit_tests_are_data_sets_whatever_the_id_set_is_called(own, permuted):
    """Images that are changed already are not permuted besides."""
    asked = asked_roles({"id_test": Role((own,), "test")}, Request(unit_tests=True))
    found = {role: names.parse(asked[role].names[0]) for role in asked if role != "id_test"}
    assert {role: name.shift for role, name in found.items() if name.shift} == (
        {f"unit:{change}": change for change in corruptions.PERMUTED} if permuted else {}
    )
    assert all(name.count == 60 for name in found.values() if name.shift)
