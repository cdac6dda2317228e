"""Intervals: DeLong against its literal formula, the bootstrap against repeated experiments."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import special, stats

from ood_suite import intervals, metrics
from tests.support import ROOT


def literal_delong(id_scores, ood_scores):
    """AUROC and its variance from the n x m kernel matrix (DeLong et al. 1988)."""
    kernel = (ood_scores[:, None] > id_scores) + 0.5 * (ood_scores[:, None] == id_scores)
    variance = kernel.mean(1).var(ddof=1) / len(ood_scores)
    return kernel.mean(), variance + kernel.mean(0).var(ddof=1) / len(id_scores)


def test_placements_equal_the_literal_formula(rng):
    id_scores, ood_scores = rng.integers(0, 9, 40) * 1.0, rng.integers(2, 12, 30) * 1.0
    of_id, of_ood = intervals.placements(id_scores, ood_scores)
    area, variance = literal_delong(id_scores, ood_scores)
    assert of_ood.mean() == pytest.approx(area, abs=1e-12)
    assert of_id.mean() == pytest.approx(area, abs=1e-12)
    ours = of_id.var(ddof=1) / 40 + of_ood.var(ddof=1) / 30
    assert ours == pytest.approx(variance, abs=1e-14)


def test_intervals_hold_the_truth_about_as_often_as_stated():
    truth = 0.8555778  # Phi(1.5 / sqrt(2))
    hits, rng = 0, np.random.default_rng(3)
    for _ in range(300):
        low, high = intervals.auroc_interval(rng.normal(0, 1, 60), rng.normal(1.5, 1, 50))
        hits += low <= truth <= high
    assert 0.91 <= hits / 300 <= 0.985


def coverage(truth, draw, repeats=300):
    """{metric: share of repeats whose interval holds the truth}."""
    hits, rng = dict.fromkeys(truth, 0), np.random.default_rng(5)
    for _ in range(repeats):
        bounds = intervals.bootstrap_intervals(*draw(rng), resamples=200)
        for name in truth:
            hits[name] += bounds[name][0] <= truth[name] <= bounds[name][1]
    return {name: count / repeats for name, count in hits.items()}


def test_metrics_that_are_biased_on_a_sample_are_covered_too():
    """Percentiles hold the detection error in .78 of such samples, and the AUPR in .90."""
    truth = {"detection_error": 0.2266274, "aupr_out": 0.8537}  # Phi(-0.75); by 4 million draws
    found = coverage(truth, lambda rng: (rng.normal(0, 1, 50), rng.normal(1.5, 1, 50)))
    assert 0.92 <= found["detection_error"] <= 0.985
    assert 0.92 <= found["aupr_out"] <= 0.985


def test_few_examples_of_a_good_score_are_covered():
    """Plain DeLong holds the truth in .86 of such samples, on the logit scale too."""
    truth = {"auroc": stats.norm.cdf(5.0 / np.sqrt(1.0 + 2.5**2))}
    found = coverage(truth, lambda rng: (rng.normal(0, 1, 500), rng.normal(5.0, 2.5, 50)))
    assert 0.89 <= found["auroc"] <= 0.97


@pytest.mark.parametrize("num_ood", [2, 3, 10])
def test_a_handful_of_ood_examples_is_covered(num_ood):
    """The normal quantile held the truth in .58, .70 and .90 of such samples."""
    truth = stats.norm.cdf(1.5 / np.sqrt(2.0))
    hits, rng = 0, np.random.default_rng(2)
    for _ in range(300):
        low, high = intervals.auroc_interval(rng.normal(0, 1, 300), rng.normal(1.5, 1, num_ood))
        hits += low <= truth <= high
    assert hits / 300 >= 0.92


@pytest.mark.parametrize("num_ood", [2, 3, 5])
def test_a_handful_of_ood_examples_raises_few_false_alarms(num_ood):
    """The normal quantile's were .37, .20 and .11 of these pairs of equal scores."""
    alarms, rng = 0, np.random.default_rng(4)
    for _ in range(300):
        ids, oods = rng.normal(size=(300, 2)), rng.normal(0.4, 1.0, (num_ood, 2))
        pairs = [(ids[:, i], oods[:, i]) for i in (0, 1)]
        found = intervals.paired_auroc_difference(*pairs)
        alarms += found["p_value"] < 0.05
        assert (found["p_value"] < 0.05) == (not found["low"] <= 0.0 <= found["high"])
    assert alarms / 300 <= 0.07


@pytest.mark.parametrize("turned", [False, True])
def test_one_example_of_a_class_tells_nothing_apart(turned, rng):
    pairs = [(rng.normal(size=50), np.array([1.0 + i])) for i in range(2)]
    pairs = [pair[::-1] for pair in pairs] if turned else pairs
    assert intervals.auroc_interval(*pairs[0]) == (0.0, 1.0)
    found = intervals.paired_auroc_difference(*pairs)
    assert (found["low"], found["high"], found["p_value"]) == (-1.0, 1.0, 1.0)
    areas = [metrics.auroc(metrics.Counts.of(*pair)) for pair in pairs]
    assert found["difference"] == pytest.approx(areas[0] - areas[1])


