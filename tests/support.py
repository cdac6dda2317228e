"""What the tests of all branches share: running a binary as a user does, and killing it.

Most of a short command is the import of TensorFlow. So commands are forked from a process that
has imported it and done nothing else: a process of their own, in half of the time. Starts from
nothing are tested elsewhere (readme_test.py,
layering_test.py, wheel_test.py, every Popen).
"""

import functools
import gc
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile

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


MODULE = "import runpy, sys; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
# No thread of these packages runs before they compute.
LOADED = [
    "ood_suite.runs.cli", "tensorflow", "keras", "matplotlib.figure", "scipy.stats", "sklearn.svm",
]  # fmt: skip


def command(module, *arguments, kill_at=None):
    """Runs a binary to its end; `kill_at=(writer, n)` kills it in the middle of that write."""
    if kill_at is None:
        return forked(MODULE, module, *arguments)
    return forked(KILLER, "-c", *kill_at, module, *arguments)


def forked(code, *argv):
    """Runs code with this sys.argv to its end, in a process of its own."""
    argv = list(map(str, argv))
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":  # JAX does not bear a fork
        start = ["-m", *argv] if code is MODULE else ["-c", code, *argv[1:]]
        return subprocess.run(
            [sys.executable, *start], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
        process = forking().Process(target=run, args=(code, argv, *out, dict(os.environ)))
        process.start()
        process.join()
        texts = (path.read_text("utf-8") for path in out)
        return subprocess.CompletedProcess(argv, process.exitcode, *texts)


@functools.cache
def forking():
    """The context of multiprocessing whose processes are forked from one that has LOADED."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def run(code, argv, stdout, stderr, environment):
    """Within a process of `forking`: runs code with this sys.argv, as the head of a group. (That
    which it was forked from has the environment of its start.)
    """
    gc.freeze()  # what was imported is not looked through again and again
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment | {"PYTHONPATH": str(ROOT)})
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644), number)
    sys.argv = argv
    exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})


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
