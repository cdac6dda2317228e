"""Leave-out ensembles as a user trains and evaluates them."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy.special import softmax

from classifier_ood import ablation, base_network, configs, ensemble, leave_out_run
from classifier_ood.configs import LeaveOut
from classifier_ood.leave_out_run import train_ensemble
from ood_suite import data, scores
from ood_suite.evaluation.evaluate import evaluate
from ood_suite.evaluation.request import Request
from ood_suite.evaluation.results import classifier_figures
from ood_suite.files import RunError, read_csv
from ood_suite.runs.extraction import Parts
from ood_suite.runs.run import Run
from ood_suite.training import backend
from tests.support import ROOT, assert_same_run, command, opening

SMALL = dataclasses.replace(
    configs.EXPERIMENTS["fashion"], options={"width": 2, "dropout": 0.2}, epochs=2, batch_size=8
)
FLAGS = ("--exp=fashion", "--options=width=2,dropout=0.2", "--epochs=2", "--batch_size=8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_small_data):
    """(ensemble of three, its data_dir)."""
    folder = tmp_path_factory.mktemp("leave_out")
    data_dir = write_small_data(folder / "data")
    return train_ensemble(SMALL, LeaveOut(splits=3), "fashion", folder, data_dir=data_dir), data_dir


def test_members_are_runs_of_their_own(trained):
    run, _ = trained
    parts = run.settings["left_out"]
    assert sorted(c for part in parts for c in part) == list(range(10)) and len(parts) == 3
    for number, member in enumerate(ensemble.members(run)):
        rows = read_csv(member.folder / "logs" / "history.csv")
        wanted = {
            "loss",
            "accuracy",
            "entropy_gap",
            "val_auroc_left_out",
            "val_auroc_validation_ood",
        }
        assert wanted <= set(rows[0]) and len(rows) == 2
        assert member.settings["member"] == number
        kept = {path.stem for path in (member.folder / "checkpoints").glob("*.keras")}
        assert kept == {"first", "best"}


def test_outputs_of_the_ensemble(trained):
    run, data_dir = trained
    step = (1000.0, 0.01)
    found = ensemble.extract(
        run,
        ("mnist",),
        "test",
        data_dir=data_dir,
        parts=Parts(perturbations=((*step, "entropy"), (1.0, 0.0, "entropy"))),
    )
    assert found.logits.shape == (20, 10) and found.features is None
    assert set(found.member_logits) == {
        f"{k}{rest}" for k in range(3) for rest in ("", ",entropy,T=1000,epsilon=0.01")
    }
    np.testing.assert_allclose(np.exp(found.logits).sum(axis=1), 1.0)
    for number, part in enumerate(run.settings["left_out"]):
        plain = found.member_logits[f"{number}"].astype(np.float64)
        moved = found.member_logits[f"{number},entropy,T=1000,epsilon=0.01"].astype(np.float64)
        assert plain.shape == (20, 10 - len(part))
        entropies = []
        for logits in (plain, moved):
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            entropies.append(-(p * np.log(p)).sum(1).mean())
        assert entropies[1] < entropies[0]  # the step descends the entropy
    other = ensemble.extract(
        run,
        ("mnist",),
        "test",
        data_dir=data_dir,
        parts=Parts(perturbations=((*step, "cross_entropy"),)),
    )
    key = "0,{},T=1000,epsilon=0.01"
    assert np.any(
        other.member_logits[key.format("cross_entropy")]
        != found.member_logits[key.format("entropy")]
    )


def test_evaluation_and_tuning(trained):
    run, data_dir = trained
    done = command(
        "ood_suite.eval", f"--run={run.folder}", f"--data_dir={data_dir}", "--ood_far=mnist",
        "--tune", "--resamples=10", "--checkpoint=best",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ID accuracy" in done.stdout and "Tuned: leave_out with temperature" in done.stdout
    assert "calibration" not in done.stdout  # zeros for left-out classes are no probabilities
    group = json.loads((run.folder / "report_best/results.json").read_text())["groups"][0]
    assert {row["score"] for row in group["rows"]} == set(ensemble.SCORES)
    figures = {path.stem for path in (run.folder / "report_best/figures").glob("*.png")}
    assert {"tuning_leave_out", "tuning_leave_out_odin", "training"} <= figures
    assert {"detection_error", "fpr95_id_positive", "aupr_in", "aupr_out"} <= set(group["rows"][0])


def test_ablation(trained):
    run, data_dir = trained
    rows = ablation.ablate(run, 10.0, 0.002, data_dir, ["mnist"])
    assert [row["variant"] for row in rows] == [
        "leave_out", "with ODIN's rule", "without perturbation", "confidence only", "entropy only",
        "1 of 3 members", "2 of 3 members", "MSP of the mean",
    ]  # fmt: skip
    pair = [
        ensemble.extract(
            run,
            (name,),
            "test",
            data_dir=data_dir,
            parts=Parts(perturbations=((10.0, 0.002, "entropy"),)),
        ).member_logits
        for name in ("fashion_mnist", "mnist")
    ]
    own, other = (scores.get("leave_out").fn(arrays, 10.0, 0.002) for arrays in pair)
    assert rows[0]["auroc"] == pytest.approx(np.mean(other[:, None] > own))
    assert "mnist" in ablation.table(rows) and "fpr95_id_positive" in rows[0]
    assert (rows[0]["temperature"], rows[0]["epsilon"], rows[0]["checkpoint"]) == (
        10.0,
        0.002,
        "last",
    )
    done = command("classifier_ood.ablate_leave_out", f"--run={run.folder}/member0")
    assert done.returncode == 1 and "is no leave-out ensemble" in done.stderr


def test_a_missing_or_unfinished_member_is_an_error(trained, tmp_path):
    run, data_dir = trained
    auto = dataclasses.replace(SMALL, dtype="auto")
    partly = train_ensemble(
        auto, LeaveOut(splits=3), "fashion", tmp_path, data_dir=data_dir, members=[1]
    )
    assert partly.settings["dtype"] == backend.dtype_of("auto", tmp_path / "another" / "run")
    with pytest.raises(RunError, match="has no member 0. Its training command continues it"):
        ensemble.members(partly)
    Run.open(partly.folder / "member0", **opening({}))
    with pytest.raises(RunError, match="member0 is not finished"):
        ensemble.members(partly)
    assert run.is_finished and not partly.is_finished
    # Killed after its first epochs: there is a best model, and no last one.
    shutil.copytree(run.folder, tmp_path / "cut")
    (tmp_path / "cut" / "member1" / "model.keras").unlink()
    with pytest.raises(RunError, match="member1 is not finished"):
        ensemble.members(Run.load(tmp_path / "cut", "best"))
    with pytest.raises(ValueError, match=r"--members must lie in 0..2. Received: \[3\]"):
        train_ensemble(
            SMALL, LeaveOut(splits=3), "fashion", tmp_path, data_dir=data_dir, members=[3]
        )


def test_a_killed_member_ends_bit_identical(trained, tmp_path):
    run, data_dir = trained
    arguments = (*FLAGS, f"--data_dir={data_dir}", f"--out_dir={tmp_path}", "--splits=3")
    cut = command("classifier_ood.train_leave_out", *arguments, kill_at=("savez", 2))
    assert cut.returncode == -signal.SIGKILL, cut.stderr
    again = train_ensemble(
        SMALL, LeaveOut(splits=3), "fashion", tmp_path, data_dir=data_dir, members=[0]
    )
    assert_same_run(again.folder / "member0", run.folder / "member0")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"margin": -0.1}, "--margin must be 0 or more"),
        ({"beta": float("nan")}, "--beta must be 0 or more"),
        ({"outlier_factor": 0.0}, "--outlier_factor must be positive"),
        ({"splits": 1}, r"--splits must lie in 2..10"),
        ({"splits": 3, "partition": "each"}, "--splits has no effect with --partition=each"),
        ({"partition": "pairs"}, "Unknown partition 'pairs'"),
    ],
)
def test_refusals(small_data, tmp_path, changes, message):
    settings = dataclasses.replace(LeaveOut(), **changes)
    with pytest.raises(ValueError, match=message):
        train_ensemble(SMALL, settings, "fashion", tmp_path / "out", data_dir=small_data)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 60}, "the ID images of the smallest member"),
        ({"options": {"widht": 4}}, "widht"),
        ({"backbone": "convent"}, "convent"),
        ({"label_smoothing": 0.1}, "leave-out classifiers has no --label_smoothing"),
        ({"normalization": "logit"}, "leave-out classifiers has no --normalization"),
        ({"ood_validation": ()}, "No data set is named"),
    ],
)
def test_a_typing_error_leaves_no_folder_behind(small_data, tmp_path, changes, message):
    experiment = dataclasses.replace(SMALL, **changes)
    with pytest.raises(ValueError, match=message):
        train_ensemble(experiment, LeaveOut(), "fashion", tmp_path / "out", data_dir=small_data)
    assert not (tmp_path / "out").exists()


def test_labels_are_the_arg_max_of_scattered_softmax_sums(trained):
    run, data_dir = trained
    found = ensemble.extract(run, ("fashion_mnist",), "test", data_dir=data_dir)
    sums = np.zeros((24, 10))
    for number in range(3):
        settings = json.loads((run.folder / f"member{number}/config.json").read_text())["settings"]
        known = [c for c in range(10) if c not in settings["left_out"][settings["member"]]]
        network = keras.saving.load_model(run.folder / f"member{number}/model.keras", compile=False)
        images = data.load("fashion_mnist", "test", data_dir=data_dir).images
        logits = network.predict(images, verbose=0)["logits"].astype(np.float64)
        for row, values in enumerate(logits):
            for column, label in enumerate(known):
                sums[row, label] += np.exp(values[column]) / np.exp(values).sum()
    np.testing.assert_array_equal(found.logits.argmax(axis=1), sums.argmax(axis=1))
    np.testing.assert_allclose(np.exp(found.logits), np.maximum(sums / 3, 1e-307), rtol=1e-5)
    accuracy = classifier_figures(found)["accuracy"]
    assert accuracy == np.mean(sums.argmax(axis=1) == found.labels)


def test_a_folder_that_is_another_member_is_refused(trained, tmp_path):
    run, _ = trained
    shutil.copytree(run.folder, tmp_path / "swapped")
    folders = [tmp_path / "swapped" / f"member{k}" for k in (0, 1)]
    folders[0].rename(tmp_path / "aside")
    folders[1].rename(folders[0])
    (tmp_path / "aside").rename(folders[1])
    with pytest.raises(RunError, match=r"member0 is not member 0 of .* differs in member \(1"):
        ensemble.members(Run.load(tmp_path / "swapped"))


def test_training_sees_no_test_image_and_the_right_classes(small_data, tmp_path, monkeypatch):
    read, batches = [], []

    def load(name, split, *arguments):
        read.append((name, split))
        return original_load(name, split, *arguments)

    def fit(model, stream, run, **options):
        batches.append((run.settings["left_out"][run.settings["member"]], next(stream(0))))
        weights.append(model.backbone.get_weights())

    weights, original_load = [], data.load
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr("classifier_ood.leave_out_run.fit", fit)
    train_ensemble(SMALL, LeaveOut(splits=3), "fashion", tmp_path, data_dir=small_data)
    assert set(read) == {("fashion_mnist", "train"), ("fashion_mnist", "val"), ("notmnist", "test")}
    truth = {i.tobytes(): k for i, k in zip(*training_rows(original_load, small_data), strict=True)}
    for left_out, (images, labels) in batches:
        known = [c for c in range(10) if c not in left_out]
        assert (labels[:8] >= 0).all() and (labels[8:] == -1).all() and len(labels) == 16
        for image, label in zip(images, labels, strict=True):
            own = truth[image.tobytes()]
            assert own in left_out if label < 0 else own == known[label]
    assert any(not np.array_equal(a, b) for a, b in zip(*weights[:2], strict=True) if a.ndim == 4)


def training_rows(load, data_dir):
    found = load("fashion_mnist", "train", data_dir)
    return found.images, found.labels


def test_the_best_checkpoint_is_that_of_the_validation_ood_set(trained):
    run, data_dir = trained
    for member in ensemble.members(run):
        rows = read_csv(member.folder / "logs" / "history.csv")
        values = [float(row["val_auroc_validation_ood"]) for row in rows]
        best = keras.saving.load_model(member.folder / "checkpoints/best.keras", compile=False)
        sets = [data.load("fashion_mnist", part, data_dir) for part in ("train", "val")]
        left_out = member.settings["left_out"][member.settings["member"]]
        sets.append(data.load("notmnist", "test", data_dir=data_dir))
        images, labels = leave_out_run._validation(sets, left_out, 10)
        confidence = softmax(best.predict(images, verbose=0)["logits"], axis=1).max(axis=1)
        own, other = confidence[labels >= 0], confidence[labels == -2]
        wins = np.mean(own[:, None] > other) + 0.5 * np.mean(own[:, None] == other)
        assert wins == pytest.approx(max(values), abs=1e-6)


def test_checkpoints_of_members(trained):
    run, data_dir = trained
    found = [
        ensemble.extract(Run.load(run.folder, name), ("mnist",), "test", data_dir=data_dir).logits
        for name in ("first", "last")
    ]
    assert not np.allclose(*found)
    with pytest.raises(RunError, match="no checkpoint 'bset'. It has: last, best, first"):
        Run.load(run.folder, "bset")


def test_members_side_by_side(small_data, tmp_path):
    """Two processes at once: both end well, and every member is trained once."""
    arguments = [*FLAGS, f"--data_dir={small_data}", f"--out_dir={tmp_path}", "--splits=2"]
    start = [sys.executable, "-m", "classifier_ood.train_leave_out", *arguments]
    both = [subprocess.Popen(start, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    run = Run.load(tmp_path / "fashion/leave_out_convnet")
    assert run.is_finished  # before the next line, which trains what is missing
    again = train_ensemble(SMALL, LeaveOut(splits=2), "fashion", tmp_path, data_dir=small_data)
    assert again.is_finished and len(ensemble.members(again)) == 2


def test_what_an_ensemble_is_not(trained, monkeypatch):
    run, data_dir = trained
    for wanted, message in (
        (["energy"], "has the scores entropy, leave_out, leave_out_odin, msp. Received: energy"),
        (["odin"], "Received: odin"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(run.folder, Request(scores=wanted), data_dir=data_dir)
    with pytest.raises(ValueError, match="is a member of an ensemble"):
        evaluate(run.folder / "member0", data_dir=data_dir)
    for other in (run, Run.load(run.folder / "member0")):
        with pytest.raises(RunError, match="is no single classifier. Received: a run of kind"):
            base_network.load_network(other)
    with pytest.raises(ValueError, match="is the ID set fashion_mnist itself"):
        ablation.ablate(run, 10.0, 0.0, data_dir, ["fashion_mnist"])
    monkeypatch.setattr(ablation, "classifier", None)  # all that follows is said before extraction
    with pytest.raises(FileNotFoundError, match="mnits"):
        ablation.ablate(run, 10.0, 0.0, data_dir, ["mnits", "mnist"])
    with pytest.raises(ValueError, match="was used in training"):
        ablation.ablate(run, 10.0, 0.0, data_dir, ["notmnist"])
    for step in ((10.0, float("nan")), (10.0, -0.1), (0.0, 0.1)):
        with pytest.raises(ValueError, match="`temperature`|`epsilon`"):
            ablation.ablate(run, *step, data_dir, ["mnist"])


def test_repeats_are_evaluated_together(trained, tmp_path):
    run, data_dir = trained
    assert run.folder.name == f"leave_out_{SMALL.backbone}"
    for name in (run.folder.name, f"{run.folder.name}_repeat1"):
        shutil.copytree(run.folder, tmp_path / name, ignore=shutil.ignore_patterns("report*"))
    for path in (tmp_path / f"{run.folder.name}_repeat1").rglob("config.json"):
        path.write_text(path.read_text().replace('"repeat_id": 0', '"repeat_id": 1'))
    request = Request(scores=("leave_out",), ood_far=("mnist",), repeats=True, resamples=10)
    found = evaluate(tmp_path, request, data_dir=data_dir)
    assert [report.repeat_id for report in found] == [0, 1]
    for path in (tmp_path / f"{run.folder.name}_repeat1").rglob("config.json"):
        path.write_text(path.read_text().replace('"beta": 0.2', '"beta": 0.5'))
    with pytest.raises(RunError, match="is no repeat of .*: beta is 0.5 there and 0.2 here"):
        evaluate(tmp_path, request, data_dir=data_dir)


def test_the_rule_of_a_perturbation_may_be_given(trained):
    """`leave_out(rule='cross_entropy')` was promised, and its logits were not extracted."""
    run, data_dir = trained
    given = "leave_out(rule='cross_entropy')"
    request = Request(scores=(given,), ood_far=("mnist",), resamples=10)
    report = evaluate(run.folder, request, data_dir=data_dir)[0]
    aurocs = {row["score"]: row["auroc"] for row in report.rows}
    rows = ablation.ablate(run, 1000.0, 0.002, data_dir, ["mnist"])
    assert aurocs[given] == next(r["auroc"] for r in rows if r["variant"] == "with ODIN's rule")


def test_the_time_of_an_ensemble_is_that_of_all_members(trained):
    said = [{ensemble.SECONDS: 2.0 + i, "model_fingerprint": "a"} for i in range(3)]
    run = trained[0]
    assert ensemble._meta(run, said)[ensemble.SECONDS] == 9.0
    assert ensemble.SECONDS not in ensemble._meta(run, [*said, {"model_fingerprint": "b"}])


def test_validation_has_three_kinds_of_labels(small_data):
    sets = [data.load("fashion_mnist", part, small_data) for part in ("train", "val")]
    sets.append(data.load("notmnist", "test", small_data))
    images, labels = leave_out_run._validation(sets, (2, 5), 10)
    assert images.shape == (24 + 20, 8, 8, 1)
    assert (labels[24:] == -2).all() and (labels[:24] == -1).sum() == np.isin(
        sets[1].labels, (2, 5)
    ).sum()