def test_intervals_are_delongs_variance_times_students_t(rng):
    """Of many examples Student's t is the normal quantile: what is left is the variance."""
    id_scores, ood_scores = rng.normal(0, 1, 3000), rng.normal(1, 1, 2000)
    area, variance = literal_delong(id_scores, ood_scores)
    found = special.logit(intervals.auroc_interval(id_scores, ood_scores))
    error = np.diff(found)[0] / 2.0 / stats.t.ppf(0.975, 1999) * area * (1.0 - area)
    assert error == pytest.approx(np.sqrt(variance), rel=2e-3)
    few = special.logit(intervals.auroc_interval(id_scores, ood_scores[:2], level=0.95))
    half = special.logit(intervals.auroc_interval(id_scores, ood_scores[:2], level=0.5))
    ratio = stats.t.ppf(0.975, 1) / stats.t.ppf(0.75, 1)  # of one degree of freedom
    assert np.diff(few)[0] / np.diff(half)[0] == pytest.approx(ratio)


def test_many_resamples_at_once_are_those_of_one_at_a_time(rng):
    counts = metrics.Counts.of(rng.normal(0, 1, 30), np.round(rng.normal(1, 1, 40), 1))
    ids, oods = (
        intervals._resample(part, np.random.default_rng(1), 7) for part in (counts.id, counts.ood)
    )
    assert ids.sum(axis=1).tolist() == [30] * 7 and not ids[:, counts.id == 0].any()
    for name, metric in metrics.METRICS.items():
        together = metric(metrics.Counts(counts.values, ids, oods))
        alone = [metric(metrics.Counts(counts.values, *pair)) for pair in zip(ids, oods)]
        np.testing.assert_array_equal(together, alone, err_msg=name)


def test_perfect_metrics_have_one_sided_bounds():
    found = intervals.bootstrap_intervals(np.arange(10.0), np.arange(20.0, 40.0), resamples=50)
    slack = 1.0 - 0.025 ** (1 / 10)
    assert found["aupr_out"] == found["aupr_in"] == (1.0 - slack, 1.0)
    assert found["detection_error"] == found["fpr95_id_positive"] == (0.0, slack)


@pytest.mark.parametrize("distance", [20, 16, 10])
def test_the_bound_of_an_fpr95_of_0_or_1_stays_where_few_resamples_differ(distance):
    """Where 0 to 2.5% of them did, at a distance of 16, the interval was (0, 0), or (1, 1)."""
    ranks, slack = np.arange(1.0, 1001.0), 1.0 - 0.025 ** (1 / 200)
    for side, end in ((1.0, 0.0), (-1.0, 1.0)):  # of the threshold, which is 950
        ood = 950.5 + side * np.append(np.full(199, 5000.0), distance)
        assert metrics.fpr_id_positive(metrics.Counts.of(ranks, ood)) == end
        found = intervals.bootstrap_intervals(ranks, ood)["fpr95_id_positive"]
        assert end in found and slack - 1e-12 <= found[1] - found[0] < 0.03


def test_bootstrap_brackets_every_metric_and_is_seeded(rng):
    id_scores, ood_scores = rng.normal(0, 1, 300), rng.normal(1.5, 1, 200)
    found = intervals.bootstrap_intervals(id_scores, ood_scores, resamples=200)
    values = metrics.evaluate(id_scores, ood_scores)
    assert found.keys() == values.keys()
    for name, (low, high) in found.items():
        assert 0.0 <= low < values[name] < high <= 1.0, name
    assert intervals.bootstrap_intervals(id_scores, ood_scores, resamples=200) == found


def test_bootstrap_width_agrees_with_delong(rng):
    id_scores, ood_scores = rng.normal(0, 1, 400), rng.normal(1.0, 1, 400)
    counts = metrics.Counts.of(id_scores, ood_scores)
    draws = [
        metrics.auroc(
            metrics.Counts(
                counts.values,
                intervals._resample(counts.id, rng, 1)[0],
                intervals._resample(counts.ood, rng, 1)[0],
            )
        )
        for _ in range(600)
    ]
    _, variance = literal_delong(id_scores, ood_scores)
    assert np.std(draws) == pytest.approx(np.sqrt(variance), rel=0.15)


def test_bounds_are_stretched_where_samples_deceive():
    drawn = np.linspace(0.4, 0.6, 1001)  # percentiles .405 and .595
    for name, stretch in (("fpr95_id_positive", 1.12), ("fpr95_ood_positive", 1.012)):
        low, high = intervals._interval(name, 0.5, drawn, (50, 500), 0.0, 0.95)
        assert (low, high) == pytest.approx((0.405, 0.5 + 0.095 * stretch))
    low, high = special.logit(intervals._interval("aupr_in", 0.5, drawn, (50, 500), 0.0, 0.95))
    assert -low == pytest.approx(1.06 * high)


