"""Leave-out ensembles as a user trains and evaluates them."""

import dataclasses
import json
import signal

import numpy as np
import pytest

from classifier_ood import ablate_leave_out, configs, ensemble, train_leave_out
from classifier_ood.train_leave_out import LeaveOut, train_ensemble
from classifier_ood.train_test import assert_same_run
from ood_suite import data, scores
from ood_suite.runs import Run, RunError, read_csv
from ood_suite.testing import command

SMALL = dataclasses.replace(
    configs.get("fashion"), options={"width": 2, "dropout": 0.2}, epochs=2, batch_size=8
)
FLAGS = ("--exp=fashion", "--options=width=2,dropout=0.2", "--epochs=2", "--batch_size=8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_small_data):
    """(ensemble of three, its data_dir)."""
    folder = tmp_path_factory.mktemp("leave_out")
    data_dir = write_small_data(folder / "data")
    return train_ensemble(SMALL, LeaveOut(splits=3), "fashion", folder, data_dir), data_dir


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
    found = ensemble.extract(run, ("mnist",), "test", data_dir, [(1000.0, 0.01), (1.0, 0.0)])
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
        run, ("mnist",), "test", data_dir, [(1000.0, 0.01)], rule="cross_entropy"
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
    group = json.loads((run.folder / "report_best/results.json").read_text())["groups"][0]
    assert {row["score"] for row in group["rows"]} == {"leave_out", "msp", "entropy"}
    assert {"detection_error", "fpr95_id_positive", "aupr_in", "aupr_out"} <= set(group["rows"][0])


def test_ablation(trained):
    run, data_dir = trained
    rows = ablate_leave_out.ablate(run, 10.0, 0.002, data_dir, ["notmnist"])
    assert [row["variant"] for row in rows] == [
        "leave_out", "with ODIN's rule", "without perturbation", "confidence only", "entropy only",
        "1 of 3 members", "2 of 3 members", "MSP of the mean",
    ]  # fmt: skip
    pair = [
        ensemble.extract(run, (name,), "test", data_dir, [(10.0, 0.002)]).member_logits
        for name in ("fashion_mnist", "notmnist")
    ]
    own, other = (scores.get("leave_out").fn(arrays, 10.0, 0.002) for arrays in pair)
    assert rows[0]["auroc"] == pytest.approx(np.mean(other[:, None] > own))
    assert "notmnist" in ablate_leave_out.table(rows)
    done = command("classifier_ood.ablate_leave_out", f"--run={run.folder}/member0")
    assert done.returncode == 1 and "is no leave-out ensemble" in done.stderr


def test_a_missing_or_unfinished_member_is_an_error(trained, tmp_path):
    run, data_dir = trained
    partly = train_ensemble(SMALL, LeaveOut(splits=3), "fashion", tmp_path, data_dir, members=[1])
    with pytest.raises(RunError, match="has no member 0. Its training command continues it"):
        ensemble.members(partly)
    Run.open(partly.folder / "member0", {}, "classifier_ood.extract", {})
    with pytest.raises(RunError, match="member0 is not finished"):
        ensemble.members(partly)
    with pytest.raises(ValueError, match=r"--members must lie in 0..2. Received: \[3\]"):
        train_ensemble(SMALL, LeaveOut(splits=3), "fashion", tmp_path, data_dir, members=[3])


def test_a_killed_member_ends_bit_identical(trained, tmp_path):
    run, data_dir = trained
    arguments = (*FLAGS, f"--data_dir={data_dir}", f"--out_dir={tmp_path}", "--splits=3")
    cut = command("classifier_ood.train_leave_out", *arguments, kill_at=("savez", 2))
    assert cut.returncode == -signal.SIGKILL, cut.stderr
    again = train_ensemble(SMALL, LeaveOut(splits=3), "fashion", tmp_path, data_dir, members=[0])
    assert_same_run(again.folder / "member0", run.folder / "member0")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"margin": -0.1}, "--margin must be 0 or more"),
        ({"beta": float("nan")}, "--beta must be 0 or more"),
        ({"outlier_factor": 0.0}, "--outlier_factor must be positive"),
        ({"splits": 1}, r"--splits must lie in 2..10"),
        ({"partition": "pairs"}, "Unknown partition 'pairs'"),
    ],
)
def test_refusals(small_data, tmp_path, changes, message):
    settings = dataclasses.replace(LeaveOut(), **changes)
    with pytest.raises(ValueError, match=message):
        train_ensemble(SMALL, settings, "fashion", tmp_path / "out", small_data)
    assert not (tmp_path / "out").exists()


def test_validation_has_three_kinds_of_labels(small_data):
    sets = [data.load("fashion_mnist", part, small_data) for part in ("train", "val")]
    sets.append(data.load("notmnist", "test", small_data))
    images, labels = train_leave_out._validation(sets, (2, 5), 10)
    assert images.shape == (24 + 20, 8, 8, 1)
    assert (labels[24:] == -2).all() and (labels[:24] == -1).sum() == np.isin(
        sets[1].labels, (2, 5)
    ).sum()
