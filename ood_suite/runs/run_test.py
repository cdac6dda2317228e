"""Run folders: refusal of other settings, the lock, atomic files."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ood_suite import files, processors
from ood_suite.files import RunError
from ood_suite.runs.run import Run, next_step, versions
from tests.support import ROOT, command, opening


def test_open_continues_the_same_and_refuses_other_settings(tmp_path):
    settings = {"learning_rate": 0.1, "shape": (2, 3)}
    Run.open(tmp_path / "run", **opening(settings, {"train": "abc"}))
    run = Run.open(tmp_path / "run", **opening(settings, {"train": "abc"}))
    assert run.settings["learning_rate"] == 0.1 and run.config["versions"]["numpy"]
    files.write_csv(tmp_path / "run/logs/history.csv", [{"step": 1}])
    with pytest.raises(RunError, match=r"learning_rate: 0\.1 there, 0\.2 now"):
        Run.open(tmp_path / "run", **opening(settings | {"learning_rate": 0.2}))
    with pytest.raises(RunError, match="train: 'abc' there, 'xyz' now"):
        Run.open(tmp_path / "run", **opening(settings, {"train": "xyz"}))


def test_the_threads_on_record_are_those_of_the_process(monkeypatch):
    monkeypatch.setattr(processors, "usable", lambda: 7)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert versions()["threads"] == "7"
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert versions()["threads"] == "3"


def test_load_names_what_is_wrong(tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        Run.load(tmp_path)
    (tmp_path / "config.json").write_text('{"settings": ')
    with pytest.raises(RunError, match="config.json cannot be read as JSON .* damaged"):
        Run.load(tmp_path)


def test_a_second_writer_is_refused(tmp_path):
    code = (
        "import sys; from ood_suite.files import *\n"
        f"try:\n  with locked({str(tmp_path)!r}): print('got it')\n"
        "except RunError as error: print(error)"
    )

    def other():
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        ).stdout

    with files.locked(tmp_path):
        writer = f"pid {os.getpid()} on {os.uname().nodename}"
        assert f"Another process ({writer}) is writing to" in other()
    assert other() == "got it\n"


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    """It passed for another process: a sweep left all of its jobs to that one, and said done."""

    def flock(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with pytest.raises(RunError, match="cannot be locked: Function not implemented.") as error:
        with files.locked(tmp_path, wait_s=60.0):
            pass
    assert not isinstance(error.value, files.BusyError)


def test_a_full_disk_is_named_by_the_lock(tmp_path, monkeypatch):
    def write(handle, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "write", write)
    with pytest.raises(RunError, match=r"\.lock cannot be written: No space left.* Make room"):
        with files.locked(tmp_path):
            pass


def test_a_lock_is_no_link(tmp_path):
    """Through one, the file of its end was overwritten."""
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(RunError, match=r"\.lock is a link: delete it"):
        with files.locked(tmp_path / "run"):
            pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_in_work_is_not_in_the_way_of_the_lock(tmp_path):
    (tmp_path / ".partial-decisions.tsv").mkdir()
    (tmp_path / ".partial-report").touch()
    with files.locked(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".partial-decisions.tsv"}


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot make the folder .*file/run.*Choose another place"):
        Run.open(tmp_path / "file" / "run", **opening({}))


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path):
    """A process that still writes, on this machine or another, keeps its file."""
    code = (
        "import os, sys; from ood_suite.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    for name in ("a.txt", "other.txt"):
        subprocess.run([sys.executable, "-c", code, tmp_path / name], cwd=ROOT)
    [killed] = tmp_path.glob(".partial-*-a.txt")
    [another] = tmp_path.glob(".partial-*-other.txt")
    start, _, process = killed.name.removesuffix("-a.txt").rpartition("-")
    assert process.isdecimal()
    alive = tmp_path / f"{start}-{os.getppid()}-a.txt"
    elsewhere = tmp_path / f".partial-elsewhere-{process}-a.txt"
    alive.touch()
    elsewhere.touch()
    files.write_text(tmp_path / "a.txt", "whole")
    assert set(tmp_path.iterdir()) == {another, alive, elsewhere, tmp_path / "a.txt"}


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_fingerprint_depends_on_content_shape_and_dtype():
    array = np.arange(6, dtype=np.uint8)
    prints = {
        files.fingerprint(array),
        files.fingerprint(array.reshape(2, 3)),
        files.fingerprint(array.astype(np.int32)),
        files.fingerprint(array[::-1]),
    }
    assert len(prints) == 4 and files.fingerprint(array) == files.fingerprint(array.copy())


def test_csv_round_trip(tmp_path):
    files.write_csv(
        tmp_path / "a.csv", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "x": 1}]
    )
    assert files.read_csv(tmp_path / "a.csv")[1] == {"step": "2", "loss": "0.25", "x": "1"}
    assert files.read_csv(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    "value, written",
    [("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"), ("+x", "'+x"), ("@x", "'@x"), ("-x", "'-x"),
     ("\t=x", "'\t=x"), ("a=b", "a=b"), ("-1e-05", "-1e-05"), ("-inf", "-inf"), (-2, "-2")],
)  # fmt: skip
def test_a_table_computes_nothing(value, written, tmp_path):
    """Names of classes are of whoever made the data; histories are read and written again."""
    files.write_csv(tmp_path / "a.csv", [{"class": value}])
    rows = files.read_csv(tmp_path / "a.csv")
    assert rows == [{"class": written}]
    files.write_csv(tmp_path / "a.csv", rows)
    assert files.read_csv(tmp_path / "a.csv") == rows


def test_the_next_command_can_be_pasted():
    assert next_step("out/run") == "python -m ood_suite.eval --run=out/run"
    found = next_step("my out/run", "my data", "--checkpoint=best")
    expected = "python -m ood_suite.eval '--run=my out/run' '--data_dir=my data' --checkpoint=best"
    assert found == expected


def test_the_last_step_of_a_classifier_is_not_that_of_its_experiments_density(tmp_path):
    settings = {"total_steps": 600, "classifier_steps": 400}
    Run.open(tmp_path, **opening(settings) | {"kind": "classifier"})
    assert Run.load(tmp_path, "step_400").checkpoint == "last"
    with pytest.raises(RunError, match=r"no checkpoint 'step_600'. It has: last \(= step_400\)"):
        Run.load(tmp_path, "step_600")


def test_what_a_call_that_never_began_chose_goes_with_its_settings(tmp_path):
    Run.open(tmp_path, **opening({"steps": 5}))
    chosen = tmp_path / "checkpoints" / "outliers_0000.npz"
    for steps, is_kept in ((5, True), (200, False)):
        chosen.parent.mkdir(exist_ok=True)
        chosen.touch()
        Run.open(tmp_path, **opening({"steps": steps}))
        assert chosen.exists() == is_kept


def test_the_best_model_of_a_training_that_goes_on_is_warned_of(tmp_path, caplog):
    Run.open(tmp_path, **opening({"epochs": 9}))
    with pytest.raises(RunError, match="has no finished model yet"):
        Run.load(tmp_path).require_finished()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.keras").touch()
    Run.load(tmp_path, "best").require_finished()
    assert "is not trained to its end" in caplog.text
    caplog.clear()
    (tmp_path / "model.keras").touch()
    Run.load(tmp_path, "best").require_finished()
    assert not caplog.text


def test_the_step_at_which_a_training_ended_is_its_finished_model(tmp_path):
    Run.open(tmp_path, **opening({"total_steps": 120}))
    (tmp_path / "checkpoints").mkdir()
    for step in (60, 100, 120, 20):
        (tmp_path / f"checkpoints/step_{step}.keras").touch()
    assert Run.load(tmp_path).checkpoints()[1:] == ["step_20", "step_60", "step_100", "step_120"]
    assert Run.load(tmp_path, "step_120").model_path.name == "step_120.keras"
    (tmp_path / "checkpoints/step_120.keras").unlink()
    assert Run.load(tmp_path, "step_120").model_path == tmp_path / "model.keras"
    known = r"It has: last \(= step_120\), step_20, step_60, step_100\."
    with pytest.raises(RunError, match=f"no checkpoint 'step_80'. {known}"):
        Run.load(tmp_path, "step_80")
    with pytest.raises(RunError, match="no checkpoint 'step_None'. It has: last.$"):
        Run.open(tmp_path / "other", **opening({}))
        Run.load(tmp_path / "other", "step_None")


def test_a_wrong_call_is_not_in_the_way_of_the_right_one(tmp_path):
    """A rate that diverged at its first steps left a folder that refused the corrected command."""
    Run.open(tmp_path, **opening({"learning_rate": 1e9}))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/first.keras").touch()  # kept at step 0, of that rate
    assert Run.open(tmp_path, **opening({"learning_rate": 0.1})).settings == {"learning_rate": 0.1}
    assert Run.load(tmp_path).settings == {"learning_rate": 0.1}
    assert Run.load(tmp_path).checkpoints() == ["last"]


@pytest.mark.parametrize("left", ["checkpoints/step_00000004.npz", "model.keras"])
def test_what_has_no_config_is_not_gone_on_with(tmp_path, left):
    """Checkpoints were continued with whatever seed and rate the command gave."""
    path = tmp_path / left
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(RunError, match="has no config.json, but what a run left"):
        Run.open(tmp_path, **opening({"learning_rate": 0.2}))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize("place", ["base_run", "checkpoint"])
def test_where_a_base_lies_is_no_other_setting(tmp_path, place):
    """The same base under another path; what it is, its fingerprint says."""
    first = Run.open(tmp_path, **opening({place: "output/x"}, {"checkpoint": "abc"}))
    files.write_csv(tmp_path / "logs/history.csv", [{"step": 1}])
    again = Run.open(tmp_path, **opening({place: "/home/me/output/x"}, {"checkpoint": "abc"}))
    assert first.mark == again.mark  # the folder keeps the first place
    with pytest.raises(RunError, match="checkpoint: 'abc' there, 'xyz' now"):
        Run.open(tmp_path, **opening({place: "output/x"}, {"checkpoint": "xyz"}))


def test_checkpoints_of_before_are_known_by_their_mark(tmp_path):
    """Where the base lay is left out of it, where a converted file lay has always been in it."""
    prints = {"base_model": "abc"}
    run = Run.open(tmp_path, **opening({"base_run": "output/x", "checkpoint": "x.pth"}, prints))
    text = json.dumps([{"checkpoint": "x.pth"}, prints], sort_keys=True)
    assert run.mark == files.fingerprint(np.frombuffer(text.encode(), np.uint8))


@pytest.mark.parametrize("parts", [["../../etc"], ["/etc"], ["a/b"], [".."], [""], "member0", [1]])
def test_parts_lie_within_the_folder(tmp_path, parts):
    Run.open(tmp_path, **opening({"parts": []}))
    config = files.read_json(tmp_path / "config.json")
    config["settings"]["parts"] = parts
    files.write_json(tmp_path / "config.json", config)
    with pytest.raises(RunError, match="config.json: parts must be names of folders"):
        Run.load(tmp_path)


@pytest.mark.parametrize("roles", [None, [], {"training": None}, {"training": {"names": [1]}}])
def test_damaged_roles_are_named(tmp_path, roles):
    Run.open(tmp_path, **opening({}))
    config = files.read_json(tmp_path / "config.json")
    files.write_json(tmp_path / "config.json", config | {"roles": roles})
    with pytest.raises(RunError, match="config.json: its roles are damaged"):
        Run.load(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"1" * 5000, "cannot be read as JSON"),
    ],
)
def test_damaged_json_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=f"config.json {message}"):
        Run.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"a,b\n1\n", b"a,b\n1,2,3\n", b"a\n" + b"x" * 200_000 + b"\n", b"a\n\xff\n"]
)
def test_damaged_tables_are_named(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(RunError, match="a.csv cannot be read as CSV"):
        files.read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("module", ["classifier_ood.train", "classifier_ood.train_leave_out"])
def test_a_name_is_no_path(module):
    done = command(module, "--name=../..")
    assert done.returncode != 0 and "--name=../..: must be a plain name" in done.stderr


@pytest.mark.parametrize("names", [("/data/mine", "test"), ("a", "test", "../x"), ("../a", "val")])
def test_outputs_lie_in_the_run(tmp_path, names):
    """The path of data, as a name, was the file of what is said of them."""
    run = Run.open(tmp_path, **opening({}))
    assert run.outputs_path("mine", "test") == tmp_path / "outputs" / "mine_test.npz"
    with pytest.raises(ValueError, match="hold no '/'. Received: "):
        run.outputs_path(*names)
