"""The generated pages are those of the catalogue and of the simulations as they are."""

import importlib.util
import json
import pathlib

import pytest

from ood_suite import scores

ROOT = pathlib.Path(__file__).parents[1]


def script(path):
    """The module of a script of the repository."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name,page", [("coverage", "intervals"), ("guarantees", "guarantees")])
def test_simulations_are_shown_as_their_numbers(name, page):
    found = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert text == script(f"benchmarks/{name}.py").page(found)


def test_scores_page_is_fresh():
    module = script("docs/make_scores.py")
    page = (ROOT / "docs" / "scores.md").read_text(encoding="utf-8")
    assert page == module.render(), "run: python docs/make_scores.py"
    for name in (*scores.SCORES, *scores.SHAPERS):
        assert f"### {name}\n" in page


def test_protocols_page_is_fresh():
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    module = script("docs/make_protocols.py")
    assert page == module.render(), "run: python docs/make_protocols.py"
