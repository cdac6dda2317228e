"""Run folders: refusal of other settings, the lock, atomic files."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ood_suite import files
from ood_suite.files import RunError
from ood_suite.runs.run import Run
from tests.support import opening


def test_open_continues_the_same_and_refuses_other_settings(tmp_path):
    settings = {"learning_rate": 0.1, "shape": (2, 3)}
    Run.open(tmp_path / "run", **opening(settings, {"train": "abc"}))
    run = Run.open(tmp_path / "run", **opening(settings, {"train": "abc"}))
    assert run.settings["learning_rate"] == 0.1 and run.config["versions"]["numpy"]
    with pytest.raises(RunError, match=r"learning_rate: 0\.1 there, 0\.2 now"):
        Run.open(tmp_path / "run", **opening(settings | {"learning_rate": 0.2}))
    with pytest.raises(RunError, match="train: 'abc' there, 'xyz' now"):
        Run.open(tmp_path / "run", **opening(settings, {"train": "xyz"}))


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
        assert f"Another process (pid {os.getpid()}) is writing to" in other()
    assert other() == "got it\n"


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot make the folder .*file/run.*--out_dir"):
        Run.open(tmp_path / "file" / "run", **opening({}))


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
