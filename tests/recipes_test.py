"""The recipes of docs/architecture.md, followed to the letter in a copy of the sources; and what
other packages add by entry points.
"""

import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from ood_suite import plugins, scores
from ood_suite.data.npz import write_images
from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from tests.support import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
LEFT_OUT = shutil.ignore_patterns(".*", "output", "__pycache__", "benchmarks")
STEP = re.compile(
    r"(?P<what>Append to|Create|Insert into) `(?P<file>[^`]+)`(, before `(?P<before>[^\n]+)`)?:\n\n"
    r"```python\n(?P<code>.*?)```|```bash\n(?P<commands>.*?)```",
    re.S,
)


def recipe(title):
    return PAGE.split(f"### {title}\n")[1].split("\n### ")[0].split("\n## ")[0]


def follow(title, folder, replace=()):
    """Does what a recipe says, in the folder."""
    steps = list(STEP.finditer(recipe(title)))
    assert len(steps) >= 2
    for step in steps:
        if step["commands"]:
            for command in step["commands"].strip().split("\n"):
                for old, new in replace:
                    command = command.replace(old, new)
                execute(command, folder)
            continue
        path, text = folder / step["file"], step["code"]
        if step["what"] == "Append to":
            text = f"{path.read_text()}\n\n{text}"
        if step["what"] == "Insert into":
            start, found, rest = path.read_text().partition(step["before"])
            assert found, f"{step['file']} has no {step['before']!r}: mend the recipe."
            text = f"{start}{text}{found}{rest}"
        path.write_text(text)


def execute(command, folder):
    command = command.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def copy(tmp_path):
    """The sources, to be changed."""
    folder = tmp_path / "copy"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    shutil.copy(ROOT / "benchmarks/scores.json", folder)
    (folder / "benchmarks").mkdir()
    shutil.move(folder / "scores.json", folder / "benchmarks")
    return folder


def test_a_score(copy):
    follow("Add a score", copy)
    assert "### margin\n" in (copy / "docs/scores.md").read_text()


def test_a_backbone(copy):
    follow("Add a backbone", copy)
    assert (copy / "output/classifier_ood/fashion/perceptron/model.keras").exists()


def test_a_data_set(copy):
    write_images(copy / "street_signs_test.npz", np.zeros((3, 8, 8, 1), np.uint8), np.arange(3))
    follow("Add a data set", copy, [("FOLDER", str(copy))])


def test_an_experiment(copy):
    follow("Add an experiment", copy)
    assert (copy / "output/classifier_ood/clothes/convnet/report/report.html").exists()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that adds a score, a backbone, and one that cannot be imported."""
    (tmp_path / "toy.py").write_text(
        "import keras\n"
        "import numpy as np\n"
        "from ood_suite import Score\n"
        "DOUBLE = Score(lambda logits: -2.0 * np.max(logits, axis=1), ('logits',))\n"
        "def build(input_shape, num_classes, width=3):\n"
        "    inputs = keras.Input(input_shape)\n"
        "    features = keras.layers.Dense(width)(keras.layers.Flatten()(inputs))\n"
        "    logits = keras.layers.Dense(num_classes, name='fc')(features)\n"
        "    return keras.Model(inputs, {'features': features, 'logits': logits})\n"
    )
    folder = tmp_path / "toy-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[ood_suite.scores]\n"
        "toy_double = toy:DOUBLE\ntoy_gone = toy:NOTHING\ntoy_build = toy:build\n"
        "[ood_suite.backbones]\ntoy_network = toy:build\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins.installed.cache_clear()
    yield
    plugins.installed.cache_clear()


def test_what_lies_in_the_current_folder_is_not_installed(package, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert not plugins.installed("ood_suite.scores")
    # As `pip install -e` leaves both, one of them in the project.
    shutil.copytree(tmp_path / "toy-1.0.dist-info", tmp_path / "site/toy-1.0.dist-info")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    plugins.installed.cache_clear()
    assert "toy_double" in plugins.installed("ood_suite.scores")


def test_a_package_adds_a_score(package):
    assert "toy_double" in scores.names() and "toy_double" not in scores.SCORES
    [value] = scores.get("toy_double").fn(np.array([[1.0, 4.0]]))
    assert value == -8.0
    features, head = np.eye(3) + 1.0, {"head_kernel": np.eye(3), "head_bias": np.zeros(3)}
    outputs = Outputs(features=features, logits=features, **head)
    assert scores.get("react+toy_double").parts == ("react", "toy_double")
    shaped = Detector("react+toy_double", parameters={"react.threshold": 1.5})
    np.testing.assert_array_equal(shaped.fit(outputs, outputs).score(outputs), [-3.0] * 3)
    fused = Detector("toy_double&react+toy_double").fit(outputs, outputs)
    assert fused.calibration_.shape == (3,)
    with pytest.raises(ValueError, match="toy_gone = 'toy:NOTHING' .* cannot be imported"):
        scores.get("toy_gone")
    with pytest.raises(ValueError, match="toy_build = 'toy:build' .* must be a Score"):
        scores.get("toy_build")
    with pytest.raises(ValueError, match="Did you mean toy_double"):
        scores.get("toy_dubble")


def test_a_package_adds_a_backbone(package):
    from classifier_ood import models

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        built = models.build("toy_network", (8, 8, 1), 2, {"width": 7})
    finally:
        keras.config.set_dtype_policy("float32")
    assert built.input_shape == (None, 8, 8, 1) and built.output["features"].shape == (None, 7)
    assert {output.dtype for output in built.outputs} == {"float32"}
    with pytest.raises(ValueError, match="Unknown option 'depth' of the backbone toy_network"):
        models.build("toy_network", (8, 8, 1), 2, {"depth": 7})
    with pytest.raises(ValueError, match="Known: .*wide_resnet, toy_network"):
        models.build("vgg", (8, 8, 1), 2)
