"""What the tests of all branches share: running a binary as a user does, and killing it."""

import os
import pathlib
import subprocess
import sys

import numpy as np

from ood_suite.files import load_npz, read_csv

ROOT = pathlib.Path(__file__).parents[1]
# Runs a binary, but the n-th call of a NumPy writer writes half of its file and kills the process.
KILLER = """
import io, os, runpy, signal, sys
import numpy as np
name, calls, module = sys.argv[1], int(sys.argv[2]), sys.argv[3]
original = getattr(np, name)
def writer(file, *args, **arrays):
    global calls
    calls -= 1
    if calls:
        return original(file, *args, **arrays)
    buffer = io.BytesIO()
    original(buffer, *args, **arrays)
    file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
setattr(np, name, writer)
sys.argv = [module, *sys.argv[4:]]
runpy.run_module(module, run_name="__main__")
"""


def command(module, *arguments, kill_at=None):
    """Runs a binary to its end; `kill_at=(writer, n)` kills it in the middle of that write."""
    start = ["-m", module] if kill_at is None else ["-c", KILLER, *map(str, kill_at), module]
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def final_state(folder):
    """(file name, arrays) of the newest checkpoint of a run."""
    [path] = sorted((folder / "checkpoints").glob("step_*.npz"))[-1:]
    return path.name, load_npz(path)


def assert_same_run(folder, expected):
    """Two runs are the same to the last bit: checkpoints, history, all models that were kept."""
    import keras

    name, state = final_state(folder)
    expected_name, expected_state = final_state(expected)
    if name != expected_name or state.keys() != expected_state.keys():
        raise AssertionError(f"{name} and {expected_name} hold different variables.")
    for key in state:
        np.testing.assert_array_equal(state[key], expected_state[key], err_msg=key)
    histories = [read_csv(run / "logs/history.csv") for run in (folder, expected)]
    if histories[0] != histories[1]:
        raise AssertionError(f"Different histories: {histories}.")
    kept = [sorted(p.name for p in (f / "checkpoints").glob("*.keras")) for f in (folder, expected)]
    if kept[0] != kept[1]:
        raise AssertionError(f"Different models are kept: {kept}.")
    for name in ["model.keras", *(f"checkpoints/{name}" for name in kept[0])]:
        models = [keras.saving.load_model(f / name, compile=False) for f in (folder, expected)]
        for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def opening(settings, fingerprints=()):
    """Arguments of Run.open beside the folder, of a classifier."""
    return {
        "kind": "classifier", "extractor": "classifier_ood.extract", "settings": settings,
        "fingerprints": dict(fingerprints),
    }  # fmt: skip
