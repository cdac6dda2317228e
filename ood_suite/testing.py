"""What the tests of all branches share: running a binary as a user does, and killing it."""

import os
import pathlib
import subprocess
import sys

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