def test_perfect_separation_has_an_honest_interval():
    low, high = intervals.auroc_interval(np.arange(10.0), np.arange(20.0, 30.0))
    assert high == 1.0 and 0.6 < low < 0.75
    assert intervals.auroc_interval(np.arange(20.0, 30.0), np.arange(10.0))[0] == 0.0


def test_few_examples_leave_no_impossible_error_open():
    found = intervals.bootstrap_intervals(np.arange(3.0), np.arange(4.0, 7.0), resamples=20)
    assert found["detection_error"] == (0.0, 0.5) and found["fpr95_id_positive"][1] > 0.7


def test_paired_difference(rng):
    id_scores, ood_scores = rng.normal(0, 1, 500), rng.normal(1, 1, 400)
    noise = rng.normal(0, 2, 500), rng.normal(0, 2, 400)
    worse = id_scores + noise[0], ood_scores + noise[1]
    found = intervals.paired_auroc_difference((id_scores, ood_scores), worse)
    assert found["low"] > 0 and found["p_value"] < 1e-3
    same = intervals.paired_auroc_difference((id_scores, ood_scores), (id_scores, ood_scores))
    assert same["difference"] == 0.0 and same["p_value"] == 1.0
    perfect = np.arange(5.0), np.arange(10.0, 15.0)
    opposite = perfect[1], perfect[0]
    assert intervals.paired_auroc_difference(perfect, opposite)["p_value"] == 0.0
    other = np.arange(5.0)[::-1], np.arange(10.0, 15.0)  # perfect too, and another ranking
    found = intervals.paired_auroc_difference(perfect, other)
    assert found["high"] == -found["low"] == pytest.approx(1.0 - 0.025 ** (1 / 5))
    constant = np.zeros(5), np.zeros(5)  # no variance either, and no end of the range
    for pairs in ((perfect, constant), (constant, perfect)):
        found = intervals.paired_auroc_difference(*pairs)
        assert found["high"] - found["low"] > 0.5 and abs(found["difference"]) == 0.5
    same = intervals.paired_auroc_difference(perfect, perfect)
    assert same["low"] == same["high"] == 0.0
    with pytest.raises(ValueError, match="same ood examples"):
        intervals.paired_auroc_difference((id_scores, ood_scores), (id_scores, ood_scores[1:]))


@pytest.mark.parametrize("first, second", [(0.995, 0.99), (0.99, 0.99), (0.8, 0.75)])
def test_paired_differences_are_covered(first, second):
    """Plain DeLong holds the first in .91 of such samples."""
    rng, hits = np.random.default_rng(8), 0
    turn = np.linalg.cholesky([[1.0, 0.9], [0.9, 1.0]]).T
    shift = np.sqrt(2.0) * stats.norm.ppf([first, second])
    for _ in range(600):
        ids, oods = rng.normal(size=(200, 2)) @ turn, rng.normal(size=(200, 2)) @ turn + shift
        pairs = ((ids[:, i], oods[:, i]) for i in (0, 1))
        found = intervals.paired_auroc_difference(*pairs)
        hits += found["low"] <= first - second <= found["high"]
    assert 0.935 <= hits / 600 <= 0.975


@pytest.mark.parametrize("num_id, num_ood, groups", [(6000, 4000, 500), (30_000, 50, 400)])
def test_groups_of_scores_give_the_same_intervals(num_id, num_ood, groups, rng, monkeypatch):
    id_scores, ood_scores = rng.normal(0, 1, num_id), rng.normal(3.0, 1, num_ood)
    plain = intervals.bootstrap_intervals(id_scores, ood_scores, resamples=300)
    monkeypatch.setattr(intervals, "GROUPS", groups)
    assert intervals._grouped(metrics.Counts.of(id_scores, ood_scores)).values.size < 5 * groups
    grouped = intervals.bootstrap_intervals(id_scores, ood_scores, resamples=300)
    values = metrics.evaluate(id_scores, ood_scores)
    for name, (low, high) in plain.items():
        assert grouped[name][0] <= values[name] <= grouped[name][1]
        assert grouped[name][1] - grouped[name][0] == pytest.approx(high - low, rel=0.25)
        assert np.mean(grouped[name]) == pytest.approx(np.mean([low, high]), abs=0.2 * (high - low))


def test_ten_million_scores_stay_within_a_gibibyte():
    """Of everything that the process holds, its libraries included."""
    script = """
import resource
import numpy as np
from ood_suite import intervals, metrics
resource.setrlimit(resource.RLIMIT_DATA, (2**30,) * 2)
rng = np.random.default_rng(0)
pair = rng.normal(size=5_000_000), rng.normal(1.0, 1.0, 5_000_000)
found = metrics.evaluate(*pair)
bounds = intervals.bootstrap_intervals(*pair, resamples=10)
for name, (low, high) in bounds.items():
    assert low <= found[name] <= high and high - low < 2e-3, name
assert abs(found["auroc"] - 0.7602499) < 5e-4  # Phi(1 / sqrt(2))
assert intervals.paired_auroc_difference(pair, pair)["difference"] == 0.0
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
