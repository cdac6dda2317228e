"""Risk and coverage: hand numbers, slow literal sums, FD-Shifts' frozen numbers, and AUTC."""

import numpy as np
import pytest

from ood_suite import metrics, selective

# What IML-DKFZ/fd-shifts@c4467ae (fd_shifts/analysis/rc_stats.py: aurc, eaurc, augrc of ID alone;
# aurc, augrc of ID and OOD, each OOD example twice) gave, over 1000, with numpy 2.4.6 on `drawn`.
FD_SHIFTS = {
    "plain": [0.10671040339676638, 0.08370976551131576, 0.06956666666666667,
              0.34983497730787444, 0.22291944444444448],
    "ties": [0.1062452105637213, 0.08324457267827069, 0.07087222222222221,
             0.34667757951049466, 0.22439027777777779],
}  # fmt: skip
# What glhr/beyond-AUROC@9d78e63 (calc_autc of ood_metrics.py, scores moved to [0, 1]) gave on
# "plain".
BEYOND_AUROC = 0.39608689875867575


def drawn(kind):
    """(ID scores, OOD scores, whether the classifier is right) of 300 and 150 examples."""
    random = np.random.RandomState(7)
    own = random.normal(0, 1, 300)
    correct = random.rand(300) < 1 / (1 + np.exp(own - 1.5))
    ood = random.normal(1.2, 1, 150)
    if kind == "ties":
        own, ood = np.round(own * 2) / 2, np.round(ood * 2) / 2
    return own, ood, correct


@pytest.mark.parametrize("kind", FD_SHIFTS)
def test_equal_to_fd_shifts(kind):
    found = selective.evaluate(*drawn(kind))
    assert tuple(found) == selective.COLUMNS
    np.testing.assert_allclose(list(found.values()), FD_SHIFTS[kind], rtol=0, atol=1e-12)


def test_hand_numbers():
    # Accepted in turn: right, wrong, right. Risks 0, 1/2, 1/3; at coverage 0 the first one again.
    found = selective.curve([0.1, 0.2, 0.3], [0, 1, 0])
    np.testing.assert_allclose(found.coverage, [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(found.risk, [0, 0, 1 / 2, 1 / 3])
    np.testing.assert_allclose(found.joint, [0, 0, 1 / 3, 1 / 3])
    assert selective.aurc(found) == pytest.approx((0 + 1 / 4 + 5 / 12) / 3)
    assert selective.augrc(found) == pytest.approx((0 + 1 / 6 + 1 / 3) / 3)
    # All right, all wrong, all alike.
    assert selective.aurc(selective.curve([1, 2, 3], [0, 0, 0])) == 0
    wrong = selective.curve([1, 2, 3], [1, 1, 1])
    assert selective.aurc(wrong) == pytest.approx(1) and selective.augrc(wrong) == 0.5
    assert selective.excess_aurc(wrong) == pytest.approx(0)
    alike = selective.curve([7, 7, 7, 7], [0, 1, 0, 0])
    assert (selective.aurc(alike), selective.augrc(alike)) == (0.25, 0.125)


def literal(scores, errors):
    """(AURC, AUGRC) by counting the accepted anew at each threshold, O(n^2)."""
    points = [(0.0, None, 0.0)]
    for threshold in sorted(set(scores)):
        accepted = [e for s, e in zip(scores, errors, strict=True) if s <= threshold]
        points.append((
            len(accepted) / len(scores), sum(accepted) / len(accepted), sum(accepted) / len(scores)
        ))  # fmt: skip
    points[0] = (0.0, points[1][1], 0.0)
    steps = list(zip(points[:-1], points[1:], strict=True))
    return [sum((b[0] - a[0]) * (a[i] + b[i]) / 2 for a, b in steps) for i in (1, 2)]


@pytest.mark.parametrize("kind", FD_SHIFTS)
def test_literal_sums_and_closed_forms(kind):
    own, ood, correct = drawn(kind)
    found = selective.curve(own, ~correct)
    area, joint = literal(own, ~correct)
    assert selective.aurc(found) == pytest.approx(area, abs=1e-12)
    assert selective.augrc(found) == pytest.approx(joint, abs=1e-12)
    # Traub et al.: the AUROC of mistakes and the share of them make the AUGRC.
    error = np.mean(~correct)
    area = metrics.auroc(metrics.Counts.of(own[correct], own[~correct]))
    expected = (1 - area) * error * (1 - error) + error**2 / 2
    assert selective.augrc(found) == pytest.approx(expected, abs=1e-12)
    if kind == "plain":  # the sum of the first paper
        order = np.argsort(own)
        risks = np.cumsum(~correct[order]) / np.arange(1, 301)
        expected = np.mean(risks) + (risks[0] - risks[-1]) / 600
        assert selective.aurc(found) == pytest.approx(expected, abs=1e-12)


def test_order_changes_nothing_and_numbers_of_a_class_neither(rng):
    own, ood, correct = drawn("ties")
    found = selective.evaluate(own, ood, correct)
    order = rng.permutation(300)
    mixed = selective.evaluate(own[order], rng.permutation(ood), correct[order])
    assert found == pytest.approx(mixed, abs=1e-12)
    thrice = selective.evaluate(own, np.tile(ood, 3), correct)
    assert found == pytest.approx(thrice, abs=1e-12)


def test_a_perfect_ranking_has_nearly_no_excess():
    errors = np.arange(20_000) >= 15_000
    assert selective.excess_aurc(selective.curve(np.arange(20_000.0), errors)) < 1e-5
    assert selective.excess_aurc(selective.curve(-np.arange(20_000.0), errors)) > 0.3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], []), "`scores` is empty"),
        (([1.0, np.nan], [0, 1]), "`scores` has 1 NaN"),
        (([1.0, 2.0], [0, 1, 1]), r"`errors` must have shape \(n,\)"),
        (([1.0, 2.0], [0, 0.5]), "`errors` must be true or false"),
        (([[1.0], [2.0]], [0, 1]), r"`scores` must have shape \(n,\)"),
        (([1.0, 2.0], [0, 1], [1.0, 0.0]), "`weights` must be positive"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        selective.curve(*arguments)


@pytest.mark.parametrize("kind", FD_SHIFTS)
def test_autc_is_the_mean_of_both_error_rates_over_all_thresholds(kind):
    own, ood, _ = drawn(kind)
    found = metrics.autc(metrics.Counts.of(own, ood))
    low, high = min(own.min(), ood.min()), max(own.max(), ood.max())
    thresholds = np.linspace(low, high, 20_001)[:-1] + (high - low) / 40_000
    alarms, missed = (own >= thresholds[:, None]).mean(1), (ood < thresholds[:, None]).mean(1)
    assert found == pytest.approx(np.mean(alarms + missed) / 2, abs=1e-4)
    if kind == "plain":  # straight lines in place of steps: half a step of each rate
        assert found == pytest.approx(BEYOND_AUROC, abs=3e-4)


def test_autc_by_hand():
    counts = metrics.Counts.of(np.array([0.0, 1.0]), np.array([3.0, 4.0]))
    assert metrics.autc(counts) == pytest.approx((0.125 + 0.125) / 2)
    assert metrics.autc(metrics.Counts.of(np.ones(3), np.ones(2))) == 0.5
    moved = metrics.Counts.of(np.array([5.0, 7.0]), np.array([11.0, 13.0]))
    assert metrics.autc(moved) == pytest.approx(metrics.autc(counts))
    assert np.isnan(metrics.autc(metrics.Counts.of(np.array([0.0]), np.array([np.inf]))))
