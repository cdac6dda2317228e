"""Each promise is kept, by simulation with exact binomial bounds; a broken one would be seen."""

import numpy as np
import pytest
from scipy import stats

from ood_suite import conformal

REPEATS = 4000


def bounds(share, count):
    """What a binomial count of this share stays within in all but one of a million runs."""
    return stats.binom(count, share).ppf([5e-7, 1.0 - 5e-7])


@pytest.mark.parametrize("count,alpha", [(20, 0.05), (50, 0.1), (200, 0.01), (1000, 0.05)])
def test_false_alarms_are_what_is_promised_on_average_over_held_out_sets(count, alpha):
    generator = np.random.default_rng(count)
    alarms = 0
    for _ in range(REPEATS):
        scores = generator.standard_exponential(count + 1)
        alarms += scores[-1] > conformal.threshold(scores[:-1], alpha)
    promise = conformal.Promise.of(count, conformal.rank_for(count, alpha))
    low, high = bounds(promise.expected, REPEATS)
    assert low <= alarms <= high
    assert promise.expected <= alpha < promise.expected + 1.0 / (count + 1)


@pytest.mark.parametrize("count,alpha", [(50, 0.1), (200, 0.05), (1000, 0.01)])
def test_one_held_out_set_keeps_its_promise_with_the_confidence_asked_for(count, alpha):
    generator = np.random.default_rng(count)
    # Uniform scores: the share of false alarms of a threshold t is 1 - t, exactly.
    shares = np.array([
        1.0 - conformal.threshold(generator.random(count), alpha, confidence=0.95)
        for _ in range(REPEATS)
    ])  # fmt: skip
    kept = int((shares <= alpha).sum())
    assert kept >= bounds(0.95, REPEATS)[0]
    assert conformal.rank_for(count, alpha, 0.95) > conformal.rank_for(count, alpha)
    plain = np.array([1.0 - conformal.threshold(generator.random(count), alpha) for _ in range(99)])
    assert (plain <= alpha).mean() < 0.8  # which the threshold without confidence does not


def test_the_share_of_one_held_out_set_lies_in_the_interval_that_is_told():
    generator = np.random.default_rng(0)
    promise = conformal.Promise.of(50, conformal.rank_for(50, 0.1))
    shares = np.array([1 - conformal.threshold(generator.random(50), 0.1) for _ in range(REPEATS)])
    inside = int(((promise.low <= shares) & (shares <= promise.high)).sum())
    low, high = bounds(0.95, REPEATS)
    assert low <= inside <= high
    assert "50 held-out examples promise 9.80%" in str(promise)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("randomised", [False, True])
def test_p_values_of_id_examples_are_uniform_or_larger(ties, randomised):
    generator = np.random.default_rng(1)
    found = []
    for _ in range(REPEATS):
        scores = generator.normal(size=31)
        scores = np.round(scores) if ties else scores
        rng = generator if randomised else None
        found.append(conformal.p_values(scores[:-1], scores[-1:], rng)[0])
    found = np.array(found)
    for level in (1 / 31, 0.1, 0.5, 0.9):
        low, high = bounds(level, REPEATS)
        assert (found <= level).sum() <= high
        if randomised:
            assert (found <= level).sum() >= low
    assert found.min() > 0.0 and found.max() <= 1.0


def test_p_values_by_hand():
    held_out = np.array([1.0, 2.0, 2.0, 3.0])
    np.testing.assert_allclose(
        conformal.p_values(held_out, np.array([0.0, 2.0, 2.5, 9.0])), [1.0, 0.8, 0.4, 0.2]
    )
    half = conformal.p_values(held_out, np.array([2.0]), _Half())
    np.testing.assert_allclose(half, (1 + 0.5 * 3) / 5)  # one above, two equal and itself


class _Half:
    def random(self, shape):
        return np.full(shape, 0.5)


