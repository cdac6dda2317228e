"""Runs of k-mer densities: the same contracts as any other run, without a network."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from genomics_ood import configs, kmer_run, kmers, reads
from genomics_ood.density import ReadDensity
from genomics_ood.extract_kmers import extract, hashes
from ood_suite import shipped
from ood_suite.evaluation.evaluate import evaluate
from ood_suite.evaluation.request import Request
from ood_suite.files import BusyError, RunError, locked, read_csv
from ood_suite.runs.run import Run
from ood_suite.runs.settings import replaced
from tests.support import ROOT, command
from tests.tiny_reads import LENGTH, fasta, write_data


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """(folder of the sweep, data_dir)."""
    tmp_path = tmp_path_factory.mktemp("kmers")
    data_dir = write_data(tmp_path / "data")
    result = command(
        "genomics_ood.sweep", "--exp=bacteria_kmers", "--order=3", "--concentration=10",
        f"--data_dir={data_dir}", f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return tmp_path / "bacteria_kmers", data_dir


def settings(**changes):
    small = {"order": 2, "concentration": 10.0} | changes
    return dataclasses.replace(configs.EXPERIMENTS["bacteria_kmers"], **small)


def test_evaluation_of_a_sweep(sweep):
    folder, data_dir = sweep
    names = {path.parent.name for path in folder.glob("*/model.npz")}
    assert names == {"reg0_mr0", "reg0_mr0.1", "reg0_mr0.5"}
    [report] = evaluate(folder, Request(resamples=20), data_dir=data_dir)
    assert set(report.values) == {
        "background_mean", "likelihood", "likelihood_ratio", "max_logit", "typicality"
    }  # fmt: skip
    assert {"gc_content", "tracks", "distance", "training"} <= set(report.figures)
    assert 0.3 < report.classifier["accuracy"] < 1.0
    rows = read_csv(folder / "reg0_mr0" / "logs" / "history.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]


def test_what_there_is_without_any_ood_reads(sweep, tmp_path):
    """sweep and screen give a ratio to the default background, eval the share that is accepted."""
    data_dir = sweep[1]
    result = command(
        "genomics_ood.sweep", "--exp=bacteria_kmers", "--order=2", "--ood_validation=",
        "--ood_test=", "--mutation_rates=0.1,0.5", f"--data_dir={data_dir}",
        f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [report] = evaluate(tmp_path / "bacteria_kmers", Request(resamples=20), data_dir=data_dir)
    assert report.chosen == "reg0_mr0.1" and {row["ood"] for row in report.rows} == {"no OOD data"}
    assert all(0.0 <= row["accepted"] <= 1.0 and row["num_id"] == 32 for row in report.rows)
    assert any(note.startswith("There are no OOD test data") for note in report.notes)
    assert "no OOD data" in (tmp_path / "bacteria_kmers/report/report.html").read_text()
    (tmp_path / "r.fa").write_text(fasta(reads.load("bacteria", "test", data_dir).bases))
    screened = command(
        "genomics_ood.screen", f"--run={tmp_path / 'bacteria_kmers'}", f"--data_dir={data_dir}",
        "--min_length=10", str(tmp_path / "r.fa"),
    )  # fmt: skip
    assert screened.returncode == 0 and "the default: no validation OOD data" in screened.stderr


def test_outputs_are_those_of_the_model(sweep):
    folder, data_dir = sweep
    run = Run.load(folder / "reg0_mr0")
    assert "units" not in run.settings and run.settings["order"] == 3
    outputs = extract(run, ("bacteria",), "test", data_dir=data_dir)
    model = kmers.KmerDensity.load(run.model_path)
    by_class = model.class_log_probs(outputs.bases)
    np.testing.assert_allclose(outputs.logits, by_class, rtol=1e-5)
    np.testing.assert_allclose(outputs.log_prob, kmers.mixture(by_class), rtol=1e-5)
    np.testing.assert_allclose(outputs.log_prob_map.sum(axis=1), outputs.log_prob, rtol=1e-5)
    assert outputs.log_prob_map.shape == (32, LENGTH)


@pytest.mark.parametrize("function", [extract, hashes])
def test_reads_of_another_length_are_refused(sweep, tmp_path, rng, function):
    """Scores are sums over a read: they would tell its length."""
    run = Run.load(sweep[0] / "reg0_mr0")
    bases = rng.integers(0, 4, (8, LENGTH + 1)).astype(np.uint8)
    reads.write_file(tmp_path / "long_test.npz", bases, np.zeros(8))
    with pytest.raises(ValueError, match="long .test. have 25 bases, .* 24: .* --length=24"):
        function(run, ("long",), "test", data_dir=tmp_path)


def test_one_class_is_taken_of_the_id_set_alone(sweep, tmp_path):
    """Not of an OOD file that happens to be called as the ID set is."""
    run = kmer_run.train(settings(filter_label=1), "alone", tmp_path, sweep[1])
    path = shutil.copy(sweep[1] / "bacteria_test.npz", tmp_path / "bacteria.npz")
    assert len(hashes(run, (str(path),), "test")) == 32
    assert len(hashes(run, ("bacteria",), "test", data_dir=sweep[1])) == 16


def test_memory_does_not_grow_with_the_classes(tmp_path, rng):
    classes, length = 64, 64
    labels = np.arange(640) % classes
    for split in ("train", "val"):
        bases = rng.integers(0, 4, (len(labels), length)).astype(np.uint8)
        reads.write_file(tmp_path / f"bacteria_{split}.npz", bases, labels)
    whole = len(labels) * length * classes * 4  # bytes of all log-probabilities at once
    tracemalloc.start()
    run = kmer_run.train(settings(order=0), "many", tmp_path, tmp_path)
    outputs = extract(run, ("bacteria",), "val", data_dir=tmp_path)
    assert tracemalloc.get_traced_memory()[1] < whole / 2
    tracemalloc.stop()
    model = kmers.KmerDensity.load(run.model_path)
    np.testing.assert_allclose(outputs.logits, model.class_log_probs(outputs.bases), rtol=1e-5)


def test_the_same_command_gives_the_same_file_and_continues(sweep, tmp_path):
    data_dir = sweep[1]
    arguments = ("genomics_ood.train", "--exp=bacteria_kmers", "--order=3", "--mutation_rate=0.2",
                 f"--data_dir={data_dir}")  # fmt: skip
    cut = command(*arguments, f"--out_dir={tmp_path / 'cut'}", kill_at=("savez_compressed", 1))
    assert cut.returncode == -signal.SIGKILL
    folder = tmp_path / "cut" / "bacteria_kmers" / "reg0_mr0.2"
    assert not (folder / "model.npz").exists()
    for out in ("cut", "plain"):
        done = command(*arguments, f"--out_dir={tmp_path / out}")
        assert done.returncode == 0, done.stderr
    other = tmp_path / "plain" / "bacteria_kmers" / "reg0_mr0.2"
    for name in ("model.npz", "logs/history.csv"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert not list(folder.glob(".partial-*"))
    again = command(*arguments, f"--out_dir={tmp_path / 'cut'}")
    assert "is finished: nothing to do" in again.stderr
    refused = command(*arguments, "--concentration=3", f"--out_dir={tmp_path / 'cut'}")
    assert refused.returncode == 1 and "concentration: 512.0 there, 3.0 now" in refused.stderr
    with locked(folder), pytest.raises(BusyError):
        kmer_run.train(settings(mutation_rate=0.2, order=3), "bacteria_kmers", tmp_path / "cut",
                       data_dir)  # fmt: skip


def test_classes_together_or_one_alone(sweep, tmp_path):
    data_dir = sweep[1]
    together = kmer_run.train(settings(per_class=False), "together", tmp_path, data_dir)
    outputs = extract(together, ("bacteria",), "test", data_dir=data_dir)
    assert outputs.logits is None and len(outputs) == 32
    alone = kmer_run.train(settings(filter_label=1), "alone", tmp_path, data_dir)
    outputs = extract(alone, ("bacteria",), "test", data_dir=data_dir)
    assert (outputs.labels == 1).all() and len(outputs) == 16 and outputs.logits is None


def test_mutations(rng):
    bases = rng.integers(0, 4, (200, 250)).astype(np.uint8)
    assert kmer_run.mutated(bases, 0.0, 0) is bases
    changed = kmer_run.mutated(bases, 0.3, 5)
    assert changed.dtype == np.uint8 and changed.max() == 3
    assert np.mean(changed != bases) == pytest.approx(0.3, abs=0.01)  # never by itself
    np.testing.assert_array_equal(changed, kmer_run.mutated(bases, 0.3, 5))
    assert not np.array_equal(changed, kmer_run.mutated(bases, 0.3, 6))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"order": 12}, "--order must lie in"),
        ({"concentration": 0.0}, "--concentration must be positive"),
        ({"reg_weight": 0.1}, "--reg_weight is a penalty of networks"),
        ({"filter_label": 9}, "has no class 9"),
    ],
)
def test_bad_settings(sweep, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        kmer_run.train(settings(**changes), "bad", tmp_path, sweep[1])
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    "exp, overrides, name",
    [
        ("bacteria_kmers", {"units": 128}, "units"),
        ("bacteria_kmers", {"total_steps": 5}, "total_steps"),
        ("bacteria_kmers", {"network": "conv", "order": 3}, "order"),
        ("bacteria", {"network": "kmer", "dropout_p": 0.5}, "dropout_p"),
        ("bacteria", {"network": "kmer", "strategy": "mirrored"}, "strategy"),
        ("bacteria", {"network": "lstm", "num_layers": 2}, "num_layers"),
        ("bacteria", {"per_class": False}, "per_class"),
    ],
)
def test_flags_without_effect(exp, overrides, name):
    own = configs.EXPERIMENTS[exp]
    with pytest.raises(ValueError, match=f"--{name} has no effect with --network="):
        configs.adjusted(own, overrides)
    same = {name: getattr(own, name)}  # as the experiment has it
    assert configs.adjusted(own, same) == replaced(own, same)


@pytest.mark.parametrize("binary", ["train", "sweep"])
def test_binaries_refuse_flags_without_effect(tmp_path, binary):
    result = command(
        f"genomics_ood.{binary}", "--exp=bacteria_kmers", "--learning_rate=1",
        f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 1 and "--learning_rate has no effect with" in result.stderr
    assert not list(tmp_path.iterdir())


def test_training_reads_do_not_validate(sweep, tmp_path):
    path = str(sweep[1] / "bacteria_train.npz")  # is read whatever the split
    with pytest.raises(ValueError, match="bacteria_train.npz are the same reads: .*--data_dir"):
        kmer_run.train(settings(id_dataset=path), "bad", tmp_path)


def test_labels_that_are_no_classes(tmp_path, rng):
    for split in ("train", "val"):
        bases = rng.integers(0, 4, (20, 12)).astype(np.uint8)
        reads.write_file(tmp_path / f"bacteria_{split}.npz", bases, np.full(20, -1))
    with pytest.raises(ValueError, match="must be 0..classes - 1, at least 1"):
        kmer_run.train(settings(), "bad", tmp_path, tmp_path)
    run = kmer_run.train(settings(per_class=False), "good", tmp_path, tmp_path)
    assert run.is_finished


def test_a_damaged_model_is_refused(sweep, tmp_path):
    run = kmer_run.train(settings(), "damaged", tmp_path, sweep[1])
    run.model_path.write_bytes(run.model_path.read_bytes()[:-40])
    with pytest.raises(RunError, match="cannot be read"):
        extract(run, ("bacteria",), "test", data_dir=sweep[1])


def test_the_shipped_model_is_that_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the embedded reads alone
    run = kmer_run.train(configs.EXPERIMENTS["bacteria_kmers"], "bacteria_kmers", tmp_path)
    shipped_folder = shipped.resource("pretrained") / "dna_kmers" / "reg0_mr0"
    ours, theirs = (kmers.KmerDensity.load(p / "model.npz") for p in (run.folder, shipped_folder))
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_array_equal(ours.starts, theirs.starts)
    assert Run.load(shipped_folder).settings == run.settings


def test_screening_starts_without_training(tmp_path):
    """In an empty folder, with nothing but reads."""
    path = shipped.resource("genomics_data") / "samples" / "bacteria_ood_test.npz"
    result = subprocess.run(
        [sys.executable, "-m", "genomics_ood.screen", str(path)], cwd=tmp_path,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2001
    assert "the share is more than what reads of the training classes give" in result.stderr


def test_no_network_is_loaded(sweep, tmp_path):
    with pytest.raises(ValueError, match="--network=kmer is no network"):
        ReadDensity(network="kmer")
    code = (
        "import dataclasses, sys\n"
        "from genomics_ood import configs, extract_kmers, kmer_run\n"
        f"run = kmer_run.train(configs.EXPERIMENTS['bacteria_kmers'], 'x', {str(tmp_path)!r},"
        f" {str(sweep[1])!r})\n"
        f"extract_kmers.extract(run, ('bacteria',), 'val', data_dir={str(sweep[1])!r})\n"
        "from genomics_ood.screen_model import Screen\n"
        f"Screen.of(run.folder, {str(sweep[1])!r})\n"
        "assert not {'keras', 'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
