"""The page is one file, says the verdict first, escapes what it is told, and is looked at in
Chromium (where there is one): at three widths, by day and by night.
"""

import html
import io
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ood_suite.evaluation import figures, page, terminal
from ood_suite.evaluation.report import GroupReport
from ood_suite.evaluation.results import group_means, result_row
from ood_suite.files import write_json
from ood_suite.runs.run import Run
from tests import browser

SCORES = (
    "msp",
    "energy",
    "react(threshold=1.6)+energy",
    "energy&vim&knn&mahalanobis",
    "<b>bold</b>",
)
SETS = ("mnist", "letters", "natural_images_of_a_long_name", "noise")
CONFIG = {
    "settings": {"exp": "fashion", "id_dataset": "<script>alert(1)</script>"},
    "versions": {"keras": "3"}, "git_commit": "abc",
}  # fmt: skip


@pytest.mark.parametrize(
    "name, start",
    [("ood_suite.benchmark", ["python", "-m", "ood_suite.benchmark"]), ("pytest.__main__", None),
     (None, None)],
)  # fmt: skip
def test_the_command_is_that_of_our_binary_or_none(name, start, monkeypatch):
    spec = name and types.SimpleNamespace(name=name)
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=spec))
    monkeypatch.setattr(sys, "argv", ["x.py", "--run=RUN"])
    assert page.command() == ([*start, "--run=RUN"] if start else [])


def group(repeat_id=0, seed=0):
    rng = np.random.default_rng(seed)
    values = {
        name: (rng.normal(size=60), {ood: rng.normal(1 + i / 2, 1, 50) for ood in SETS})
        for i, name in enumerate(SCORES)
    }
    more = {"repeat": repeat_id, "threshold": 1.5, "accepted": 0.95}
    rows = [result_row(n, ood, values, "msp", 20) | more for n in SCORES for ood in SETS]
    aurocs = {n: {ood: r["auroc"] for ood in SETS for r in rows if r["ood"] == ood} for n in SCORES}
    return GroupReport(
        repeat_id=repeat_id, rows=rows + group_means(rows, ()), choice=[], chosen=None,
        notes=["a note & more", "some rows: 3, 4, ..."], baseline="msp",
        figures={"overview": figures.overview(aurocs)},
        classifier={"accuracy": 0.9}, test_sets=dict.fromkeys(("id", *SETS), "mark"),
        data={"id_test": {"dataset": "fashion", "n": 60}, "ood:mnist": {"n": 50}},
        verdict={
            "score": "energy", "validation_ood": "uniform", "auroc": 0.9, "low": 0.85, "high": 0.95,
            "threshold": 1.5, "promise": "60 held-out examples promise 5%", "compared": 5,
            "with_parameters": "energy", "alike": 2, "is_generated": True, "has_chosen": True,
        },
        next_command=f"python -m ood_suite.calibrate --run={'a_long_folder/' * 9} '--score=a&b'",
        shifted=[
            {"score": "energy", "shift": "clean", "accuracy": 0.9, "flagged": 0.05},
            {"score": "energy", "shift": "gaussian_noise_3", "accuracy": 0.5, "flagged": 0.4}
            | {"auroc": 0.8125},
        ],
        full_spectrum=[{"score": "energy", "ood": "mnist", "auroc": 0.75}],
        unit_tests=[
            {"score": n, "unit_test": f"{u}_of_a_name", "fpr95_id_positive": 0.5, "failed": True}
            for n in SCORES for u in "abcdefgh"
        ],
    )  # fmt: skip


def rendered(reports):
    pictures = {name: page.png(figure) for name, figure in reports[0].figures.items()}
    rows = [{"score": "energy", "ours": "91.0", "published": "94.6", "difference": "-3.6"}]
    return page.render(CONFIG, reports, pictures, protocol={"title": "A paper", "rows": rows})


def test_the_verdict_stands_first_and_nothing_is_taken_as_markup():
    text = rendered([group()])
    assert "<script" not in text and "<b>bold" not in text
    assert html.escape("<script>alert(1)</script>") in text
    assert text.index("energy is recommended") < text.index("All scores, the best mean first")
    order = [text.index(f'title="{html.escape(name)}"') for name in (SCORES[-1], "msp")]
    assert order == sorted(order)  # the best mean first
    assert "http" not in re.sub(r"data:[^\"]*", "", text)  # one file, nothing from elsewhere
    assert "<li>a note &amp; more.</li>" in text and "<li>some rows: 3, 4, ...</li>" in text
    assert '<th scope="col">auroc</th>' in text and "<td>0.8125</td>" in text  # of the second alone
    assert text.count("a_of_a_name (50%), b_of_a_name (50%)") == len(SCORES)
    small = group()
    small.choice = [
        {"background": n, "reg_weight": w, "validation_auroc": 0.5, "validation_ood": "x"}
        for n, w in (("a", 0.0), ("b", 1e-5))
    ]
    small.chosen = "a"
    assert "<td>0.0000</td>" in rendered([small]) and "<td>1e-05</td>" in rendered([small])
    group_of_none = group()
    group_of_none.verdict = {}
    assert "No score is recommended" in rendered([group_of_none])


