"""Outputs and npz files: round trip, checks, damaged files, nothing pickled."""

import numpy as np
import pytest

from ood_suite.outputs import Outputs, load_npz


def example(rng):
    return Outputs(
        labels=np.arange(4),
        logits=rng.normal(size=(4, 3)),
        features=rng.normal(size=(4, 5)),
        head_kernel=rng.normal(size=(5, 3)),
        head_bias=np.zeros(3),
        logits_perturbed={"T=1000,epsilon=0.0014": rng.normal(size=(4, 3))},
        layer_features={"block1": rng.normal(size=(4, 7)), "block2": rng.normal(size=(4, 9))},
        log_prob=rng.normal(size=4),
        log_prob_map=rng.normal(size=(4, 2, 2)).astype(np.float32),
        meta={"dataset": "mnist", "run": "output/x"},
    )


def test_round_trip(rng, tmp_path):
    outputs = example(rng)
    outputs.save(tmp_path / "deep" / "outputs.npz")
    loaded = Outputs.load(tmp_path / "deep" / "outputs.npz")
    assert len(loaded) == 4 and loaded.meta == outputs.meta
    for name, array in outputs._arrays():
        np.testing.assert_array_equal(dict(loaded._arrays())[name], array)
    assert not list(tmp_path.rglob(".partial*"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"logits": np.zeros(4)}, r"`logits` must have shape \(n, c\). Received: shape=\(4,\)"),
        ({"log_prob": np.zeros(4), "labels": np.zeros(5, int)}, "disagree on their size n"),
        ({"log_prob": np.array([0.0, np.nan])}, "`log_prob` has 1 values that are NaN"),
        ({"log_prob": [1.0]}, "must be a NumPy array. Received: list"),
        ({"features": np.zeros((2, 3)), "head_kernel": np.zeros((4, 2))}, "size d"),
        ({"layer_features": {"a": np.zeros(3)}}, "layer_features/a"),
    ],
)
def test_bad_arrays(fields, message):
    with pytest.raises(ValueError, match=message):
        Outputs(**fields)


def test_a_missing_array_is_explained():
    outputs = Outputs(log_prob=np.zeros(2), meta={"run": "r", "command": "python -m x.extract"})
    with pytest.raises(ValueError, match=r"energy needs `logits`.*has: log_prob.*x\.extract"):
        outputs.require(("log_prob", "logits"), "energy")


def test_damaged_files(rng, tmp_path):
    path = tmp_path / "outputs.npz"
    with pytest.raises(ValueError, match="There is no file"):
        Outputs.load(path)
    example(rng).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="truncated: delete it"):
        Outputs.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as npz"):
        load_npz(path)


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, log_prob=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Outputs.load(path)


def test_unknown_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", logprob=np.zeros(3))
    with pytest.raises(ValueError, match="unknown array `logprob`"):
        Outputs.load(tmp_path / "x.npz")
