"""The whole way on tiny reads: sweep, classifier, evaluation, screening; kills and refusals."""

import gzip
import signal

import numpy as np
import pytest

import genomics_ood.density  # noqa: F401 (registers the classes)
from genomics_ood import configs, reads, screen, sequence_files, train, train_classifier
from genomics_ood.extract import extract
from ood_suite.eval import evaluate
from ood_suite.runs import Run, RunError, read_csv
from ood_suite.testing import assert_same_run, command, final_state

LENGTH = 24
TINY = (
    "--exp=bacteria", "--units=4", "--num_layers=2", "--batch_size=16", "--eval_every=4",
    "--eval_reads=16", "--background_steps=0",
)  # fmt: skip


def write_data(folder):
    """Tiny sets under the names of the experiment; OOD reads hold more G and C."""
    rng = np.random.default_rng(5)
    lineages = {"a": "L;P;a", "b": "L;P;b", "v": "L;P;v", "near": "L;P;near", "far": "L;Q;far"}
    for name, count, classes, p in (
        ("bacteria_train", 96, "ab", (0.4, 0.1, 0.1, 0.4)),
        ("bacteria_val", 32, "ab", (0.4, 0.1, 0.1, 0.4)),
        ("bacteria_test", 32, "ab", (0.4, 0.1, 0.1, 0.4)),
        ("bacteria_ood_val", 24, "v", (0.1, 0.4, 0.4, 0.1)),
        ("bacteria_ood_test", 24, ("near", "far"), (0.1, 0.4, 0.4, 0.1)),
    ):  # fmt: skip
        bases = rng.choice(4, (count, LENGTH), p=p).astype(np.uint8)
        labels = np.arange(count) % len(classes)
        own = [lineages[c] for c in classes]
        reads.write_file(folder / f"{name}.npz", bases, labels, list(classes), own)
    return folder


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
    [report] = evaluate(folder, str(data_dir), resamples=20)
    assert {"likelihood", "likelihood_ratio", "background_mean"} <= set(report.values)
    assert {"gc_content", "tracks", "distance"} <= set(report.figures)
    rows = read_csv(folder / "report" / "by_class.csv")
    found = {(row["class"], row["distance"]) for row in rows}
    assert found == {("near", "1"), ("far", "2")}
    own = next(r for r in rows if (r["score"], r["class"]) == ("likelihood", "far"))
    ood = report.values["likelihood"][1]["bacteria_ood"][1::2]  # every second read is of that class
    expected = (report.values["likelihood"][0][:, None] < ood).mean()
    assert float(own["auroc"]) == pytest.approx(expected)


def test_outputs_are_those_of_the_model(sweep):
    folder, data_dir = sweep
    run = Run.load(folder / "reg0_mr0")
    outputs = extract(run, ("bacteria",), "test", data_dir)
    assert outputs.log_prob_map.shape == (32, LENGTH) and outputs.bases.dtype == np.uint8
    np.testing.assert_allclose(outputs.log_prob, outputs.log_prob_map.sum(axis=1), rtol=1e-5)
    path = run.outputs_path("bacteria", "test")
    time = path.stat().st_mtime_ns
    extract(run, ("bacteria",), "test", data_dir)
    assert path.stat().st_mtime_ns == time


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
    return dataclasses.replace(configs.get("bacteria"), **values | changes)


def test_the_motif_classifier_and_its_scores(sweep, tmp_path):
    _, data_dir = sweep
    run = train_classifier.train_classifier(tiny(), "tiny", tmp_path, data_dir)
    assert run.is_finished and run.folder.name == "motif_cnn"
    wanted = ("msp", "entropy", "odin", "mahalanobis", "energy")
    [report] = evaluate(run.folder, str(data_dir), wanted, resamples=20)
    assert set(report.values) == set(wanted) and "accuracy" in report.classifier
    assert "distance" in report.figures and "gc_content" not in report.figures
    with pytest.raises(ValueError, match="must be 0..classes - 1, at least two"):
        train_classifier.train_classifier(tiny(filter_label=1), "x", tmp_path, data_dir)


