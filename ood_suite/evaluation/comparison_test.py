"""The comparison of reports, against hand-made ones."""

import dataclasses
import shutil

import numpy as np
import pytest
from scipy import stats

from ood_suite import intervals, ranks
from ood_suite.evaluation import comparison, comparison_page, diagrams, figures, report
from ood_suite.files import RunError, read_csv, read_json, write_json
from tests import browser
from tests.support import command

CONFIG = {
    "settings": {"exp": "e", "id_dataset": "d", "repeat_id": 0}, "versions": {}, "git_commit": None,
}  # fmt: skip


def write(folder, shifts, sets=("mnist", "noise"), seed=0):
    """A report of one score, energy, with a repeat per shift, noise being near; returns {repeat:
    values}.
    """
    groups = []
    for repeat, shift in enumerate(shifts):
        rng = np.random.default_rng([seed, repeat])
        own = rng.normal(size=60)
        values = {ood: rng.normal(shift, 1.0, 50) for ood in sets}
        rows = []
        for ood in sets:
            auroc = float(np.mean(values[ood][:, None] > own))
            row = {"score": "energy", "ood": ood, "repeat": repeat, "auroc": auroc}
            row |= {"auroc_low": auroc - 0.1, "auroc_high": auroc + 0.1, "fpr95_id_positive": 0.5}
            rows.append(row | {"threshold": 0.0, "accepted": 0.95})
        groups.append(
            report.GroupReport(
                repeat, rows, [], None, [], {}, "msp", classifier={"accuracy": 0.9},
                values={"energy": (own, values)},
                test_sets={"id": "same"} | {ood: f"{ood} data" for ood in sets},
                near=[ood for ood in sets if ood == "noise"],
                costs=[{"score": "energy", "fit_seconds": 1.0 + repeat, "learned_mib": 0.5}
                       | {"score_seconds_per_10000": 2.0, "extraction_seconds_per_10000": None}],
            )
        )  # fmt: skip
    report.write(folder, CONFIG, groups)
    return [group.values["energy"] for group in groups]


def test_one_repeat_each_has_the_paired_interval(tmp_path):
    (first,), (second,) = write(tmp_path / "a/report", [0.5]), write(tmp_path / "b/report", [1.0])
    entries, sets = comparison.read([tmp_path / "a/report", tmp_path / "b/report"], ["energy"])
    rows = comparison.compare(entries, sets)
    assert [(row["run"], row["ood"]) for row in rows] == [
        ("a", "mnist"), ("b", "mnist"), ("a", "noise"), ("b", "noise"),
    ]  # fmt: skip
    pairs = [(own, ood["mnist"]) for own, ood in (second, first)]
    expected = intervals.paired_auroc_difference(*pairs)
    assert rows[1]["versus_difference"] == expected["difference"]
    assert rows[1]["versus_difference"] == pytest.approx(rows[1]["auroc"] - rows[0]["auroc"])
    assert (rows[1]["versus_low"], rows[1]["versus_high"]) == (expected["low"], expected["high"])
    assert "versus_difference" not in rows[0] and rows[0]["accuracy"] == 0.9
    both = ranks.holm([rows[1]["versus_p_value"], rows[3]["versus_p_value"]])
    assert [rows[1]["versus_p_holm"], rows[3]["versus_p_holm"]] == list(both)


def test_repeats_have_means_and_deviations(tmp_path):
    write(tmp_path / "a/report", [0.5])
    write(tmp_path / "b/report", [1.0, 2.0, 1.5])
    rows = comparison.compare(
        *comparison.read([tmp_path / "a/report", tmp_path / "b/report"], ["energy"])
    )
    values = [r["auroc"] for r in rows_of(tmp_path / "b/report", "mnist")]
    base = rows_of(tmp_path / "a/report", "mnist")[0]["auroc"]
    assert rows[1]["auroc"] == pytest.approx(np.mean(values))
    assert rows[1]["auroc_std"] == pytest.approx(np.std(values, ddof=1))
    assert rows[1]["versus_difference"] == pytest.approx(np.mean(values) - base)
    assert rows[1]["versus_std"] == pytest.approx(np.std(values, ddof=1))
    assert "versus_p_value" not in rows[1]  # one training of the first says nothing of others
    text = comparison_page.markdown([], comparison_page.sections(rows, [], [], []))
    assert f"{np.mean(values):.3f} ({np.std(values, ddof=1):.3f})" in text


