"""Files of detectors: what is read is checked, whatever a file says of itself."""

import json
import math

import numpy as np
import pytest

from ood_suite import detector, scores
from ood_suite.detector import Detector
from ood_suite.files import load_npz
from ood_suite.outputs import Outputs
from ood_suite.scores import named


@pytest.fixture
def changed(tmp_path, rng):
    """A function that saves a detector whose description is changed, and returns its path."""
    path = tmp_path / "detector.npz"

    def change(score="energy", **settings):
        logits = rng.normal(size=(60, 3))
        held_out = Outputs(logits=logits, features=logits, labels=np.arange(60) % 3)
        Detector(score).fit(held_out, held_out).save(path)
        arrays = load_npz(path)
        text = json.dumps(json.loads(str(arrays["detector"])) | settings)
        np.savez(path, **arrays | {"detector": np.array(text)})
        return path

    return change


@pytest.mark.parametrize(
    "settings",
    [
        {"name": 3}, {"name": "none"}, {"acceptance": 0.0}, {"acceptance": "0.9"},
        {"acceptance": 7.0}, {"threshold": math.inf}, {"threshold": None}, {"parameters": []},
        {"source": None}, {"parameters": {"temperature": "hot"}},
        {"parameters": {"temperature": [1, 2]}}, {"parameters": {"temperature": math.nan}},
        {"parameters": {"temperature": True}}, {"parameters": {"temperature": {"a": 1}}},
        {"parameters": {"nothing": 1.0}},
    ],
)  # fmt: skip
def test_a_damaged_description_is_named(changed, settings):
    with pytest.raises(ValueError, match="detector.npz"):
        Detector.load(changed(**settings))


def test_a_parameter_is_whole_where_its_default_is(changed):
    assert Detector.load(changed("knn", parameters={"k": 3})).parameters == {"k": 3}
    with pytest.raises(ValueError, match="`k` must be like 50. Received: '2.5'"):
        Detector.load(changed("knn", parameters={"k": 2.5}))


@pytest.mark.parametrize("name", scores.SCORES)
def test_every_value_of_a_grid_is_accepted(name):
    """No check of a file refuses what tuning may have chosen."""
    entry = scores.get(name)
    for parameters in [entry.parameters, *entry.settings]:
        assert named.checked(entry.parameters, parameters) == parameters


def test_p_values_and_promise_survive_a_file(tmp_path, rng):
    detector = Detector("likelihood").fit(Outputs(log_prob=rng.normal(size=199)))
    assert detector.promise.expected == 0.05 and detector.promise.low < 0.03
    new = Outputs(log_prob=np.array([0.0, -9.0]))
    detector.save(tmp_path / "d.npz")
    loaded = Detector.load(tmp_path / "d.npz")
    np.testing.assert_array_equal(loaded.p_values(new), detector.p_values(new))
    assert loaded.p_values(new)[1] == 1 / 200 and loaded.promise == detector.promise


def test_a_detector_of_the_first_version_has_no_p_values(tmp_path, rng):
    Detector("likelihood").fit(Outputs(log_prob=rng.normal(size=199))).save(tmp_path / "d.npz")
    with np.load(tmp_path / "d.npz") as file:
        np.savez(tmp_path / "old.npz", **{k: v for k, v in file.items() if k != "calibration"})
    old = Detector.load(tmp_path / "old.npz")
    assert old.is_ood(Outputs(log_prob=np.array([-9.0]))).all()
    with pytest.raises(ValueError, match="no held-out scores: fit it anew"):
        old.p_values(Outputs(log_prob=np.zeros(1)))


def test_a_classifier_at_chance_is_warned_of(rng, caplog):
    logits, labels = rng.normal(size=(300, 3)), np.arange(300) % 3
    good = logits + 3 * np.eye(3)[labels]
    detector._warn_once.cache_clear()
    Detector("energy").fit(Outputs(logits=good, labels=labels))
    Detector("energy").fit(Outputs(logits=logits, labels=np.full(300, -1)))
    Detector("energy").fit(Outputs(logits=logits))
    assert not caplog.records
    Detector("energy").fit(Outputs(logits=logits, labels=labels))
    assert "no more of the held-out examples than chance" in caplog.text