def test_a_run_need_not_name_its_data_set_nor_a_commit(tmp_path):
    """They were missed at the end of the whole evaluation."""
    write_json(tmp_path / "config.json", {"settings": {}, "fingerprints": {}, "versions": {}})
    config = Run.load(tmp_path).config
    text = page.render(config, [group()], {})
    assert "evaluation: ID against" in text and "git commit: None" in text


def test_a_terminal_of_100_columns_holds_it():
    for reports in ([group()], [group(0, 0), group(1, 1)]):
        for everything in (False, True):
            text = terminal.text(reports, "report", everything=everything)
            *lines, last = text.splitlines()
            assert max(map(len, lines)) <= 100, text
            assert last == f"Detector: {reports[0].next_command}"  # whole, to be pasted
            assert "gaussian_noise_3" in text and "Unit tests failed of 8" in text
            assert text.splitlines()[1].startswith("VERDICT  energy is recommended")
            assert ("OOD: mnist (50 examples) against" in text) == everything


def cells_of(reports, score, column):
    """What the table of all scores has of one in the column of that title."""
    found = page._overview(reports, list(SETS))
    row = next(row for row in found["rows"] if row["name"] == score)
    return row["cells"][found["columns"].index(column)]


def test_what_is_of_the_first_repeat_alone_says_so():
    """Beside means over repeats it was taken for one; the classifier's figures were no means."""
    reports = [group(0, 0), group(1, 1)]
    reports[1].classifier = {"accuracy": 0.7}
    for row in reports[1].rows:
        row |= {"accepted": 0.85, "threshold": 2.5} if "threshold" in row else {"accepted": 0.85}
    assert cells_of(reports, "msp", "threshold (first repeat)") == "1.5"
    assert cells_of(reports, "msp", "ID accepted").startswith("0.9000 (0.0707")
    assert cells_of(reports[:1], "msp", "threshold") == "1.5"
    assert cells_of(reports[:1], "msp", "ID accepted") == "0.9500"
    heads = ("no OOD data", "no detector may accept", "minus baseline&#39;s", "threshold")
    web, alone = rendered(reports), rendered(reports[:1])
    assert all(f"{head} (first repeat)" in web for head in heads) and "first repeat" not in alone
    said = terminal.text(reports, "report")
    assert "ID accuracy: 0.8000" in said and "shifted.csv) (first repeat)" in said
    assert "accepted where 95% of ID are (first" in said
    said = terminal.text(reports[:1], "report")
    assert "ID accuracy: 0.9000" in said and "first repeat" not in said


def test_a_score_that_the_first_repeat_lacks_is_shown():
    reports = [group(number, number) for number in range(3)]
    for number, lacking in ((0, "energy"), (1, "energy"), (0, "react(threshold=1.6)+energy")):
        rows = reports[number].rows
        reports[number].rows = [row for row in rows if row["score"] != lacking]
    assert cells_of(reports, "energy", "AUROC, mnist").endswith("(1 of 3 repeats)")
    assert cells_of(reports, "energy", "threshold (first repeat)") == "1.5 (repeat 2)"
    web = rendered(reports)
    assert "2\u00a0of" not in web and ",\u00a02 of 3 repeats)" in web and "(repeat 2)" in web
    for everything in (False, True):
        text = terminal.text(reports, "report", everything=everything)
        *lines, _ = text.splitlines()
        assert max(map(len, lines)) <= 100 and "  energy  " in text
        assert ("(1 of 3 repeats)" in text) == (", 2 of 3)" in text) == everything
    for row in reports[2].rows:  # as if one set had gone before this repeat
        row["ood"] = row["ood"].replace("noise", "gone")
    assert cells_of(reports, "energy", "AUROC, noise") == ""
    rendered(reports)
    assert "nan" in terminal.text(reports, "report", everything=True)


@pytest.mark.parametrize(
    "name, said",
    [
        ("histogram_energy", "Scores of ID and OOD examples, with the threshold: energy."),
        ("repeat1_curves_mnist", "curves of the best scores: mnist, repeat 1."),
        ("overview", "AUROC of every score on every OOD set; 0.5 is chance."),
        ("heat_maps_a_b", "pixel by pixel: a_b."),
    ],
)
def test_captions_say_what_of(name, said):
    assert page.caption(name).endswith(said)


def test_the_width_of_a_picture_is_that_of_its_file():
    data = page.png(figures.overview({"msp": {"mnist": 0.5}}))
    assert page.width(data) == Image.open(io.BytesIO(data)).width


@pytest.mark.skipif(browser.BROWSER is None, reason="there is no Chromium to look with")
@pytest.mark.parametrize("width", browser.WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_at_any_width_by_day_and_by_night(tmp_path, width, dark):
    browser.require_readable(rendered([group()]), tmp_path, width, dark)