def test_repeats_are_compared_with_the_same_repeats(tmp_path):
    """Of more on one side all count, and of none in common no difference is made up."""
    write(tmp_path / "a/report", [0.5, 0.7])
    write(tmp_path / "b/report", [1.0])
    write(tmp_path / "c/report", [1.0, 2.0, 1.5])
    entries, sets = comparison.read([tmp_path / f"{n}/report" for n in "abc"], ["energy"])
    rows = {row["run"]: row for row in comparison.compare(entries, sets) if row["ood"] == "mnist"}
    difference = rows["b"]["auroc"] - rows["a"]["auroc"]  # of the means, as they are shown
    assert rows["b"]["versus_difference"] == pytest.approx(difference)
    first, *_ = rows_of(tmp_path / "a/report", "mnist")
    own = [row["auroc"] for row in rows_of(tmp_path / "c/report", "mnist")][:2]
    base = [row["auroc"] for row in rows_of(tmp_path / "a/report", "mnist")]
    expected = np.mean(np.subtract(own, base))
    assert rows["c"]["versus_difference"] == pytest.approx(expected)
    p_value = stats.ttest_rel(own, base).pvalue
    assert rows["c"]["versus_p_value"] == pytest.approx(p_value) == rows["c"]["versus_p_holm"] / 2
    same = comparison.compare([entries[0], dataclasses.replace(entries[0])], sets)
    assert same[1]["versus_difference"] == 0.0
    assert "versus_p_value" not in same[1]  # no spread is no certainty
    for number, entry in enumerate(entries):
        entry.groups = [g | {"repeat_id": 10 * number + g["repeat_id"]} for g in entry.groups]
    assert "versus_difference" not in comparison.compare([entries[0], entries[2]], sets)[1]


def test_a_score_that_one_repeat_lacks_is_compared_by_the_others(tmp_path):
    """It could not be fitted there, and was left out with a note."""
    write(tmp_path / "a/report", [0.5, 0.6])
    write(tmp_path / "b/report", [1.0, 2.0])
    results = read_json(tmp_path / "b/report/results.json")
    results["groups"][0]["rows"] = []
    write_json(tmp_path / "b/report/results.json", results)
    entries, sets = comparison.read([tmp_path / f"{n}/report" for n in "ab"], ["energy"])
    rows = comparison.compare(entries, sets)
    own = [row["auroc"] for row in rows_of(tmp_path / "b/report", "mnist")][1]
    base = [row["auroc"] for row in rows_of(tmp_path / "a/report", "mnist")]
    assert rows[1]["repeats"] == 1 and rows[1]["auroc"] == own
    assert rows[1]["versus_difference"] == pytest.approx(own - base[1])  # of the same repeat
    assert "versus_p_holm" in rows[1]
    assert comparison.rankings(entries * 2, sets)[0][2].mean_ranks.tolist() == [3.5, 1.5, 3.5, 1.5]


def test_values_of_another_report_are_refused(tmp_path):
    """A kill between the two files, or two evaluations into one folder."""
    write(tmp_path / "a/report", [0.5])
    write(tmp_path / "b/report", [1.0])
    shutil.copy(tmp_path / "b/report/values.npz", tmp_path / "a/report/values.npz")
    with pytest.raises(RunError, match="parts of two reports. Evaluate the run again"):
        comparison.read([tmp_path / "a/report"], ["energy"])


@pytest.mark.parametrize(
    "damage",
    [lambda known: {}, lambda known: [], lambda known: known | {"groups": []},
     lambda known: known | {"groups": [{}]}, lambda known: known | {"groups": {"a": 1}},
     lambda known: {"groups": [known["groups"][0] | {"rows": [{"score": "energy"}]}]},
     lambda known: {"groups": [known["groups"][0] | {"test_sets": ["mnist"]}]}],
)  # fmt: skip
def test_a_file_of_other_content_is_named(damage, tmp_path):
    write(tmp_path / "a/report", [0.5])
    path = tmp_path / "a/report/results.json"
    write_json(path, damage(read_json(path)))
    with pytest.raises(RunError, match=r"results.json cannot be read as a report .* again"):
        comparison.read([tmp_path / "a/report"], ["energy"])


