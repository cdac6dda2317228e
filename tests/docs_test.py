"""The generated page is that of the catalogue as it is."""

import importlib.util
import pathlib

from ood_suite import scores

ROOT = pathlib.Path(__file__).parents[1]


def test_scores_page_is_fresh():
    spec = importlib.util.spec_from_file_location("make_scores", ROOT / "docs" / "make_scores.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "scores.md").read_text(encoding="utf-8")
    assert page == module.render(), "run: python docs/make_scores.py"
    for name in (*scores.SCORES, *scores.SHAPERS):
        assert f"### {name}\n" in page
