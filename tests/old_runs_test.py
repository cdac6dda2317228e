"""Runs that version 0.1 made go on working: a sweep, a classifier and an ensemble, frozen with the
results that it gave for them (references/runs_0.1.tar.gz).
"""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile

import keras
import pytest

from images_ood.train_test import TINY
from ood_suite.files import RunError, read_csv
from ood_suite.runs.extraction import extractor_of
from ood_suite.runs.run import Role, Run
from ood_suite.training import stored_model
from tests.support import ROOT, command

# Scores whose definition was wrong in version 0.1, or that repeated another's row (one background).
CORRECTED = ("background_mean", "vra+energy")
# Numbers corrected since, see docs/intervals.md and docs/guarantees.md.
LEFT_OUT = ("_low", "_high", "_p_value", "threshold", "accepted")


@pytest.fixture(scope="module")
def old(tmp_path_factory, write_small_data):
    """(folder of the runs and of the expected results, data_dir)."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests/references/runs_0.1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder, write_small_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    "path",
    [
        "images/fashion_small",
        "classifiers/fashion/convnet",
        "classifiers/fashion/leave_out_convnet",
    ],
)
def test_results_are_what_they_were(old, path):
    folder, data_dir = old
    run = folder / path
    done = command("ood_suite.eval", f"--run={run}", f"--data_dir={data_dir}", "--resamples=20")
    assert done.returncode == 0, done.stderr
    found, expected = (
        read_csv(p) for p in (run / "report/results.csv", folder / f"expected/{run.name}.csv")
    )
    found = {(row["score"], row["ood"]): row for row in found}
    for other in expected:
        name = other["score"]
        if name in CORRECTED:
            continue
        for key, value in other.items():
            if key.endswith(LEFT_OUT) or key in ("score", "ood") or not value:
                continue
            # Another processor may swap two examples whose scores nearly tie.
            row = found[name, other["ood"]]
            assert float(row[key]) == pytest.approx(float(value), rel=0.05, abs=0.03), (name, key)


def test_a_run_says_what_it_is(old):
    folder, _ = old
    kinds = {
        "images/fashion_small/reg0_mr0": "density", "classifiers/fashion/convnet": "classifier",
        "classifiers/fashion/leave_out_convnet": "ensemble",
        "classifiers/fashion/leave_out_convnet/member1": "member",
    }  # fmt: skip
    for path, kind in kinds.items():
        run = Run.load(folder / path)
        assert run.kind == kind and "kind" not in json.loads(
            (folder / path / "config.json").read_text()
        )
        assert run.roles["held_out"] == Role(("fashion_mnist",), "val")
        assert run.roles["ood:mnist"] == Role(("mnist",), "test", near=False)
    assert run.roles["validation_ood"].names == ("notmnist", "uniform")


def test_the_same_command_finds_an_old_run_finished(old):
    folder, data_dir = old
    arguments = [a for a in TINY if not a.startswith(("--eval_images", "--background"))]
    done = command(
        "images_ood.train", *arguments, "--eval_images=16", "--total_steps=4",
        f"--data_dir={data_dir}", f"--out_dir={folder}/images",
    )  # fmt: skip
    assert done.returncode == 0 and "is finished: nothing to do" in done.stderr, done.stderr


def test_the_extractor_that_a_folder_names_is_not_imported(old, tmp_path):
    """A module of the current folder ran as soon as a run was evaluated that named it."""
    folder, _ = old
    payload = tmp_path / "output/shared_run"
    payload.mkdir(parents=True)
    (payload / "payload.py").write_text("open('ran', 'w').close()\n")
    config = json.loads((folder / "classifiers/fashion/convnet/config.json").read_text())
    for name in ("output.shared_run.payload", "os", "classifier_ood.train", None):
        (payload / "config.json").write_text(json.dumps(config | {"extractor": name}))
        with pytest.raises(RunError, match="none of ours"):
            extractor_of(Run.load(payload))
        for module, flag in (
            ("ood_suite.eval", "--scores=msp"),
            ("ood_suite.extract", "--shards=1"),
        ):
            (payload / "model.keras").touch()
            done = subprocess.run(
                [sys.executable, "-m", module, "--run=output/shared_run", flag], cwd=tmp_path,
                env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 1 and "none of ours" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("script", ["keras_hub/payload.py", "keras_hub.py"])
def test_no_model_file_runs_what_lies_beside_it(old, tmp_path, script):
    """Keras imports modules of keras_hub, and `python -m` from the current folder first."""
    payload = tmp_path / "run"
    if script == "keras_hub/payload.py":
        payload = tmp_path / "keras_hub"
    payload.mkdir()
    (tmp_path / script).write_text("open('ran', 'w').close()\n")
    shutil.copy(old[0] / "classifiers/fashion/convnet/config.json", payload)
    module = script.removesuffix(".py").replace("/", ".")
    named = {"module": module, "class_name": "X", "config": {}}
    with zipfile.ZipFile(payload / "model.keras", "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))
        file.writestr("config.json", json.dumps(named | {"registered_name": None}))
    command = [sys.executable, "-m", "ood_suite.eval", f"--run={payload.name}", "--scores=msp"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "would be imported in place of Keras's" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_model_file_cannot_fill_the_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("config.json", " " * 10_000)
    with pytest.raises(RunError, match="it holds what is neither stored nor deflated"):
        stored_model.read_keras(tmp_path / "m.keras", "")
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("config.json", "w", force_zip64=True) as member:
            for _ in range(400):
                member.write(b" " * 2**20)
    with pytest.raises(RunError, match="it promises 419,430,400 bytes"):
        stored_model.read_keras(tmp_path / "m.keras", "")
    true, false = ((size).to_bytes(4, "little") for size in (400 * 2**20, 10))
    content = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "m.keras").write_bytes(content.replace(true, false))
    with pytest.raises(RunError, match="Bad CRC-32"):
        stored_model.read_keras(tmp_path / "m.keras", "")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"settings": None}, "is not that of a run"),
        ({"kind": "detector"}, "kind must be one of"),
        ({"versions": [1]}, "is not that of a run"),
    ],
)
def test_damaged_configs_are_named(old, tmp_path, change, message):
    config = json.loads((old[0] / "classifiers/fashion/convnet/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(RunError, match=f"config.json.* {message}"):
        Run.load(tmp_path)