def rows_of(folder, ood):
    rows = [row for row in read_csv(folder / "results.csv") if row["ood"] == ood]
    return [row | {"auroc": float(row["auroc"])} for row in rows]


def test_the_binary_writes_table_and_figure_of_the_common_sets(tmp_path):
    write(tmp_path / "a/report", [0.5])
    write(tmp_path / "a/report_best", [0.7], sets=("mnist",))
    reports = f"{tmp_path}/a/report,{tmp_path}/a/report_best"
    done = command("ood_suite.compare", f"--reports={reports}", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert "| a (best) | mnist |" in done.stdout and "noise" not in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "comparison.csv", "comparison.html", "comparison.json", "comparison.md", "comparison.png",
    }  # fmt: skip


def test_a_score_with_parameters_is_asked_for_as_eval_is(tmp_path):
    write(tmp_path / "a/report", [0.5])
    asked = "--scores=HIMPLoS(mask_percentile=60,clip=1.6)"
    done = command("ood_suite.compare", f"--reports={tmp_path}/a/report", asked)
    assert "'himplos(mask_percentile=60,clip=1.6)'. Known: energy" in done.stderr


def test_ranks_means_and_costs_of_three_runs(tmp_path):
    shifts = {"a": [0.3, 0.4, 0.2], "b": [1.5, 1.6, 1.4], "c": [0.9, 0.8, 1.0]}
    for number, (name, own) in enumerate(shifts.items()):
        write(tmp_path / name / "report", own, seed=number)
    entries, sets = comparison.read([tmp_path / n / "report" for n in shifts], ["energy"])
    text = comparison_page.write(tmp_path / "out", entries, sets)
    found = read_json(tmp_path / "out/comparison.json")
    # Two sets in three repeats are six blocks.
    rows = {name: read_csv(tmp_path / name / "report/results.csv") for name in shifts}
    by_hand = np.array([[float(r["auroc"]) for r in rows[name]] for name in shifts]).T
    expected = ranks.rank(by_hand)
    (ranked,) = found["ranks"]
    assert ranked["name"] == "ranks" and ranked["blocks"] == 6
    assert ranked["mean_ranks"] == pytest.approx(expected.mean_ranks)
    assert ranked["p_value"] == pytest.approx(expected.p_value)
    assert f"6 blocks, Friedman chi2 {expected.statistic:.2f}" in text
    assert (tmp_path / "out/ranks.png").stat().st_size > 1000
    best = ("abc")[int(np.argmin(expected.mean_ranks))]
    assert f"Best mean rank: {best}, {expected.mean_ranks.min():.2f}; told from" in text
    web = (tmp_path / "out/comparison.html").read_text()
    assert web.count("<img") == 2 and web.index("Best mean AUROC") < web.index("<table")
    assert f"Friedman chi2 {expected.statistic:.2f}" in web
    means = {(row["run"], row["mean"]): row["auroc"] for row in found["means"]}
    near = [float(r["auroc"]) for r in rows["a"] if r["ood"] == "noise"]
    assert means["a", "near"] == pytest.approx(np.mean(near))
    assert means["a", "all"] == pytest.approx((means["a", "near"] + means["a", "far"]) / 2)
    comparison_page.write(tmp_path / "out", entries[:2], sets)
    assert not (tmp_path / "out/ranks.png").exists()  # of those three
    assert found["costs"][0] == {
        "run": "a", "fit_seconds": 2.0, "score_seconds_per_10000": 2.0, "learned_mib": 0.5,
    }  # fmt: skip


