"""The leave-out score against a literal rewrite, its numerics, and what it refuses."""

import numpy as np
import pytest

from ood_suite.scores import ensembles


@pytest.fixture
def mapping(rng):
    found = {}
    for member in range(3):
        logits = rng.normal(0, 3, (40, 4 + member)).astype(np.float32)
        found[f"{member}"] = logits
        for rule in ensembles.RULES:
            moved = logits + rng.normal(0, 0.1, logits.shape).astype(np.float32)
            found[f"{member},{rule},T=1000,epsilon=0.002"] = moved
    return found


def literal(mapping, temperature, key, members):
    values = []
    for i in range(40):
        total = 0.0
        for member in range(members):
            row = [float(z) / temperature for z in mapping[key.format(member)][i]]
            p = [np.exp(z) / sum(np.exp(y) for y in row) for z in row]
            total += max(p) + sum(q * np.log(q) for q in p)  # max - H, higher = ID
        values.append(-total)
    return values


def test_it_is_the_formula(mapping):
    key = "{},entropy,T=1000,epsilon=0.002"
    np.testing.assert_allclose(
        ensembles.leave_out(mapping), literal(mapping, 1000.0, key, 3), 1e-12
    )
    plain = ensembles.leave_out(mapping, temperature=2.0, epsilon=0.0, members=2)
    np.testing.assert_allclose(plain, literal(mapping, 2.0, "{}", 2), rtol=1e-10)
    other = ensembles.leave_out(mapping, rule="cross_entropy")
    np.testing.assert_allclose(
        other, literal(mapping, 1000.0, "{},cross_entropy,T=1000,epsilon=0.002", 3), rtol=1e-12
    )
    parts = [ensembles.leave_out(mapping, terms=terms) for terms in ("confidence", "entropy")]
    np.testing.assert_allclose(sum(parts), ensembles.leave_out(mapping), rtol=1e-12)


def test_high_temperatures_do_not_collapse(rng):
    logits = rng.normal(0, 1, (20_000, 8)).astype(np.float32)
    values = ensembles.leave_out({"0": logits}, temperature=1000.0, epsilon=0.0)
    assert len(np.unique(values)) == 20_000
    p = np.exp(logits / np.float32(1000)) / np.exp(logits / np.float32(1000)).sum(1, keepdims=True)
    assert len(np.unique(p.max(1) + (p * np.log(p)).sum(1))) < 10_000  # what float32 leaves


def test_each_example_stands_alone(mapping):
    order = np.random.default_rng(1).permutation(40)
    whole = ensembles.leave_out(mapping)
    part = ensembles.leave_out({key: array[order[:7]] for key, array in mapping.items()})
    np.testing.assert_array_equal(part, whole[order[:7]])


def test_ensemble_logits_by_hand():
    first, second = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    found = np.exp(ensembles.ensemble_logits([first, second], [[0, 1], [1, 2]]))
    np.testing.assert_allclose(found, [[0.25, 0.375, 0.375]])
    alone = np.exp(ensembles.ensemble_logits([first, first], [[0, 1], [0, 1]]))
    np.testing.assert_allclose(alone, [[0.5, 0.5]])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": 0.0}, "temperature"),
        ({"epsilon": 0.1}, "leave_out needs `member_logits` of 0,entropy,T=1000,epsilon=0.1"),
        ({"rule": "sign"}, "`rule` must be one of cross_entropy, entropy"),
        ({"terms": "max"}, "`terms` must be one of both, confidence, entropy"),
        ({"members": 4}, r"`members` must lie in 0..3"),
    ],
)
def test_refusals(mapping, change, message):
    with pytest.raises(ValueError, match=message):
        ensembles.leave_out(mapping, **change)


def test_a_missing_member_is_an_error(mapping):
    del mapping["1"], mapping["1,entropy,T=1000,epsilon=0.002"]
    del mapping["1,cross_entropy,T=1000,epsilon=0.002"]
    with pytest.raises(ValueError, match=r"Members are missing: there are only \[0, 2\]"):
        ensembles.leave_out(mapping)
    with pytest.raises(ValueError, match="must be a mapping"):
        ensembles.leave_out({})
