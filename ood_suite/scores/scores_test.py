"""One checker over all SCORES, and each against hand numbers."""

import inspect

import numpy as np
import pytest

from ood_suite import scores
from ood_suite.detector import Detector
from ood_suite.outputs import Outputs


def outputs(seed, count=40):
    rng = np.random.default_rng(seed)
    return Outputs(
        log_prob=rng.normal(-1500, 200, count),
        background_log_prob=rng.normal(-1700, 150, count),
        background_log_probs=rng.normal(-1700, 150, (count, 3)),
        code_length=rng.integers(2000, 5000, count).astype(np.float64),
    )


@pytest.mark.parametrize("name", scores.SCORES)
def test_every_score(name, tmp_path):
    held_out, test = outputs(0), outputs(1)
    before = {k: v.copy() for k, v in test._arrays()}
    detector = Detector(name, acceptance=0.9)
    assert detector.fit(held_out) is detector
    values = detector.score(test)
    assert values.shape == (40,) and values.dtype == np.float64 and np.isfinite(values).all()
    for field, array in test._arrays():
        np.testing.assert_array_equal(array, before[field])
    assert np.mean(~detector.is_ood(held_out)) >= 0.9
    np.testing.assert_array_equal(detector.fit(held_out).score(test), values)  # refit = fit
    detector.save(tmp_path / "detector.npz")
    loaded = Detector.load(tmp_path / "detector.npz")
    np.testing.assert_array_equal(loaded.score(test), values)
    np.testing.assert_array_equal(loaded.is_ood(test), detector.is_ood(test))


@pytest.mark.parametrize("name", scores.SCORES)
def test_every_score_needs_its_arrays_and_refuses_damaged_ones(name):
    score = scores.SCORES[name]
    with pytest.raises(ValueError, match=f"{name} needs"):
        Detector(name).fit(Outputs(labels=np.arange(3), meta={"run": "r"}))
    arrays = outputs(0).require(score.needs, name)
    function = score.fn().fit(*arrays).score if score.learns else score.fn
    with pytest.raises(ValueError):
        function(*[array[:, None, None] for array in arrays])
    with pytest.raises(ValueError, match="NaN"):
        function(np.full(40, np.nan), *arrays[1:])


@pytest.mark.parametrize("name", scores.SCORES)
def test_every_score_is_documented_and_says_its_arguments(name):
    score = scores.SCORES[name]
    assert "Reference" in score.fn.__doc__ or name == "background_mean"
    function = score.fn.fit if score.learns else score.fn
    arguments = [a for a in inspect.signature(function).parameters if a != "self"]
    assert tuple(arguments) == score.needs


def test_the_catalogue_is_sorted_and_unknown_names_are_refused():
    assert list(scores.SCORES) == sorted(scores.SCORES)
    with pytest.raises(ValueError, match="Unknown score 'liklihood'. Known: background_mean"):
        scores.get("liklihood")


def test_hand_numbers():
    test = Outputs(
        log_prob=np.array([-693.147180559945, -1000.0]),
        background_log_prob=np.array([-700.0, -900.0]),
        background_log_probs=np.array([[-700.0, -900.0], [-900.0, -1000.0]]),
        code_length=np.array([900.0, 1400.0]),
    )
    expected = {
        "likelihood": [693.147180559945, 1000.0],
        "likelihood_ratio": [-6.852819440055, 100.0],
        "background_mean": [-106.852819440055, 50.0],
        "input_complexity": [100.0, 1000.0 / np.log(2.0) - 1400.0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(Detector(name).score(test), values, rtol=1e-12)
    typicality = Detector("typicality").fit(Outputs(log_prob=np.array([-800.0, -1000.0])))
    np.testing.assert_allclose(typicality.score(test), [206.852819440055, 100.0])


def test_unfitted():
    with pytest.raises(ValueError, match="typicality learns: call fit first"):
        Detector("typicality").score(outputs(0))
    with pytest.raises(ValueError, match="no threshold"):
        Detector("likelihood").is_ood(outputs(0))
    with pytest.raises(ValueError, match="no threshold"):
        Detector("likelihood").save("never.npz")


def test_shifting_all_backgrounds_shifts_the_ratio_alone():
    test = outputs(2)
    moved = Outputs(log_prob=test.log_prob, background_log_prob=test.background_log_prob + 7.0)
    np.testing.assert_allclose(
        Detector("likelihood_ratio").score(moved), Detector("likelihood_ratio").score(test) + 7.0
    )
