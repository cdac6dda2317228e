"""What stands on the terminal, and in a file in its place."""

import os
import pty
import subprocess
import sys

from tests.support import ROOT

CODE = """
import logging as python_logging, sys, time
from absl import logging
from ood_suite import progress
from ood_suite.progress import AboveBars
progress.SHORT_S, progress.LINES_EVERY_S = 0.0, 0.3
logging.use_absl_handler()
logging.set_verbosity(logging.INFO)
logging.get_absl_handler().python_handler.stream = AboveBars()
for i in progress.progress(range(40), desc="walking", unit="step"):
    time.sleep(0.05)
    if i == 30:
        logging.info("half way")
"""


def test_no_terminal_gets_sparse_plain_lines():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "\r" not in done.stderr, done.stderr
    lines = done.stderr.strip().split("\n")
    assert 3 <= len(lines) <= 12 and lines[-1].startswith("walking: 100%")
    assert sum(line.endswith("half way") for line in lines) == 1


def test_log_lines_stand_above_the_bar():
    """The line is whole, and nothing of the bar is left in front of it."""
    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", CODE], cwd=ROOT, stderr=child)
    os.close(child)
    said = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    assert process.wait() == 0
    [line] = [line for line in said.decode().split("\n") if "half way" in line]
    shown = line.rstrip("\r").split("\r")[-1].strip("\x1b[A \x1b[K")
    assert shown.startswith("I") and shown.endswith("half way")
    assert "walking: 100%" in said.decode()


def test_quietly_hides_what_ends_well():
    code = (
        "import os\nfrom ood_suite.optional import quietly\n"
        "with quietly():\n    os.write(2, b'noise')\n"
        "os.write(2, b'heard')\n"
        "try:\n    with quietly():\n        os.write(2, b' cause')\n        raise ValueError\n"
        "except ValueError:\n    pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "heard cause"
