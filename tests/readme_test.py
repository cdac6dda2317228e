"""The README's Python runs as it stands, and every command of the pages is one that there is."""

import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest

from ood_suite.__main__ import COMMANDS
from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_first_use_in_python(tmp_path, monkeypatch, capsys, rng):
    [block] = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.chdir(tmp_path)
    keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Rescaling(1 / 255),
        keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3, activation="softmax"),
    ]).save("mine.keras")  # fmt: skip
    images = rng.integers(0, 200, (4, 30, 8, 8, 1), dtype=np.uint8)
    names = ("train_images", "val_images", "new_images")
    arrays = dict(zip(names, images, strict=False))
    np.savez("data.npz", train_labels=np.arange(30) % 3, **arrays)
    found = {}
    exec(compile(block, "README.md", "exec"), found)
    assert found["scores"].shape == (30,) and found["decisions"].dtype == bool
    assert "auroc" in capsys.readouterr().out


def commands():
    """{module: flags} of all `python -m` in code blocks and tables of the pages."""
    found = {}
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").split("\n"):
            for module, rest in re.findall(
                r"python -m ((?:\w+_ood|ood_suite)\.\w+)([^`;|>]*)", line
            ):
                words = shlex.split(rest, comments=True)
                flags = {w.split("=")[0].lstrip("-") for w in words if w.startswith("--")}
                found.setdefault(module, set()).update(flags)
    return found


@pytest.mark.parametrize("module, flags", sorted(commands().items()))
def test_commands_of_the_pages(module, flags):
    assert module in COMMANDS.values()
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    known = set(re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.M)) | {"help"}
    assert not flags - known, f"{module} has no {flags - known}"


def test_the_readme_is_a_first_screen():
    assert len(README.split("\n")) <= 121
