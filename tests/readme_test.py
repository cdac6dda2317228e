"""The README's Python runs as it stands."""

import pathlib
import re
import textwrap

import keras
import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_python_way(tmp_path, monkeypatch, capsys, rng):
    section = README.read_text(encoding="utf-8").split("## The Python way")[1].split("\n## ")[0]
    [block] = re.findall(r"\n\n((?:    .*\n|\n)+)", section)[:1]
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
    exec(compile(textwrap.dedent(block), "README.md", "exec"), found)
    assert found["scores"].shape == (30,) and found["decisions"].dtype == bool
    assert "auroc" in capsys.readouterr().out
