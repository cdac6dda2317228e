"""Benchmarks that nothing else runs: the accelerator on a toy, and what others make of numbers."""

import json
import os
import subprocess
import sys

import keras
import pytest

from tests.docs_test import script
from tests.support import ROOT


@pytest.mark.jax
def test_the_accelerators_benchmark_runs_on_a_toy(tmp_path):
    """Under the backend of this environment, as on the day that a card is there."""
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--toy", "--only=wrn_28_10", "--only=lstm_2000",
         "--dtypes=float32", "--steps_per_execution=1", f"--out={tmp_path / 'gpu.json'}"],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["case"], row["feed"]) for row in rows] == [
        (case, feed) for case in ("wrn_28_10", "lstm_2000") for feed in ("host", "device")
    ]
    assert all(row["steps_per_s"] > 0 for row in rows)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_exponents_are_slopes_of_the_last_decade(power):
    growth = script("benchmarks/growth.py")
    sizes = (10, 100, 1000, 3000, 10_000)
    points = [{"size": s, "seconds": 2.0 * s**power if s > 500 else 9.0} for s in sizes]
    assert growth.exponent(points) == pytest.approx(power, abs=1e-9)


def test_ratios_of_extraction_are_over_the_best_of_the_other_side():
    extraction = script("benchmarks/extraction.py")
    found = {"a net": {"ours": 30.0, "eager": 10.0, "compile": 20.0, "ours, ODIN": 4.0}
             | {"eager, ODIN": 2.0, "channels_last, ODIN": 8.0}}  # fmt: skip
    assert extraction.table(found).splitlines()[-1] == (
        "| a net | 30 | 10 |  |  | 20 |  |  | 1.50 | 4 | 8 | 0.50 |  |  |  |"
    )


def test_a_report_keeps_the_foregrounds_of_others():
    study = script("benchmarks/likelihood_ratio.py")
    known = {
        part: [{"foreground": name, "step": 1} for name in "ab"] for part in ("chosen", "rows")
    }
    found = {"chosen": [], "rows": [{"foreground": "b", "step": 2}]}
    assert study.merged({}, found) == found
    assert study.merged(known, found) == {
        "chosen": [{"foreground": "a", "step": 1}],
        "rows": [{"foreground": "a", "step": 1}, {"foreground": "b", "step": 2}],
    }
