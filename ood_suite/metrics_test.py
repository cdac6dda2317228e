"""Metrics: equal to scikit-learn's on every kind of input, exact on ties, indifferent to order."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ood_suite import metrics


def cases():
    rng = np.random.default_rng(1)
    yield "continuous", rng.normal(0, 1, 500), rng.normal(1.5, 1, 300)
    yield "many ties", rng.integers(0, 8, 400) * 1.0, rng.integers(3, 12, 700) * 1.0
    yield "all equal", np.ones(30), np.ones(20)
    yield "separated", np.arange(10.0), np.arange(20.0, 25.0)
    yield "reversed", np.arange(20.0, 25.0), np.arange(10.0)
    yield "large magnitude", 1e8 + rng.normal(0, 1, 200), 1e8 + rng.normal(2, 1, 200)
    yield "infinite", np.array([-np.inf, 0.0, 1.0]), np.array([0.5, np.inf])


CASES = list(cases())
IDS = [case[0] for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_equal_to_scikit_learn(case):
    _, id_scores, ood_scores = case
    found = metrics.evaluate(id_scores, ood_scores)
    is_ood = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]
    scores = np.nan_to_num(np.r_[id_scores, ood_scores], posinf=1e300, neginf=-1e300)
    expected = {
        "auroc": sklearn_metrics.roc_auc_score(is_ood, scores),
        "aupr_out": sklearn_metrics.average_precision_score(is_ood, scores),
        "aupr_in": sklearn_metrics.average_precision_score(1 - is_ood, -scores),
    }
    rejected, caught, _ = sklearn_metrics.roc_curve(is_ood, scores, drop_intermediate=False)
    expected["fpr95_ood_positive"] = rejected[np.argmax(caught >= 0.95)]
    expected["detection_error"] = np.min((1 - caught + rejected) / 2)
    passed, accepted, _ = sklearn_metrics.roc_curve(1 - is_ood, -scores, drop_intermediate=False)
    expected["fpr95_id_positive"] = passed[np.argmax(accepted >= 0.95)]
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_order_and_monotone_maps_change_nothing(case, rng):
    _, id_scores, ood_scores = case
    found = metrics.evaluate(id_scores, ood_scores)
    assert metrics.evaluate(rng.permutation(id_scores), rng.permutation(ood_scores)) == found
    assert metrics.evaluate(2.0 * id_scores, 2.0 * ood_scores) == found


def test_both_conventions_of_fpr95_on_a_known_fixture():
    # pytorch-ood 0.4.0 gives the OOD-positive figure on the same draw.
    random = np.random.RandomState(0)
    found = metrics.evaluate(random.normal(0, 1, 2000), random.normal(1.5, 1, 2000))
    assert round(found["auroc"], 6) == 0.856349
    assert found["fpr95_ood_positive"] == 0.5470
    assert found["fpr95_id_positive"] == 0.5785


def test_hand_numbers():
    found = metrics.evaluate(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 5.0]))
    assert found["auroc"] == (2.5 + 4) / 8
    assert found["fpr95_id_positive"] == 0.5  # accept up to 4: one of the two OOD
    assert found["fpr95_ood_positive"] == 0.5  # flag from 3 up: 3 and 4 of the four ID
    assert found["detection_error"] == 0.25
    assert found["aupr_out"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


def test_inputs_are_untouched_and_float32_is_kept(rng):
    id_scores = rng.normal(size=50).astype(np.float32)
    before = id_scores.copy()
    assert metrics.Counts.of(id_scores, id_scores + 1).values.dtype == np.float32
    np.testing.assert_array_equal(id_scores, before)


@pytest.mark.parametrize(
    "id_scores, ood_scores, message",
    [
        (np.zeros(3), np.zeros(0), "`ood_scores` is empty"),
        (np.zeros(0), np.zeros(3), "`id_scores` is empty"),
        (np.array([0.0, np.nan]), np.zeros(3), "`id_scores` has 1 NaN"),
        (np.zeros((3, 1)), np.zeros(3), r"must have shape \(n,\)"),
    ],
)
def test_bad_input(id_scores, ood_scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(id_scores, ood_scores)


def test_curves_integrate_to_the_metrics(rng):
    counts = metrics.Counts.of(rng.integers(0, 9, 200), rng.integers(3, 12, 100))
    rejected, caught = metrics.roc_curve(counts)
    assert np.trapezoid(caught, rejected) == pytest.approx(metrics.auroc(counts), abs=1e-12)
    recall, precision = metrics.precision_recall_curve(counts)
    area = np.sum(np.diff(np.r_[0.0, recall]) * precision)
    assert area == pytest.approx(metrics.aupr_out(counts), abs=1e-12)