@pytest.mark.skipif(browser.BROWSER is None, reason="there is no Chromium to look with")
@pytest.mark.parametrize("width", browser.WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_can_be_read(tmp_path, width, dark):
    for number, name in enumerate(["a", "b", "a_run_of_a_long_name" * 4]):
        write(tmp_path / name / "report", [0.3 * number, 0.5 * number], seed=number)
    reports = [path.parent for path in tmp_path.rglob("report.html")]
    comparison_page.write(tmp_path / "out", *comparison.read(reports, ["energy"]))
    text = (tmp_path / "out/comparison.html").read_text()
    browser.require_readable(text, tmp_path, width, dark)


def test_names_with_dollars_are_no_formulas(tmp_path):
    """matplotlib took what stands between two for one, and neither page was written."""
    ood = "cost_$5_vs_$6"
    for number in range(3):
        write(tmp_path / f"a$_${number}" / "report", [0.5 * number], (ood, "noise"), seed=number)
    reports = sorted(path.parent for path in tmp_path.rglob("results.json"))
    comparison_page.write(tmp_path / "out", *comparison.read(reports, ["energy"]))
    assert (tmp_path / "out/ranks.png").exists() and (tmp_path / "out/comparison.html").exists()
    own, values = write(tmp_path / "b", [1.0], (ood,))[0]
    rows = [{"score": "s", "shift": f"{ood}_{level}", "flagged": 0.5} for level in range(1, 3)]
    drawn = {
        "histogram": figures.histograms("s", own, values, 0.0),
        "curves": figures.curves(ood, {"s": (own, values[ood])}),
        "overview": figures.overview({"s": {ood: 0.5, "noise": 0.5}}),
        "risk_coverage": diagrams.risk_coverage({"s": (own, values)}, own > 0.0),
        "shifts": diagrams.shifts([{"score": "s", "shift": "clean", "flagged": 0.5}, *rows]),
    }
    found = report.GroupReport(0, [], [], None, [], drawn, "s", test_sets={ood: "mark"})
    report.write(tmp_path / "c", CONFIG, [found])
    assert (tmp_path / "c/report.html").read_text().count("<img") == len(drawn)


def test_what_is_said_of_ranks():
    def ranking(p_value, pairs):
        return ranks.Ranking(
            mean_ranks=np.array([2.0, 1.0, 3.0]), statistic=1.0, p_value=p_value,
            pairs=np.array(pairs), critical_difference=1.0, blocks=6,
        )  # fmt: skip

    row = {"run": "b", "mean": "all", "auroc": 0.9}
    far, near = [[1, 0.01, 0.5], [0.01, 1, 0.2], [0.5, 0.2, 1]], np.full((3, 3), 0.001)
    for p_value, pairs, said in (
        (0.3, near, "Ranks are not told apart (Friedman's p is 0.3)."),
        (0.01, near, "Best mean rank: b, 1.00; told from all others (5%, Conover, Holm)."),
        (0.01, far, "Best mean rank: b, 1.00; told from all but c (5%, Conover, Holm)."),
        (0.01, np.ones((3, 3)), "told from none of the others (5%, Conover, Holm)."),
    ):
        ranked = [("ranks", ["a", "b", "c"], ranking(p_value, pairs))]
        assert comparison_page.verdict([], [row], ranked)[1].endswith(said)


def test_old_reports_have_neither_near_sets_nor_costs(tmp_path):
    for name in "ab":
        write(tmp_path / name / "report", [0.5])
        (tmp_path / name / "report/costs.csv").unlink()
        path = tmp_path / name / "report/results.json"
        path.write_text(path.read_text().replace('"near"', '"other"'))
    entries, sets = comparison.read([tmp_path / n / "report" for n in "ab"], ["energy"])
    text = comparison_page.write(tmp_path / "out", entries, sets)
    assert "| a | all (2) |" in text and "Costs" not in text and "Ranks" not in text


def test_refusals(tmp_path):
    write(tmp_path / "a/report", [0.5])
    write(tmp_path / "b/report", [0.5], sets=("letters",))
    both = [tmp_path / "a/report", tmp_path / "b/report"]
    with pytest.raises(RunError, match="have no OOD set in common"):
        comparison.read(both, ["energy"])
    with pytest.raises(ValueError, match="Unknown score of .*a/report 'msp'. Known: energy"):
        comparison.read(both[:1], ["msp"])
    with pytest.raises(ValueError, match="'enrgy'. Did you mean energy?"):
        comparison.read(both[:1], ["enrgy"])
    assert comparison.read(both[:1], ["Energy"])[0][0].score == "energy"
    with pytest.raises(RunError, match="holds no report"):
        comparison.read([tmp_path], ["energy"])
    with pytest.raises(ValueError, match="given twice"):
        comparison.read([both[0], both[0]], ["energy"])
    text = (both[0] / "results.json").read_text()
    write(tmp_path / "c/report", [0.5])
    (tmp_path / "c/report/results.json").write_text(text.replace("mnist data", "other"))
    with pytest.raises(RunError, match="are about different test sets: mnist"):
        comparison.read([both[0], tmp_path / "c/report"], ["energy"])
