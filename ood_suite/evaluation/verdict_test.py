"""The recommendation: chosen by validation data, its threshold by examples that chose nothing."""

import dataclasses
import math
import shlex
import types

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ood_suite.data.layouts import Folders
from ood_suite.detector import Detector
from ood_suite.evaluation import verdict
from ood_suite.outputs import Outputs

NAMES = ("energy", "max_logit", "msp")


def outputs(rng, count, fingerprint, scale=1.0):
    meta = {"dataset": fingerprint, "fingerprint": fingerprint}
    return Outputs(logits=scale * rng.normal(size=(count, 5)), meta=meta)


@pytest.fixture
def material(rng):
    """(detectors, held-out scores by name, validation OOD)."""
    held_out = outputs(rng, 401, "held_out", scale=3.0)
    detectors = {name: Detector(name).fit(held_out) for name in NAMES}
    own = {name: detector.score(held_out) for name, detector in detectors.items()}
    return detectors, own, outputs(rng, 150, "letters")


def test_halves_are_all_examples_once():
    first, second = verdict.halves(401)
    assert (len(first), len(second)) == (200, 201)
    assert sorted([*first, *second]) == list(range(401))
    assert not np.array_equal(first, np.arange(200))  # files are often sorted by class


def test_one_half_chooses_and_the_other_promises(material):
    detectors, own, validation = material
    found = verdict.recommended(detectors, validation, {})
    choosing, calibrating = verdict.halves(401)
    aurocs = {
        name: roc_auc_score(
            np.repeat([0, 1], [200, 150]),
            np.concatenate([own[name][choosing], detectors[name].score(validation)]),
        )
        for name in NAMES
    }
    best = max(aurocs, key=aurocs.get)
    assert found["score"] == best and found["compared"] == len(NAMES)
    assert found["auroc"] == pytest.approx(aurocs[best], abs=1e-12)
    rank = math.ceil(0.95 * 202)  # of the 201 that chose nothing
    assert found["threshold"] == np.sort(own[best][calibrating])[rank - 1]
    assert found["promise"].startswith(f"201 held-out examples promise {(202 - rank) / 202:.2%}")
    assert found["threshold"] != detectors[best].threshold_


def test_scores_that_rank_alike_are_counted(rng):
    held_out, validation = outputs(rng, 300, "held_out", scale=3.0), outputs(rng, 150, "letters")
    same = {"energy": {}, "energy(temperature=1.0)": {}}  # one score by two names
    detectors = {name: Detector(name).fit(held_out) for name in same}
    coin = Outputs(logits=rng.normal(size=(300, 5)), meta=held_out.meta)
    assert verdict.recommended(detectors, validation, {})["alike"] == 1
    other = Detector("energy").fit(held_out)
    other.calibration_ = other.score(coin)  # as if it told nothing apart
    apart = {"energy": detectors["energy"], "other": other}
    assert verdict.recommended(apart, validation, {})["alike"] == 0
    assert verdict.recommended(detectors | {"other": other}, validation, {})["alike"] == 1


def test_what_is_tested_on_recommends_nothing(material):
    detectors, _, validation = material
    assert verdict.recommended(detectors, validation, {"letters": validation}) == {}
    assert verdict.recommended(detectors, None, {}) == {}
    said = verdict.in_words([types.SimpleNamespace(verdict={})])
    assert "No score is recommended" in said


def test_a_sample_of_what_is_tested_on_recommends_nothing(rng):
    held_out, whole = outputs(rng, 200, "held_out", scale=3.0), outputs(rng, 100, "letters")
    detectors = {"energy": Detector("energy").fit(held_out)}
    sample = dataclasses.replace(whole.take(np.arange(60)), meta={"dataset": "letters@60"})
    sample.meta["fingerprint"] = "sample"
    other = dataclasses.replace(whole, meta=whole.meta | {"dataset": "digits", "fingerprint": "x"})
    assert verdict.recommended(detectors, sample, {"letters": whole}) == {}  # by their names
    assert verdict.recommended(detectors, sample, {"digits": other})
    sample.example_hashes = np.arange(60, dtype=np.uint64)
    other.example_hashes = np.arange(59, 159, dtype=np.uint64)
    assert verdict.recommended(detectors, sample, {"digits": other})  # one of 60 alike
    other.example_hashes = np.arange(50, 150, dtype=np.uint64)
    assert verdict.recommended(detectors, sample, {"digits": other}) == {}


@pytest.mark.parametrize(
    "title, is_generated", [("uniform@1000", True), ("letters", False), ("mnist", False)]
)
def test_generated_noise_is_said_to_be_that(material, rng, title, is_generated):
    detectors, _, _ = material
    found = verdict.recommended(detectors, outputs(rng, 50, title), {})
    said = verdict.in_words([types.SimpleNamespace(verdict=found)])
    assert found["is_generated"] == ("are generated" in said) == is_generated


def test_an_earlier_choice_is_said(material):
    detectors, _, validation = material
    for has_chosen in (False, True):
        found = verdict.recommended(detectors, validation, {}, has_chosen=has_chosen)
        said = verdict.in_words([types.SimpleNamespace(verdict=found)])
        assert ("an earlier choice" in said) == has_chosen


def test_the_command_is_one_for_a_shell(rng):
    held_out, validation = outputs(rng, 50, "held_out", 3.0), outputs(rng, 40, "letters")
    run = types.SimpleNamespace(folder="a folder/run", checkpoint="best")
    for name, parameters, score in (
        ("energy", {"temperature": 2.0}, "energy(temperature=2.0)"),
        ("energy&msp", None, "energy&msp"),
    ):
        detector = Detector(name, parameters=parameters).fit(held_out)
        found = verdict.recommended({name: detector}, validation, {})
        text = verdict.next_command(run, found, Folders("my data", "root"))
        assert shlex.split(text)[3:] == [
            "--run=a folder/run", "--checkpoint=best", "--data_dir=my data", "--data_root=root",
            f"--score={score}",
        ]  # fmt: skip
        again = Detector(score).fit(held_out)
        np.testing.assert_array_equal(again.score(validation), detector.score(validation))
    assert verdict.next_command(run, {}).endswith("--score=auto")
