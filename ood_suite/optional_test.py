"""What is said of packages that are not there."""

import importlib.util
import os
import runpy
import subprocess
import sys
from unittest import mock

import pytest

from ood_suite import __main__
from ood_suite.optional import missing
from tests.support import ROOT


@pytest.mark.parametrize(
    "backend, has_jax, hint", [("", True, True), ("jax", True, False), ("", False, False)]
)
def test_jax_is_named_where_it_would_do(monkeypatch, backend, has_jax, hint):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: has_jax or None)
    text = missing(ModuleNotFoundError(name="tensorflow.python"))
    assert text.startswith(
        "This needs tensorflow, which is not installed: pip install 'ood-suite[t"
    )
    assert ("set KERAS_BACKEND=jax" in text) == hint


@pytest.mark.parametrize(
    "command, name, extra",
    [("genomics screen", "absl", "genomics"), ("genomics sweep", "keras", "tensorflow"),
     ("genomics train_classifier", "absl", "tensorflow"), ("eval", "absl", "eval"),
     ("images train", "absl", "tensorflow")],
)  # fmt: skip
def test_a_command_asks_for_its_own_extra(monkeypatch, command, name, extra):
    monkeypatch.setattr(sys, "argv", ["ood", *command.split()])
    monkeypatch.setattr(runpy, "run_module", mock.Mock(side_effect=ModuleNotFoundError(name=name)))
    with pytest.raises(SystemExit, match=rf"needs {name}, .*'ood-suite\[{extra}\]'"):
        __main__.main()


def test_a_reader_that_has_enough_of_the_overview_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    code = [sys.executable, "-m", "ood_suite"]
    done = subprocess.run(code, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_a_package_that_is_missing_is_one_line():
    code = "from ood_suite.runs import cli; cli.run_app(lambda _: __import__('safetensors_not'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Error: This needs safetensors_not, which is not installed" in done.stderr
    code = code.replace("safetensors_not", "images_ood.not_there")  # ours: a fault of ours
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" in done.stderr
