"""The script that kills jobs: a few kills of each, and that it sees a difference."""

import shutil

import numpy as np
import pytest

from ood_suite.files import write_csv
from tests import crash

KILLS = 3  # of each; docs/reliability.md has fifty


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return crash.Stage(tmp_path_factory.mktemp("stage"))


@pytest.mark.parametrize("name", crash.JOBS)
def test_kills_of_each_job(name, stage):
    assert stage.crash(name, KILLS) == []


def test_a_job_that_loses_what_it_did_is_seen(stage, monkeypatch):
    """A job that goes on from what a kill left, and counts it twice."""
    monkeypatch.setitem(crash.JOBS, "wrong", crash.Job("tests.careless_job {out}"))
    assert set(stage.crash("wrong", 2)) == {"lines.tsv: other lines"}


def test_differences_are_seen(tmp_path):
    ours, theirs = tmp_path / "a", tmp_path / "b"
    ours.mkdir()
    np.savez(ours / "x.npz", a=np.arange(3.0), meta=np.array("a"))
    write_csv(ours / "logs/history.csv", [{"step": 1, "loss": 0.5, "seconds": 1.0}])
    shutil.copytree(ours, theirs)
    np.savez(theirs / "x.npz", a=np.arange(3.0), meta=np.array("b"))
    write_csv(theirs / "logs/history.csv", [{"step": 1, "loss": 0.5, "seconds": 2.0}])
    assert crash.compared(ours, theirs) == []
    np.savez(theirs / "x.npz", a=np.nextafter(np.arange(3.0), 9.0), meta=np.array("b"))
    write_csv(theirs / "logs/history.csv", [{"step": 1, "loss": 0.25, "seconds": 2.0}])
    (theirs / "outputs.partial").mkdir()
    (theirs / "outputs.partial/state.json").write_text("{}")
    assert crash.compared(ours, theirs) == [
        "outputs.partial/state.json is in one of them alone",
        "logs/history.csv: other rows",
        "x.npz: a",
    ]
