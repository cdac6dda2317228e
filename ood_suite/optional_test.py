"""What is said of packages that are not there."""

import importlib.util
import subprocess
import sys

import pytest

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


def test_a_package_that_is_missing_is_one_line():
    code = "from ood_suite.runs import cli; cli.run_app(lambda _: __import__('safetensors_not'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Error: This needs safetensors_not, which is not installed" in done.stderr
    code = code.replace("safetensors_not", "images_ood.not_there")  # ours: a fault of ours
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" in done.stderr
