"""Outputs and npz files: round trip, checks, damaged files, nothing pickled."""

import numpy as np
import pytest

from ood_suite import files
from ood_suite.files import load_npz
from ood_suite.outputs import Outputs, OutputsWriter


def example(rng):
    features, kernel = rng.normal(size=(4, 5)), rng.normal(size=(5, 3))
    return Outputs(
        labels=np.arange(4),
        logits=features @ kernel + 1.0,
        features=features,
        head_kernel=kernel,
        head_bias=np.ones(3),
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
    for name, array in outputs.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array)
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
    with pytest.raises(ValueError, match="truncated: copy it again"):
        Outputs.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as npz"):
        load_npz(path)


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, log_prob=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="Python objects, which are never read"):
        Outputs.load(path)


def test_unknown_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", logprob=np.zeros(3))
    with pytest.raises(ValueError, match="unknown array `logprob`"):
        Outputs.load(tmp_path / "x.npz")


def test_a_head_that_does_not_make_the_logits_is_refused(rng):
    good = example(rng)
    fields = {name: getattr(good, name) for name in ("features", "head_kernel", "logits")}
    with pytest.raises(ValueError, match="largest difference .* is 3.*input of the last dense"):
        Outputs(**fields, head_bias=good.head_bias + 3.0)
    softmax = np.exp(good.logits) / np.exp(good.logits).sum(1, keepdims=True)
    with pytest.raises(ValueError, match="does not reproduce the logits"):
        Outputs(**fields | {"logits": softmax}, head_bias=good.head_bias)


def test_a_writer_goes_on_where_it_was_killed(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_FROM", 100)
    features, labels = rng.normal(size=(10, 6)).astype(np.float32), np.arange(10)
    path, meta = tmp_path / "deep" / "o.npz", {"fingerprint": "x"}

    def rows(start, stop):
        arrays = {"features": features[start:stop], "labels": labels[start:stop]}
        return arrays | {"layer_features/a": 2 * features[start:stop]}

    writer = OutputsWriter(path, 10, meta)
    writer.add(rows(0, 4))
    writer.flush()
    writer.add(rows(4, 7))  # never flushed: lost at the kill
    del writer
    with pytest.raises(ValueError, match="Only 4 of 10"):
        OutputsWriter(path, 10, meta).finish({}, meta)
    writer = OutputsWriter(path, 10, meta)
    assert writer.done == 4
    with pytest.raises(ValueError, match="must hold the same arrays"):
        writer.add({"features": features[4:5]})
    writer.add(rows(4, 10))
    writer.finish({"head_bias": np.zeros(3)}, meta | {"note": "n"})
    loaded = Outputs.load(path)
    assert isinstance(loaded.features, np.memmap) and loaded.meta["note"] == "n"
    np.testing.assert_array_equal(loaded.features, features)
    np.testing.assert_array_equal(loaded.layer_features["a"], 2 * features)
    np.testing.assert_array_equal(loaded.labels, labels)
    assert not path.with_suffix(".partial").exists()
    writer = OutputsWriter(path, 10, meta)
    writer.add(rows(0, 4))
    writer.flush()
    assert OutputsWriter(path, 10, {"fingerprint": "other"}).done == 0


def test_a_truncated_mapped_file_is_named(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_FROM", 100)
    writer = OutputsWriter(tmp_path / "o.npz", 50, {})
    writer.add({"features": rng.normal(size=(50, 6))})
    writer.finish({}, {})
    content = (tmp_path / "o.npz").read_bytes()
    for size in (len(content) - 10, len(content) // 2, 10):
        (tmp_path / "o.npz").write_bytes(content[:size])
        with pytest.raises(ValueError, match="o.npz cannot be read as npz"):
            Outputs.load(tmp_path / "o.npz")
