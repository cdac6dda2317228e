"""Blocks: scores in their places, no error lost, moments whose half is computed."""

import threading
import time
import tracemalloc

import numpy as np
import pytest

from ood_suite import processors, scores
from ood_suite.scores import checks, prototypes, subspace
from ood_suite.scores.gradients import odin, odin_key
from ood_suite.scores.logits import TemperatureScaling, energy
from ood_suite.scores.neighbors import NNGuide, Relation


@pytest.fixture
def features(rng, monkeypatch):
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 6 * 10)  # ten rows a block
    monkeypatch.setattr(checks, "MOMENT_BYTES", 8 * 6 * 20)
    return rng.normal(size=(105, 6)).astype(np.float32)


@pytest.mark.parametrize("order", ["C", "F"])
def test_every_block_is_scored_in_its_place(features, order):
    seen = []

    def first(part, rows):
        seen.append(len(rows))
        assert rows.dtype == np.float64 and rows.flags[f"{order}_CONTIGUOUS"]
        return rows[:, 0]

    found = checks.each("features", features, first, order=order)
    np.testing.assert_array_equal(found, features[:, 0])
    assert seen == [10] * 10 + [5]
    assert checks.each("features", features[:0], first).shape == (0,)


@pytest.mark.parametrize("width, rows", [(400, 163), (512, 256), (2048, 256), (100_000, 5)])
def test_wide_data_have_as_many_rows_as_pay(width, rows):
    values = np.broadcast_to(np.float32(1.0), (600, width))
    assert len(next(checks.chunks("features", values))[1]) == rows


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_wherever_it_is(features, value):
    features[103, 2] = value
    with pytest.raises(ValueError, match="`features` has values that are NaN or infinite"):
        checks.each("features", features, lambda part, rows: rows[:, 0])


def test_values_whose_squares_overflow_are_finite(features):
    features[3, 2] = 3e38
    assert checks.each("features", features, lambda part, rows: rows[:, 2])[3] == features[3, 2]


def test_second_moment(features):
    shifted = features.astype(np.float64) - 1.0
    found = checks.second_moment("features", features, lambda part, rows: rows - 1.0)
    np.testing.assert_allclose(found, shifted.T @ shifted, rtol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    wide = checks.second_moment("features", features, lambda part, rows: rows[:, :2], width=2)
    np.testing.assert_allclose(wide, (features.astype(float).T @ features)[:2, :2], rtol=1e-6)
    assert not checks.second_moment("features", features[:0], lambda part, rows: rows).any()


def test_few_classes_are_scored_by_columns(rng):
    few, many = rng.normal(size=(7, 10)), rng.normal(size=(7, checks.FEW_CLASSES + 1))
    for logits, order in ((few, "F"), (many, "C")):
        found = checks.each_logits(
            logits, lambda rows, o=order: rows.sum(axis=1) * rows.flags[f"{o}_CONTIGUOUS"]
        )
        np.testing.assert_allclose(found, logits.sum(axis=1))


def test_many_classes_need_no_table(rng, monkeypatch):
    features, kernel = rng.normal(size=(50, 6)), rng.normal(size=(6, 9))
    kernel[:, 3] = kernel[:, 4] = np.arange(6)  # exact copies: no boundary between them
    learner = scores.get("fdbd").make().fit(features)
    arrays = features, features @ kernel, kernel
    whole = learner.score(*arrays)
    monkeypatch.setattr(prototypes, "TABLE_CLASSES", 8)
    monkeypatch.setattr(prototypes, "MANY_CLASSES_ROWS", 7)
    np.testing.assert_allclose(learner.score(*arrays), whole, rtol=1e-12)


def test_copies_of_a_class_have_no_boundary(rng):
    """Their distance, a difference of rounded products, is rarely 0."""
    for _ in range(60):
        kernel = rng.normal(size=(340, 19)).astype(np.float32)
        kernel[:, 3] = kernel[:, 7]
        features = rng.normal(size=(40, 340))
        logits = features @ kernel + np.where(np.arange(19) == 3, 0.05, 0.0)
        found = scores.get("fdbd").make().fit(features).score(features, logits, kernel)
        assert np.abs(found).max() < 10.0


def test_an_error_in_one_thread_ends_all(rng, monkeypatch):
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 40)  # blocks of one row
    begun = []

    def score(part, rows):
        begun.append(part.start)
        time.sleep(0.001)
        return rows[:, 0]

    values = rng.normal(size=(300, 40))
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        checks.each("logits", values, score, threads=3)
    assert len(begun) < 100  # of 200 in the other two threads


def test_the_callers_treatment_of_overflow_reaches_all_threads(monkeypatch):
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 40)
    values = np.full((9, 40), 1e300)

    def score(_, rows):
        return (rows * 1e300)[:, 0]

    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        checks.each("logits", values, score, threads=3)


def peak_of(function, *arrays):
    """Bytes that a call takes at most."""
    tracemalloc.start()
    try:
        function(*arrays)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_copy_of_all_logits_is_made(rng):
    features, logits = rng.normal(size=(40000, 2)), rng.normal(size=(40000, 100)).astype("f")
    few, scaling = logits[:100], TemperatureScaling()
    scaling.temperature_ = np.float64(2.0)
    key = odin_key(1000.0, 0.0014)
    scored = {
        "energy": (energy, logits),
        "temperature_scaling": (scaling.score, logits),
        "odin": (odin, {key: logits}),
        "nnguide": (NNGuide().fit(features[:100], few).score, features, logits),
        "relation": (Relation().fit(features[:100], few).score, features, logits),
    }
    for name, (function, *arrays) in scored.items():
        assert peak_of(function, *arrays) < logits.nbytes, (
            name
        )  # a copy in float64 has twice as many


def test_class_residual_takes_what_it_counts(rng, monkeypatch):
    features, labels = rng.normal(size=(200, 160)), np.arange(200) % 40
    counted = 8 * 40 * 160 * (2 * 160 - 80)
    monkeypatch.setattr(subspace, "MOST_BYTES", counted)
    assert counted < peak_of(subspace.ClassResidual().fit, features, labels) < 1.2 * counted


def test_threads_share_the_blocks_of_many_logits(rng, monkeypatch):
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 40 * 5)
    logits = 9.0 * rng.normal(size=(33, 40)).astype(np.float32)
    alone = {name: scores.get(name).make()(logits) for name in ("msp", "energy", "entropy", "gen")}
    monkeypatch.setattr(checks, "MANY", logits.size)
    monkeypatch.setattr(processors, "threads", lambda: 3)
    side_by_side = threading.Barrier(3)  # passed when three threads have begun

    def first(rows):
        if rows[0, 0] in logits[:15:5, 0]:
            side_by_side.wait(60)
        return rows[:, 0]

    np.testing.assert_array_equal(checks.each_logits(logits, first), logits[:, 0])
    for name, expected in alone.items():
        np.testing.assert_array_equal(scores.get(name).make()(logits), expected)
    logits[31, 3] = np.nan
    with pytest.raises(ValueError, match="`logits` has values that are NaN or infinite"):
        scores.get("energy").make()(logits)