@pytest.mark.parametrize("how", ["fisher", "minimum"])
@pytest.mark.parametrize("dependence", [0.0, 0.9, -0.9])
def test_combined_p_values_hold_whatever_the_dependence(how, dependence):
    generator = np.random.default_rng(2)
    mixing = np.array([[1.0, 0.0], [dependence, np.sqrt(1.0 - dependence**2)]])
    found = []
    for _ in range(REPEATS):
        scores = mixing @ generator.normal(size=(2, 25))
        found.append(conformal.combined_p_values(scores[:, :-1], scores[:, -1:], how)[0])
    found = np.array(found)
    for level in (0.04, 0.08, 0.2, 0.5):
        assert (found <= level).sum() <= bounds(level, REPEATS)[1]
    # Nothing is given away but what ties of the joint ranks cost.
    assert (found <= 0.2).sum() >= bounds(0.2, REPEATS)[0] - 0.08 * REPEATS


def test_combined_p_values_are_those_of_a_literal_loop():
    generator = np.random.default_rng(4)
    held_out, new = generator.normal(size=(3, 40)).round(1), generator.normal(1, 1, (3, 7)).round(1)
    for how in ("fisher", "minimum"):
        expected = []
        for column in new.T:
            bag = np.column_stack([held_out, column])
            p = np.array([[(row >= value).sum() / 41 for value in row] for row in bag])
            statistic = -2 * np.log(p).sum(0) if how == "fisher" else -p.min(0)
            expected.append((statistic >= statistic[-1] - 1e-12).sum() / 41)
        np.testing.assert_allclose(conformal.combined_p_values(held_out, new, how), expected)


def test_fisher_gains_from_two_scores_that_see_a_little_each():
    generator = np.random.default_rng(5)
    held_out, new = generator.normal(size=(2, 400)), generator.normal(1.5, 1.0, (2, 400))
    both = (conformal.combined_p_values(held_out, new) <= 0.05).mean()
    one = (conformal.p_values(held_out[0], new[0]) <= 0.05).mean()
    assert both > one + 0.1


