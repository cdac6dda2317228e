"""Every example and every notebook runs as it stands, in an empty folder."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT

EXAMPLES = ROOT / "examples"
SAID = {  # what each must say, beyond ending well
    "dna_reads": "likelihood, words          AUROC 0.9",
    "evaluate_a_run": "Best against digits: ",
    "likelihood_ratio": "likelihood_ratio  AUROC 0.9",
    "own_keras_model": "accuracy on clothes: 0.",
    "production": "1250 2",
    "score_arrays": "knn            AUROC 0.8",
}


def run(code, folder, name):
    """Runs Python code in a folder, whatever is at hand there."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
    )  # fmt: skip
    assert done.returncode == 0, f"{name}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


SCRIPTS = [path for path in sorted(EXAMPLES.glob("*.py")) if path.stem != "serve"]  # serve_test.py


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    assert 20 <= len(text.split("\n")) <= 61
    assert SAID[path.stem] in run(text, tmp_path, path.name)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks(path, tmp_path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] or cell["execution_count"] for cell in code)
    run("\n\n".join("".join(cell["source"]) for cell in code), tmp_path, path.name)


def test_all_are_listed():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")):
        assert f"`{path.name}`" in page
