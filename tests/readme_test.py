"""The README's Python runs as it stands, and every command of the pages is one that there is."""

import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from ood_suite import data
from ood_suite.__main__ import COMMANDS
from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("docs", "examples", "genomics_data", "image_data", "pretrained")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))]
POSITIONAL = {"genomics_ood.screen", "ood_suite.screen"}  # take words that are no flags


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
    np.savez("data.npz", train_labels=np.arange(30) % 3, val_labels=np.arange(30) % 3, **arrays)
    found = {}
    exec(compile(block, "README.md", "exec"), found)
    assert found["scores"].shape == (30,) and found["decisions"].dtype == bool
    assert "auroc" in capsys.readouterr().out


def commands():
    """{module: words} of all `python -m` in code blocks and tables of the pages."""
    found = {}
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").split("\n"):
            for module, rest in re.findall(
                r"python -m ((?:\w+_ood|ood_suite)\.\w+)([^`;|>]*)", line
            ):
                found.setdefault(module, set()).update(shlex.split(rest, comments=True))
    return found


@pytest.mark.parametrize("module, words", sorted(commands().items()))
def test_commands_of_the_pages(module, words):
    assert module in COMMANDS.values()
    flags = {word.split("=")[0].lstrip("-") for word in words if word.startswith("--")}
    others = {word for word in words if not word.startswith("--")} - {"..."}
    assert module in POSITIONAL or not others, f"{module} takes no {others}"
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    known = set(re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.M)) | {"help"}
    assert not flags - known, f"{module} has no {flags - known}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_can_be_pasted_into_any_shell(page):
    """zsh takes what comments say for commands and arguments; blocks of commands have none."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    for language, block in blocks:
        assert language != "bash" or "#" not in block, f"a comment in {block}"
        assert language or "python -m" not in block, f"```bash begins {block}"


def test_tiny_imagenet_is_made_as_the_page_says(tmp_path, monkeypatch, rng):
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "tiny-imagenet-200" / "test" / "images"
    source.mkdir(parents=True)
    for name, shape in {"test_0": (64, 64, 3), "test_1": (64, 64)}.items():  # some are grey
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(source / f"{name}.JPEG")
    (tmp_path / "FOLDER").mkdir()
    exec(compile(block, "data.md", "exec"), {})
    found = data.load("tiny_imagenet", "test", "FOLDER")
    assert found.images.shape == (2, 32, 32, 3) and found.images.dtype == np.uint8


def test_cleaning_keeps_trainings():
    done = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True)
    removing = [line for line in done.stdout.splitlines() if line.startswith("rm ")]
    assert removing == ["rm -rf .venv .venv-jax"]


def test_the_readme_is_a_first_screen():
    assert len(README.split("\n")) <= 121
