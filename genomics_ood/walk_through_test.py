"""The whole way on tiny reads: sweep, classifier, evaluation, screening; kills and refusals."""

import gzip
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import genomics_ood.density  # noqa: F401 (registers the classes)
from genomics_ood import (
    classifier_run,
    configs,
    density_run,
    extract_features,
    reads,
    screening,
    sequence_files,
)
from genomics_ood.extract import extract
from genomics_ood.screen_model import Screen
from ood_suite.evaluation.evaluate import evaluate
from ood_suite.evaluation.request import Request
from ood_suite.files import RunError, read_csv
from ood_suite.runs.run import Run
from tests.support import ROOT, assert_same_run, command, final_state, forked
from tests.tiny_reads import LENGTH, fasta, write_data

TINY = (
    "--exp=bacteria", "--units=4", "--num_layers=2", "--batch_size=16", "--eval_every=4",
    "--eval_reads=16", "--background_steps=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """(folder of the sweep, data_dir)."""
    tmp_path = tmp_path_factory.mktemp("genomics")
    data_dir = write_data(tmp_path / "data")
    result = command(
        "genomics_ood.sweep", *TINY, "--total_steps=8", "--mutation_rates=0.2",
        "--reg_weights=0,0.1", f"--data_dir={data_dir}", f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return tmp_path / "bacteria", data_dir


def test_evaluation_of_a_sweep(sweep):
    folder, data_dir = sweep
    names = {path.parent.name for path in folder.glob("*/model.keras")}
    assert names == {"reg0_mr0", "reg0_mr0.2", "reg0.1_mr0.2"}
    [report] = evaluate(folder, Request(resamples=20), data_dir=data_dir)
    assert {"likelihood", "likelihood_ratio", "background_mean"} <= set(report.values)
    assert {"gc_content", "tracks", "distance"} <= set(report.figures)
    rows = read_csv(folder / "report" / "by_class.csv")
    found = {(row["class"], row["distance"]) for row in rows}
    assert found == {("near", "1"), ("far", "2")}
    own = next(r for r in rows if (r["score"], r["class"]) == ("likelihood", "far"))
    ood = report.values["likelihood"][1]["bacteria_ood"][1::2]  # every second read is of that class
    expected = (report.values["likelihood"][0][:, None] < ood).mean()
    assert float(own["auroc"]) == pytest.approx(expected)


def test_reads_have_no_shifts(sweep):
    folder, data_dir = sweep
    for request in (Request(unit_tests=True), Request(ood_shifted=("jpeg",))):
        with pytest.raises(ValueError, match="is for models of images"):
            evaluate(folder, request, data_dir=data_dir)


def test_outputs_are_those_of_the_model(sweep):
    folder, data_dir = sweep
    run = Run.load(folder / "reg0_mr0")
    outputs = extract(run, ("bacteria",), "test", data_dir=data_dir)
    assert outputs.log_prob_map.shape == (32, LENGTH) and outputs.bases.dtype == np.uint8
    np.testing.assert_allclose(outputs.log_prob, outputs.log_prob_map.sum(axis=1), rtol=1e-5)
    path = run.outputs_path("bacteria", "test")
    time = path.stat().st_mtime_ns
    extract(run, ("bacteria",), "test", data_dir=data_dir)
    assert path.stat().st_mtime_ns == time


def test_outputs_of_reads_by_path_lie_in_the_run(sweep, tmp_path):
    """They were to be written over the reads."""
    folder, data_dir = sweep
    path = tmp_path / "mine_test.npz"
    shutil.copy(data_dir / "bacteria_ood_test.npz", path)
    before, run = path.read_bytes(), Run.load(folder / "reg0_mr0")
    outputs = extract(run, (str(tmp_path / "mine"),), "test")
    assert path.read_bytes() == before and outputs.meta["dataset"] == "mine"
    assert run.outputs_path("mine", "test").parent == folder / "reg0_mr0" / "outputs"
    assert run.outputs_path("mine", "test").exists()


def test_killed_runs_end_bit_identical(sweep, tmp_path):
    _, data_dir = sweep
    arguments = (*TINY, "--total_steps=12", "--mutation_rate=0.2", "--dropout_p=0.2",
                 f"--data_dir={data_dir}")  # fmt: skip
    plain = command("genomics_ood.train", *arguments, f"--out_dir={tmp_path / 'plain'}")
    assert plain.returncode == 0, plain.stderr
    cut = command(
        "genomics_ood.train", *arguments, f"--out_dir={tmp_path / 'cut'}", kill_at=("savez", 2)
    )
    assert cut.returncode == -signal.SIGKILL
    folders = [tmp_path / name / "bacteria" / "reg0_mr0.2" for name in ("cut", "plain")]
    assert final_state(folders[0])[0] == "step_00000004.npz"
    continued = command("genomics_ood.train", *arguments, f"--out_dir={tmp_path / 'cut'}")
    assert "Continuing from" in continued.stderr
    assert_same_run(*folders)
    again = command("genomics_ood.train", *arguments, f"--out_dir={tmp_path / 'cut'}")
    assert "is finished: nothing to do" in again.stderr
    other = command("genomics_ood.train", *arguments, "--units=5", f"--out_dir={tmp_path / 'cut'}")
    assert other.returncode == 1 and "units" in other.stderr


def tiny(**changes):
    import dataclasses

    values = {
        "units": 4, "num_layers": 1, "batch_size": 16, "total_steps": 2, "eval_every": 2,
        "eval_reads": 8, "background_steps": 0, "classifier_steps": 4, "motifs": 6,
        "motif_length": 5, "hidden": 8,
    }  # fmt: skip
    return dataclasses.replace(configs.EXPERIMENTS["bacteria"], **values | changes)


def test_the_motif_classifier_and_its_scores(sweep, tmp_path):
    _, data_dir = sweep
    run = classifier_run.train_classifier(tiny(), "tiny", tmp_path, data_dir)
    assert run.is_finished and run.folder.name == "motif_cnn"
    wanted = ("msp", "entropy", "odin", "mahalanobis", "energy")
    [report] = evaluate(run.folder, Request(scores=wanted, resamples=20), data_dir=data_dir)
    assert set(report.values) == set(wanted) and "accuracy" in report.classifier
    assert report.verdict["validation_ood"] and report.verdict["score"] in wanted
    assert "distance" in report.figures and "gc_content" not in report.figures
    reads.write_file(tmp_path / "short.npz", np.zeros((4, LENGTH - 1), np.uint8), np.zeros(4))
    with pytest.raises(ValueError, match="short .test. have 23 bases, .* 24: .* --length=24"):
        extract_features.extract(run, (str(tmp_path / "short.npz"),), "test")
    with pytest.raises(ValueError, match="must be 0..classes - 1, at least 2"):
        classifier_run.train_classifier(tiny(filter_label=1), "x", tmp_path, data_dir)


def test_one_class_alone(sweep, tmp_path):
    _, data_dir = sweep
    run = density_run.train(tiny(filter_label=1), "tiny", tmp_path, data_dir)
    assert run.folder.name == "reg0_mr0_class1"
    outputs = extract(run, ("bacteria",), "test", data_dir=data_dir)
    assert (outputs.labels == 1).all() and len(outputs) == 16
    [report] = evaluate(run.folder, Request(resamples=20), data_dir=data_dir)
    assert not any("are not those that" in note for note in report.notes)
    with pytest.raises(ValueError, match="has no class 7"):
        density_run.train(tiny(filter_label=7), "tiny", tmp_path, data_dir)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mutation_rate": 1.5}, "--mutation_rate must lie in"),
        ({"batch_size": 1000}, "--batch_size must be at most 96"),
        ({"total_steps": 0}, "--total_steps must be at least 1"),
        ({"learning_rate": 0.0}, "--learning_rate must be positive"),
        ({"network": "gru"}, "--network must be one of"),
    ],
)
def test_bad_settings(sweep, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        density_run.train(tiny(**changes), "tiny", tmp_path, sweep[1])
    assert not (tmp_path / "tiny").exists()


def test_missing_data(tmp_path):
    result = command("genomics_ood.train", "--exp=genomics", f"--data_dir={tmp_path}")
    assert result.returncode == 1
    assert "To make it: python -m genomics_ood.records_to_np --tfds" in result.stderr


def test_screening(sweep, tmp_path):
    """Scores are those of the evaluator, thresholds those of the validation reads; a compressed
    file, and the same through a pipe.
    """
    folder, data_dir = sweep
    found = reads.load("bacteria", "test", data_dir)
    (tmp_path / "reads.fa.gz").write_bytes(gzip.compress(fasta(found.bases).encode()))
    out = tmp_path / "scores.tsv.gz"
    result = command(
        "genomics_ood.screen", f"--run={folder}", f"--data_dir={data_dir}", "--min_length=10",
        f"--out={out}", str(tmp_path / "reads.fa.gz"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "32 reads, 32 scored, 0 with too few known bases" in result.stderr
    lines = [line.split("\t") for line in gzip.decompress(out.read_bytes()).decode().splitlines()]
    assert tuple(lines[0]) == screening.COLUMNS and lines[1][:3] == ["r0", "24", "24"]
    [report] = evaluate(
        folder, Request(scores=("likelihood_ratio",), resamples=20), data_dir=data_dir, out=tmp_path
    )
    scores = np.array([float(line[4]) for line in lines[1:]])
    expected = report.values["likelihood_ratio"][0] / LENGTH
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)
    decided = np.array([int(line[6]) for line in lines[1:]])
    accepted = next(row["accepted"] for row in report.rows if row["score"] == "likelihood_ratio")
    assert 1.0 - decided.mean() == pytest.approx(accepted)


def test_other_validation_reads_are_noticed(sweep, tmp_path, rng):
    folder, data_dir = sweep
    shutil.copytree(data_dir, tmp_path / "data")
    bases = rng.integers(0, 4, (32, LENGTH)).astype(np.uint8)
    reads.write_file(tmp_path / "data" / "bacteria_val.npz", bases, np.arange(32) % 2, list("ab"))
    with pytest.raises(ValueError, match="are not those that .* was trained with"):
        Screen.of(folder, tmp_path / "data")
    [report] = evaluate(folder, Request(resamples=20), data_dir=tmp_path / "data", out=tmp_path)
    assert any("are not those that" in note for note in report.notes)
    with pytest.raises(ValueError, match="is a background model"):
        Screen.of(folder / "reg0_mr0.2", data_dir)


def test_without_validation_ood_reads_there_is_a_default_background(sweep, tmp_path):
    folder, data_dir = sweep
    shutil.copytree(folder, tmp_path / "copy")
    for path in (tmp_path / "copy").glob("*/config.json"):
        config = json.loads(path.read_text())
        del config["roles"]["validation_ood"]
        path.write_text(json.dumps(config))
    assert len(Screen.of(tmp_path / "copy", data_dir).scorers) == 2
    [report] = evaluate(tmp_path / "copy", Request(resamples=20), data_dir=data_dir)
    assert report.chosen == "reg0.1_mr0.2" and not report.choice
    assert (
        "No validation OOD data chose the background: reg0.1_mr0.2 is the default" in report.notes
    )


def test_validation_ood_reads_are_no_test_reads(sweep, tmp_path):
    """Also on the other strand."""
    folder, data_dir = sweep
    shutil.copytree(data_dir, tmp_path / "data")
    found = reads.load("bacteria_ood", "val", data_dir)
    other = sequence_files.reverse_complement(found.bases)
    reads.write_file(tmp_path / "data" / "bacteria_ood_test.npz", other, found.labels)
    with pytest.raises(ValueError, match="are in the validation OOD set too"):
        evaluate(folder, Request(resamples=20), data_dir=tmp_path / "data", out=tmp_path)
    own = reads.load("bacteria", "train", data_dir)
    reads.write_file(tmp_path / "data" / "bacteria_ood_test.npz", own.bases[:20], own.labels[:20])
    with pytest.raises(ValueError, match="are in the training set too"):
        evaluate(folder, Request(resamples=20), data_dir=tmp_path / "data", out=tmp_path)


def test_a_reader_that_has_enough(sweep, tmp_path):
    folder, data_dir = sweep
    (tmp_path / "r.fa").write_text(fasta(np.zeros((5000, 12), np.uint8)))
    script = (
        f"{sys.executable} -m genomics_ood.screen --run={folder} --data_dir={data_dir} "
        f"--min_length=5 {tmp_path / 'r.fa'} | head -n 2; exit ${{PIPESTATUS[0]}}"
    )
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 2 and result.returncode == 141
    assert "Traceback" not in result.stderr and "Error" not in result.stderr


def test_a_sweep_checks_all_its_jobs_first(sweep, tmp_path):
    for flag, message in (
        ("--mutation_rates=abc", "--mutation_rates must be numbers. Received: abc"),
        ("--mutation_rates=2", "--mutation_rate must lie in [0, 1]"),
        ("--reg_weights=-1", "--reg_weight must be 0 or more"),
    ):
        result = command(
            "genomics_ood.sweep", *TINY, flag, f"--data_dir={sweep[1]}", f"--out_dir={tmp_path}"
        )
        assert result.returncode == 1 and message in result.stderr, result.stderr
    assert not (tmp_path / "bacteria").exists()


def test_background_steps(sweep, tmp_path):
    run = density_run.train(tiny(background_steps=1, mutation_rate=0.1), "tiny", tmp_path, sweep[1])
    assert final_state(run.folder)[0] == "step_00000001.npz"
    run = density_run.train(tiny(background_steps=1), "tiny", tmp_path, sweep[1])
    assert final_state(run.folder)[0] == "step_00000002.npz"


def test_screening_refuses(sweep, tmp_path):
    folder, data_dir = sweep
    result = command("genomics_ood.screen", f"--run={folder}")
    assert result.returncode == 1 and "Give one file of reads, or - for" in result.stderr
    (tmp_path / "empty.fa").write_text("")
    out = tmp_path / "out.tsv"
    result = command(
        "genomics_ood.screen", f"--run={folder}", f"--out={out}", str(tmp_path / "empty.fa")
    )
    assert result.returncode == 1 and "an empty file" in result.stderr and not out.exists()
    with pytest.raises(RunError):
        Screen.of(tmp_path, data_dir)


INTERRUPTED = """
import importlib, runpy, sys
def stop(*_, **__):
    raise KeyboardInterrupt
place, name = sys.argv.pop(1).split(":")
setattr(importlib.import_module(place), name, stop)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "module, stopped, argument, does",
    [
        ("genomics_ood.screen", "genomics_ood.read_batches:batches", "r.fa", "starts again"),
        (
            "genomics_ood.fasta_to_np", "genomics_ood.genome_table:file_sources", "--files=a",
            "starts again",
        ),
        ("genomics_ood.records_to_np", "genomics_ood.reads:write_set", "--tfds", "starts again"),
        ("genomics_ood.train", "ood_suite.runs.jobs:call", "--exp=bacteria_kmers", "continues"),
    ],
)  # fmt: skip
def test_what_an_interrupted_command_says(module, stopped, argument, does):
    result = forked(INTERRUPTED, module, stopped, argument)
    assert result.returncode == 130
    assert f"Interrupted. This command {does}: python -m {module} {argument}" in result.stderr
