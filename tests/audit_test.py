"""The audit: ours recomputed and compared with what others' code gave, row by row of audit.py."""

import functools
import importlib.util
import json
import pathlib

import numpy as np
import pytest
from scipy.special import logit

from ood_suite import metrics, scores
from ood_suite.detector import Detector
from ood_suite.files import load_npz
from ood_suite.outputs import Outputs
from ood_suite.scores.logits import energy
from tests import audit
from tests.support import ROOT

PATH = pathlib.Path(__file__).with_name("references") / "audit.npz"
COMPARED = [row for row in audit.ROWS if row.theirs]
POINTED = [row for row in audit.ROWS if row.test]
TURNS = {
    "as it is": lambda theirs: theirs,
    "minus": lambda theirs: -theirs,
    "minus, but for a constant": lambda theirs: -theirs,
    "1 minus": lambda theirs: 1.0 - theirs,
    "root of minus": lambda theirs: np.sqrt(-theirs),
    "log odds of minus": lambda theirs: logit(-theirs),
}


def identity(row):
    return f"{row.item}-{row.theirs or row.test.split('::')[-1]}"


class Draws:
    """In place of a generator: gives the arrays that it was made of, or one row of the first after
    the other where that is what is asked for.
    """

    def __init__(self, arrays):
        self.arrays = list(arrays)

    def normal(self, *_, size=None, **__):
        first = self.arrays.pop(0)
        if size is None or first.shape[1:] != tuple(np.atleast_1d(size)):
            return first
        self.arrays[:0] = [first[1:]] if len(first) > 1 else []
        return first[0]

    uniform = normal


@functools.cache
def frozen():
    return load_npz(PATH)


def outputs(name, head, labels=None):
    """Outputs of the examples `name` ("train", "held_out", "test") by that head."""
    arrays = frozen()
    kernel, bias = arrays[head].astype(np.float64), arrays["head_bias"].astype(np.float64)
    logits = arrays[name].astype(np.float64) @ kernel + bias
    found = Outputs(features=arrays[name], logits=logits, head_kernel=kernel, head_bias=bias)
    if labels:
        found.labels = arrays[labels].astype(np.int64)
    if name == "test":
        found.log_prob = arrays["log_prob"]
        found.background_log_prob = arrays["background_log_prob"]
        found.logits_perturbed = {
            "T=1000,epsilon=0.0014": arrays["odin/logits_T=1000"],
            "T=1,epsilon=0.02": arrays["odin/logits_T=1"],
        }
        found.member_logits = {
            f"{member},{rule},T=1000,epsilon=0.002": array
            for member, array in enumerate(arrays["leave_out/member_logits"])
            for rule in ("entropy", "cross_entropy")
        }
    return found


def by_class(values):
    """(ID scores, OOD scores)."""
    return np.split(values, [int(frozen()["num_id"])])


def compared(row, monkeypatch):
    """(ours, theirs turned into ours) of a row: scores of the test examples, or a metric."""
    theirs = row.factor * TURNS[row.turn](frozen()[f"theirs/{row.theirs}"])
    if row.item in metrics.METRICS:
        of_energy = energy(outputs("test", row.head).logits)
        return metrics.evaluate(*by_class(of_energy))[row.item], float(theirs)
    if row.draws:
        drawn = [frozen()[name].astype(np.float64) for name in row.draws]
        monkeypatch.setattr(np.random, "default_rng", lambda seed: Draws(drawn))
    if row.patch:
        monkeypatch.setattr(*row.patch)
    detector = Detector(row.item, parameters=row.parameters)
    if detector.entry.learns:
        training = outputs("train", row.head, "labels")
        detector.fit(outputs("held_out", row.head, "held_out_labels"), training)
    ours = detector.score(outputs("test", row.head))
    if row.turn == "minus, but for a constant":
        theirs = theirs + np.mean(ours - theirs)
    return ours, theirs


def difference(ours, theirs):
    """Largest difference, of scores in standard deviations of theirs."""
    return float(np.max(np.abs(ours - theirs)) / (np.std(theirs) if np.ndim(theirs) else 1.0))


def auroc(values):
    return metrics.evaluate(*by_class(values))["auroc"]


@pytest.mark.parametrize("row", [row for row in COMPARED if not row.differs], ids=identity)
def test_ours_is_theirs(row, monkeypatch):
    assert difference(*compared(row, monkeypatch)) <= row.within


@pytest.mark.parametrize("row", [row for row in COMPARED if row.differs], ids=identity)
def test_ours_differs_by_what_the_row_says(row, monkeypatch):
    ours, theirs = compared(row, monkeypatch)
    assert difference(ours, theirs) == pytest.approx(row.by[0], rel=0.05)
    if np.ndim(ours):
        assert auroc(ours) - auroc(theirs) == pytest.approx(row.by[1], abs=1e-4)


@pytest.mark.parametrize("row", POINTED, ids=identity)
def test_the_test_that_a_row_names_exists(row):
    path, _, function = row.test.partition("::")
    assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), row


def test_every_entry_has_a_row():
    items = {row.item for row in audit.ROWS}
    wanted = {name: name for name in (*scores.SCORES, *metrics.METRICS)}
    wanted |= {name: f"{name}+energy" for name in scores.SHAPERS}
    missing = [name for name, item in wanted.items() if item not in items]
    lines = pathlib.Path(audit.__file__).read_text(encoding="utf-8").splitlines()
    assert not missing, (
        f"What were {missing} checked against? Add a row of each to {audit.__file__}, line "
        f"{lines.index('ROWS = (') + 2}, as the head of that file shows."
    )
    assert any("&" in item for item in items)


def test_nothing_is_compared_with_itself_or_with_nothing():
    for row in audit.ROWS:
        assert bool(row.theirs) != bool(row.test), f"{row.item}: one of `theirs` and `test`"
        assert bool(row.differs) == bool(row.by), f"{row.item}: `differs` says by how much"
        assert row.oracle.startswith(("PyPI", "none", "the authors'")) or "@" in row.oracle, row
    used = {f"theirs/{row.theirs}" for row in COMPARED} | {"theirs/layers/mahalanobis"}
    unused = {name for name in frozen() if name.startswith("theirs/")} - used
    assert unused == {"theirs/layers/perturbed"}  # that one: audit_inputs_test.py


def test_the_commits_of_the_rows_are_those_of_the_file():
    commits = json.loads(str(frozen()["about"]))["commits"]
    for row in audit.ROWS:
        for word in row.oracle.split():
            repository, _, commit = word.partition("@")
            if commit and row.theirs:
                assert commits[repository].startswith(commit), row


def test_distances_of_layers():
    arrays = frozen()
    layers = {
        name: {"block1": arrays[name][:, :12].astype(np.float64) ** 2, "block2": arrays[name]}
        for name in ("train", "test")
    }
    learner = scores.get("mahalanobis_layers").make()
    learner.fit(layers["train"], arrays["labels"].astype(np.int64))
    theirs = -2.0 * arrays["theirs/layers/mahalanobis"]  # they give minus half of it
    assert difference(learner._distances(layers["test"]), theirs) < 1e-11


def test_the_page_is_fresh():
    spec = importlib.util.spec_from_file_location("make_audit", ROOT / "docs" / "make_audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    assert page == module.render(), "run: python docs/make_audit.py"
