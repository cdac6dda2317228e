"""Ranks: scikit-posthocs' and statsmodels' frozen numbers, hand numbers, Demsar's example, and what
the tests promise by simulation.
"""

import numpy as np
import pytest
from scipy import stats

from ood_suite import ranks

# scikit-posthocs 0.17.1, posthoc_conover_friedman without correction and with "holm"; scipy 1.17.1,
# friedmanchisquare; numpy 2.4.6. Pairs in the order (0, 1), (0, 2), ..., (3, 4), on `drawn`.
FRIEDMAN = {
    "plain": (10.800000000000011, 0.028906118032720935),
    "ties": (12.141843971631225, 0.01632706520373811),
}
CONOVER = {
    "plain": [0.11315941182120942, 0.2138446717120272, 0.010940025963585887, 0.0017832898948229362,
              0.71901929821367, 0.2848902680103398, 0.07991866813321057, 0.15715056107443945,
              0.037779898208367295, 0.47335511810382574],
    "ties": [0.01855092306954576, 0.10021505049648999, 0.007182978738103363, 0.0005490773289464326,
             0.4304461812619747, 0.6921918422951692, 0.17249666002588604, 0.2401945897502208,
             0.03622548477883782, 0.32587470687166104],
}  # fmt: skip
CONOVER_HOLM = {
    "plain": [0.6789564709272565, 0.8553786868481088, 0.09846023367227298, 0.017832898948229363,
              0.9467102362076515, 0.8553786868481088, 0.559430676932474, 0.7857528053721973,
              0.30223918566693836, 0.9467102362076515],
    "ties": [0.14840738455636607, 0.6012903029789399, 0.06464680864293026, 0.005490773289464327,
             0.9776241206149832, 0.9776241206149832, 0.8624833001294302, 0.9607783590008832,
             0.2535783934518648, 0.9776241206149832],
}  # fmt: skip
# statsmodels 0.15.0, multipletests(method="holm").
P_VALUES = [0.16896982428524082, 0.007573481923770896, 0.007085886413757905, 0.48361961965049566,
            0.48361961965049566, 0.9186088735182687, 0.6162329536643584]  # fmt: skip
P_HOLM = [0.8448491214262042, 0.04960120489630534, 0.04960120489630534, 1.0, 1.0, 1.0, 1.0]
UPPER = np.triu_indices(5, 1)


def drawn(kind):
    """(8 blocks, 5 treatments)."""
    random = np.random.RandomState(3)
    plain = random.normal(size=(8, 5)) + np.arange(5) * 0.5
    if kind == "plain":
        return plain
    return np.round(random.normal(size=(8, 5)) + np.arange(5) * 0.5)


@pytest.mark.parametrize("kind", FRIEDMAN)
def test_equal_to_scikit_posthocs_and_scipy(kind):
    found = ranks.rank(drawn(kind))
    assert (found.statistic, found.p_value) == pytest.approx(FRIEDMAN[kind], abs=1e-12)
    within = stats.rankdata(-drawn(kind), axis=1)
    np.testing.assert_allclose(ranks.conover(within)[UPPER], CONOVER[kind], rtol=0, atol=1e-12)
    expected = np.maximum(CONOVER_HOLM[kind], found.p_value)
    np.testing.assert_allclose(found.pairs[UPPER], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.pairs, found.pairs.T)


def test_holm_equals_statsmodels():
    np.testing.assert_allclose(ranks.holm(P_VALUES), P_HOLM, rtol=0, atol=1e-12)
    assert ranks.holm([]).shape == (0,)
    with pytest.raises(ValueError, match=r"each in \[0, 1\]"):
        ranks.holm([0.5, np.nan])


def test_hand_numbers_and_demsars_table():
    found = ranks.rank([[0.9, 0.8, 0.7], [0.8, 0.8, 0.6]])  # ranks 1 2 3 and 1.5 1.5 3
    np.testing.assert_allclose(found.mean_ranks, [1.25, 1.75, 3.0])
    # Demsar 2006, table 5a, of 3, 4, 5, 8 and 10 classifiers.
    for count, q in ((3, 2.343), (4, 2.569), (5, 2.728), (8, 3.031), (10, 3.164)):
        found = ranks.critical_difference(count, 14) / np.sqrt(count * (count + 1) / (6 * 14))
        assert found == pytest.approx(q, abs=1.1e-3)


def test_always_the_same_order_and_never_any():
    certain = ranks.rank(np.tile([0.9, 0.8, 0.7, 0.6], (6, 1)))
    assert certain.p_value < 0.001 and ranks.alike(certain) == []
    none = ranks.rank(np.full((6, 4), 0.7))
    assert none.p_value == 1.0 and (none.pairs == 1.0).all()
    assert ranks.alike(none) == [(0, 3)]


def test_alike_gives_the_largest_runs():
    found = ranks.rank(drawn("plain"))
    pairs = np.ones((5, 5))
    order = np.argsort(found.mean_ranks)
    for a, b in ((0, 2), (0, 3), (0, 4), (1, 4)):  # places: 01, 123, 234 remain
        pairs[order[a], order[b]] = pairs[order[b], order[a]] = 0.01
    assert ranks.alike(found._replace(pairs=pairs)) == [(0, 1), (1, 3), (2, 4)]


def simulated(blocks, count, shifts=(), repeats=600):
    """Rankings of normal values, the first treatments shifted."""
    rng = np.random.default_rng(0)
    moved = np.zeros(count)
    moved[: len(shifts)] = shifts
    return [ranks.rank(rng.normal(size=(blocks, count)) + moved) for _ in range(repeats)]


def test_false_alarms_and_power_are_what_they_should_be():
    """Standard error of a share of .05 of 600: .009."""
    null = simulated(12, 5)
    assert 0.02 <= np.mean([r.p_value <= 0.05 for r in null]) <= 0.08
    assert np.mean([(r.pairs <= 0.05).any() for r in null]) <= 0.07
    # One is better, the others alike: it is found, and alarms among the others stay near 5%.
    one = simulated(12, 5, shifts=(2.0,))
    assert np.mean([(r.pairs[0, 1:] <= 0.05).all() for r in one]) >= 0.65
    assert np.mean([(r.pairs[1:, 1:] <= 0.05).any() for r in one]) <= 0.11


@pytest.mark.parametrize(
    "values, message",
    [
        (np.ones((1, 4)), "at least two blocks"),
        (np.ones((4, 2)), "at least three treatments"),
        (np.ones(4), r"shape=\(4,\)"),
        ([[1.0, np.nan, 2.0]] * 3, "`values` has 3 NaN"),
    ],
)
def test_bad_input(values, message):
    with pytest.raises(ValueError, match=message.replace("(b, k)", r"\(b, k\)")):
        ranks.rank(values)
