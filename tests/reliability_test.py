"""The promises of docs/reliability.md that no other test proves, and that each row has its test."""

import ast
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from images_ood.train_test import TINY
from ood_suite import files
from tests.support import ROOT, command

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
# Of the first table; behind it stand those of near-duplicates and of fifty kills.
ROWS = PAGE.split("|---|---|---|\n")[1].split("\n\n")[0].splitlines()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_promise_names_tests_that_there_are(row):
    found = re.findall(r"`([\w/]+_test\.py)::(\w+)`", row)
    assert found and len(ROWS) > 15
    for path, name in found:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, (path, name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_training_that_goes_on(small_data, tmp_path, number):
    arguments = [*TINY, "--total_steps=160", f"--data_dir={small_data}", f"--out_dir={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "images_ood.train", *arguments], cwd=ROOT, stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background with SIGINT ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while not list(tmp_path.rglob("step_*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, text = process.communicate(timeout=600)
    if number == signal.SIGTERM:
        assert process.returncode == -signal.SIGTERM
    else:
        assert process.returncode == 130
        [line] = [line for line in text.splitlines() if "This command continues: " in line]
        words = shlex.split(line.partition("continues: ")[2])
        assert words == ["python", "-m", "images_ood.train", *arguments]
    steps = [int(path.stem[5:]) for path in tmp_path.rglob("step_*.npz")]
    again = command("images_ood.train", *arguments)
    assert again.returncode == 0 and f"step_{max(steps):08d}.npz" in again.stderr


def test_a_file_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    done = []

    def noted(name, function):
        def call(*arguments):
            if name == "sync":
                synced = os.fstat(arguments[0])
                found = (p for p in tmp_path.rglob("*") if os.path.samestat(p.stat(), synced))
            path = next(found) if name == "sync" else pathlib.Path(arguments[1])
            done.append((name, path.name.split("-")[0]))
            return function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", noted("sync", os.fsync))
    monkeypatch.setattr(os, "replace", noted("name", os.replace))
    (tmp_path / "folder").mkdir()
    files.write_text(tmp_path / "folder" / "a.txt", "x")
    assert done == [("sync", ".partial"), ("name", "a.txt"), ("sync", "folder")]


def test_no_decision_hangs_on_the_time_of_day():
    clocks = {
        "time.time",
        "time.time_ns",
        "datetime.datetime.now",
        "datetime.now",
        "time.localtime",
    }
    shown = ROOT / "ood_suite/evaluation/page.py"  # a report says when it was made
    seen = 0
    for package in ("ood_suite", "images_ood", "genomics_ood", "classifier_ood"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name.endswith("_test.py"):
                continue
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            names = {ast.unparse(call.func) for call in calls}
            seen += bool(names & {"time.monotonic", "time.perf_counter"})
            allowed = {"datetime.datetime.now"} if path == shown else set()
            assert not names & clocks - allowed, path
    assert seen > 3