def test_thresholds_of_classes_hold_within_each_class():
    generator = np.random.default_rng(6)
    scale, alarms, whole = np.array([1.0, 10.0]), np.zeros(2), np.zeros(2)
    for _ in range(REPEATS // 4):
        labels = np.arange(80) % 2
        scores = scale[labels] * generator.standard_exponential(80)
        new = scale * generator.standard_exponential(2)
        by_class = conformal.class_thresholds(scores, labels, 0.1)
        alarms += new > [by_class[0], by_class[1]]
        whole += new > conformal.threshold(scores, 0.1)
    low, high = bounds(4 / 41, REPEATS // 4)
    assert (low <= alarms).all() and (alarms <= high).all()
    assert whole[0] < low and whole[1] > high  # one threshold for both does not


def test_discoveries_hold_their_share_of_false_ones():
    generator = np.random.default_rng(7)
    shares, caught = [], []
    for _ in range(1000):
        held_out = generator.normal(size=500)
        scores = np.concatenate([generator.normal(size=80), generator.normal(4.0, 1.0, 20)])
        found = conformal.discoveries(conformal.p_values(held_out, scores), 0.1)
        shares.append(found.is_ood[:80].sum() / max(1, found.is_ood.sum()))
        caught.append(found.is_ood[80:].mean())
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= 0.1 * 0.8 + 5 * error  # 80 of 100 are ID
    assert np.mean(caught) > 0.8
    plain = (conformal.p_values(held_out, scores) <= 0.1)[:80].sum()
    assert plain >= 3  # eight are expected of a threshold for each by itself


def test_discoveries_of_nothing():
    assert len(conformal.discoveries(np.zeros(0)).is_ood) == 0
    assert not conformal.discoveries(np.array([0.5, 0.9])).is_ood.any()


@pytest.mark.parametrize("held_out, count", [(100, 50), (500, 10_000)])
def test_alarms_of_id_examples_are_rarely_called_too_many(held_out, count):
    generator, rank, repeats = np.random.default_rng(8), conformal.rank_for(held_out, 0.05), 4000
    share = stats.beta(held_out + 1 - rank, rank).rvs(repeats, random_state=generator)
    alarms = generator.binomial(count, share)
    tails = np.array([conformal.alarms_p_value(k, count, held_out, rank) for k in alarms])
    low, high = stats.binom(repeats, 0.01).ppf([1e-6, 1 - 1e-6])
    assert (tails < 0.01).sum() <= high
    if count > 1000:  # hardly discrete; a binomial test of the mean share is wrong here
        assert (tails < 0.01).sum() >= low
        naive = stats.binom(count, 0.05).sf(alarms - 1)
        assert (naive < 0.01).mean() > 0.2
    expected = stats.betabinom(count, held_out + 1 - rank, rank).sf(alarms[:20] - 1)
    np.testing.assert_allclose(tails[:20], expected, rtol=1e-6)


def test_too_few_held_out_examples_are_told_how_many_are_needed():
    with pytest.raises(ValueError, match="18 held-out examples cannot promise.* 19 are needed"):
        conformal.threshold(np.arange(18.0), 0.05)
    assert conformal.threshold(np.arange(19.0), 0.05) == 18.0
    with pytest.raises(ValueError, match="at least 9999 are needed"):
        conformal.threshold(np.arange(9998.0), 1.0 - 0.9999)
    assert conformal.rank_for(9999, 1.0 - 0.9999) == 9999
    with pytest.raises(ValueError, match="5 .*with 99.9% confidence: at least 135 are needed"):
        conformal.rank_for(5, 0.05, 0.999)
    with pytest.raises(ValueError, match="58 .*with 95% confidence: at least 59 are needed"):
        conformal.threshold(np.arange(58.0), 0.05, confidence=0.95)
    assert conformal.threshold(np.arange(59.0), 0.05, confidence=0.95) == 58.0
    with pytest.raises(ValueError, match="Class 1: 3 held-out"):
        conformal.class_thresholds(np.arange(23.0), np.arange(23) // 20, 0.05)


@pytest.mark.parametrize(
    "call,text",
    [
        (lambda: conformal.threshold(np.zeros((2, 2))), "shape=\\(2, 2\\)"),
        (lambda: conformal.threshold(np.array([np.nan])), "1 NaN"),
        (lambda: conformal.threshold(np.arange(99.0), 0.0), "`false_alarms` must lie in"),
        (lambda: conformal.threshold(np.arange(99.0), 0.1, 1.0), "`confidence` must lie in"),
        (lambda: conformal.discoveries(np.ones(3), 2.0), "`share` must lie in"),
        (lambda: conformal.combined_p_values(np.ones(3), np.ones(3), "mean"), "fisher or minimum"),
        (lambda: conformal.combined_p_values(np.ones((2, 3)), np.ones(3)), "2 held-out scores"),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_the_threshold_that_accepts_a_share(caplog):
    scores = np.random.default_rng(8).normal(size=999)
    assert (scores <= conformal.accepting(scores, 0.9)).sum() == 900
    assert conformal.accepting(scores, 1.0) == scores.max()
    assert not caplog.records
    assert conformal.accepting(np.arange(10.0), 0.95) == 9.0
    assert "at least 19 are needed" in caplog.text
    with pytest.raises(ValueError, match="`acceptance` must lie in"):
        conformal.accepting(scores, 0.0)


def test_last_digits_do_not_part_equal_scores():
    held_out = np.array([-np.inf, -3.0, 0.0, 2.0, np.inf])
    for sign in (-1, 1):
        near = held_out * (1.0 + sign * 1e-14)
        np.testing.assert_array_equal(conformal.p_values(held_out, near) * 6, [6, 5, 4, 3, 2])
        pair = np.stack([held_out, held_out]), np.stack([near, near])
        np.testing.assert_allclose(conformal.combined_p_values(*pair) * 6, [6, 5, 4, 3, 2])
        assert not conformal.beyond(near, held_out).any()
    above = held_out + 1e-6
    np.testing.assert_array_equal(conformal.p_values(held_out, above) * 6, [6, 4, 3, 2, 2])
    assert conformal.beyond(above, held_out).tolist() == [False, True, True, True, False]
    ties = conformal.p_values(held_out, np.full(999, 2.0 - 1e-15), np.random.default_rng(0)) * 6
    assert 1.0 <= ties.min() < 1.1 and 2.9 < ties.max() <= 3.0  # above it one, and not itself