def test_one_class_alone(sweep, tmp_path):
    _, data_dir = sweep
    run = train.train(tiny(filter_label=1), "tiny", tmp_path, data_dir)
    assert run.is_finished
    with pytest.raises(ValueError, match="has no class 7"):
        train.train(tiny(filter_label=7), "tiny", tmp_path, data_dir)


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
        train.train(tiny(**changes), "tiny", tmp_path, sweep[1])
    assert not (tmp_path / "tiny").exists()


def test_missing_data(tmp_path):
    result = command("genomics_ood.train", "--exp=genomics", f"--data_dir={tmp_path}")
    assert result.returncode == 1
    assert "To make it: python -m genomics_ood.records_to_np --tfds" in result.stderr


def fasta(bases):
    return "".join(f">r{i} x\n{sequence_files.decode(row)}\n" for i, row in enumerate(bases))


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
    assert "32 reads, 32 scored, 0 too short" in result.stderr
    lines = [line.split("\t") for line in gzip.decompress(out.read_bytes()).decode().splitlines()]
    assert tuple(lines[0]) == screen.COLUMNS and lines[1][:3] == ["r0", "24", "24"]
    [report] = evaluate(folder, str(data_dir), ("likelihood_ratio",), resamples=20, out=tmp_path)
    scores = np.array([float(line[4]) for line in lines[1:]])
    np.testing.assert_allclose(scores, report.values["likelihood_ratio"][0] / LENGTH, atol=6e-5)
    decided = np.array([int(line[6]) for line in lines[1:]])
    accepted = next(row["accepted"] for row in report.rows if row["score"] == "likelihood_ratio")
    assert 1.0 - decided.mean() == pytest.approx(accepted)


@pytest.fixture(scope="module")
def screening(sweep):
    return screen.Screen.of(*sweep)


def rows_of(screening, *sequences, min_length=5):
    records = [(f"r{i}", sequence_files.encode(s)) for i, s in enumerate(sequences)]
    return list(screen.screened(screening, records, min_length))


def test_reads_of_any_length(screening, rng):
    text = sequence_files.decode(rng.integers(0, 4, 60).astype(np.uint8))
    whole, first, second, last, short, unknown, tiny_read, empty = rows_of(
        screening, text, text[:24], text[24:48], text[36:], text[:9], "NN" + text[:9] + "NACGT",
        "ACG", "",
    )  # fmt: skip
    assert whole[4] == pytest.approx(np.mean([first[4], second[4], last[4]]))
    assert short[4] == pytest.approx(unknown[4]) and unknown[1:3] == (16, 9)
    assert short[5] == pytest.approx(screening.thresholds[8] / 9)
    assert tiny_read[4:] == (None, None, None) == empty[4:] and empty[3] is None
    assert screen.text_of(empty).endswith("NA\tNA\tNA\tNA")


def test_thresholds_accept_their_share_at_every_length(screening, sweep):
    held_out = reads.load("bacteria", "val", sweep[1]).bases
    for size in (6, 15, LENGTH):
        rows = list(screen.screened(screening, [("r", read[:size]) for read in held_out], 5))
        assert np.mean([row[6] for row in rows]) <= 0.05


def test_the_order_and_the_number_of_reads_change_nothing(screening, rng, monkeypatch):
    texts = [sequence_files.decode(row) for row in rng.integers(0, 4, (40, 30)).astype(np.uint8)]
    expected = rows_of(screening, *texts)
    monkeypatch.setattr(screen, "WINDOWS_AT_ONCE", 7)
    for row, other in zip(rows_of(screening, *texts), expected, strict=True):
        assert row[4] == pytest.approx(other[4], rel=1e-4, abs=1e-6)


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
        screen.Screen.of(tmp_path, data_dir)
