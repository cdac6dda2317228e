"""False warnings stay below what is stated, by simulation; what changes is found."""

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats

from ood_suite.serving.monitoring import LEVEL, Monitor, decisions, evidence, figure, most_promised
from tests.support import command

HELD_OUT, RANK, WINDOW = 1000, 951, 200
QUESTIONS = ("alarms", "scores", "classes")


def watched(generator, windows, shift=0.0, classes=(0.5, 0.3, 0.2)):
    """A Monitor that has seen so many windows of normal scores, moved by `shift`."""
    held_out = generator.normal(size=HELD_OUT)
    own = generator.choice(3, HELD_OUT, p=(0.5, 0.3, 0.2))
    monitor = Monitor(held_out, own, [(HELD_OUT, RANK)], WINDOW)
    threshold, count = np.sort(held_out)[RANK - 1], windows * WINDOW
    scores = generator.normal(shift, 1.0, count)
    monitor.add(scores, scores > threshold, generator.choice(3, count, p=classes))
    return monitor


def test_false_warnings_are_as_rare_as_stated_however_often_one_looks():
    generator, repeats = np.random.default_rng(0), 300
    hits = dict.fromkeys(QUESTIONS, 0)
    for _ in range(repeats):
        found = {name for w in watched(generator, 15).windows for name in w.warnings()}
        for name in found:
            hits[name] += 1
    for name, share in zip(QUESTIONS, (2 * LEVEL, LEVEL, LEVEL), strict=True):
        assert hits[name] <= stats.binom(repeats, share).ppf(1 - 1e-6), name


def watched_by_class(generator, count, shift=0.0):
    """A Monitor of thresholds for each of three classes, of which the last shifts."""
    sizes, ranks = (500, 300, 200), (477, 287, 192)
    held_out = [generator.normal(size=size) for size in sizes]
    thresholds = [np.sort(own)[rank - 1] for own, rank in zip(held_out, ranks, strict=True)]
    own = np.repeat(np.arange(3), sizes)
    monitor = Monitor(np.concatenate(held_out), own, list(zip(sizes, ranks, strict=True)), WINDOW)
    labels = generator.choice(3, count, p=(0.5, 0.3, 0.2))
    scores = generator.normal(np.where(labels == 2, shift, 0.0))
    monitor.add(scores, scores > np.array(thresholds)[labels], labels)
    return monitor


def test_thresholds_by_class_are_watched():
    generator = np.random.default_rng(4)
    quiet = [watched_by_class(generator, 3000).windows for _ in range(100)]
    hits = sum(any("alarms" in w.warnings() for w in windows) for windows in quiet)
    assert hits <= stats.binom(100, 2 * LEVEL).ppf(1 - 1e-6)
    moved = [watched_by_class(generator, 3000, shift=2.5).windows for _ in range(20)]
    assert all(any("alarms" in w.warnings() for w in windows) for windows in moved)


@pytest.mark.parametrize(
    "question,change", [("alarms", {"shift": 0.6}), ("scores", {"shift": 0.4}),
                        ("classes", {"classes": (0.3, 0.3, 0.4)})],
)  # fmt: skip
def test_changes_are_found(question, change):
    generator = np.random.default_rng(1)
    found = [watched(generator, 8, **change).windows for _ in range(40)]
    caught = [any(question in w.warnings() for w in windows) for windows in found]
    assert np.mean(caught) > 0.9
    if question == "classes":
        assert {w.changed for windows in found for w in windows if "classes" in w.warnings()} <= {
            0,
            2,
        }


def test_the_martingale_is_the_integral_that_it_says():
    for alarms, count, promised in ((3, 20, 0.1), (0, 5, 0.2), (30, 40, 0.05)):

        def bet(q, k=alarms, n=count, u=promised):
            return (q / u) ** k * ((1 - q) / (1 - u)) ** (n - k) / (1 - u)

        expected = integrate.quad(bet, promised, 1)[0]
        assert np.exp(evidence(alarms, count, promised)) == pytest.approx(expected, rel=1e-6)


def test_the_martingale_wins_nothing_on_average():
    """Over all outcomes of n alarms of the promised probability its mean is 1, of fewer below."""
    counts = np.arange(101)
    values = np.exp(evidence(counts, 100, 0.05))
    assert stats.binom(100, 0.05).pmf(counts) @ values == pytest.approx(1.0)
    assert stats.binom(100, 0.03).pmf(counts) @ values < 1.0


def test_the_share_that_is_tested_against_holds_for_nearly_all_held_out_sets():
    generator = np.random.default_rng(2)
    shares = 1 - np.sort(generator.random((4000, 200)), axis=1)[:, 190 - 1]
    above = int((shares > most_promised(200, 190, 0.05)).sum())
    low, high = stats.binom(4000, 0.05).ppf([1e-6, 1 - 1e-6])
    assert low <= above <= high


def orders_as_far(count, new, distance):
    """Share of all orders of two samples whose distribution functions are so far from each other,
    by counting the paths that stay nearer.
    """
    paths = np.zeros((count + 1, new + 1))
    for i in range(count + 1):
        for j in range(new + 1):
            before = (i and paths[i - 1, j]) + (j and paths[i, j - 1])
            paths[i, j] = (abs(i / count - j / new) < distance - 1e-9) * (before or i == j == 0)
    return 1.0 - paths[-1, -1] / math.comb(count + new, new)


def test_a_small_window_is_tested_exactly():
    """Of one that the asymptotic formula warns of, at 1.2 times the level that is stated."""
    held_out, above = np.arange(100.0), 40
    new = above - 0.5 + np.arange(20) * (100 - above) / 20
    (window,) = Monitor(held_out, None, [(100, 96)], 20).add(new, np.zeros(20), np.zeros(20))
    assert window.scores_p == pytest.approx(orders_as_far(100, 20, above / 100))
    asymptotic = stats.ks_2samp(held_out, new, method="asymp").pvalue
    assert asymptotic < window.level < window.scores_p and "scores" not in window.warnings()


def test_decisions_are_read_as_they_were_written(tmp_path):
    table, lines = tmp_path / "d.tsv", tmp_path / "d.jsonl"
    table.write_text(
        "file\tclass\tscore\tp_value\tis_ood\na\tcat\t1.5\t0.2\t0\nb\tNA\tNA\tNA\tNA\n"
    )
    row = {"file": "a", "class": "cat", "score": 1.5, "p_value": 0.2, "is_ood": True}
    lines.write_text(json.dumps(row) + "\n" + json.dumps(row | {"score": None}) + "\n")
    assert list(decisions(table)) == [(2, 1.5, 0.2, False, "cat")]
    assert list(decisions(lines)) == [(1, 1.5, 0.2, True, "cat")]
    lines.write_text(json.dumps({"class": "cat", "score": 1.5, "is_ood": 0}) + "\n")
    assert list(decisions(lines)) == [(1, 1.5, None, False, "cat")]
    for text in ("file\tclass\tscore\nx\ty\tz\n", f'{json.dumps(row)}\n{{"score": "x"}}\n',
                 f'{json.dumps(row)}\n{{"score"\n'):  # fmt: skip
        lines.write_text(text)
        with pytest.raises(ValueError, match="line 2 is no decision"):
            list(decisions(lines))


def test_names_with_quotes_and_lines_that_are_cut(tmp_path):
    table = tmp_path / "d.tsv"
    head = "file\tclass\tscore\tp_value\tis_ood\n"
    table.write_text(head + '"a.png\tcat\t1.5\t0.2\t0\nb.png\tcat\t2.5\t0.1\t1\n')
    expected = [(2, 1.5, 0.2, False, "cat"), (3, 2.5, 0.1, True, "cat")]
    assert list(decisions(table)) == expected
    day = head + "a\tcat\t1.5\t0.2\t0\n"
    table.write_text(day + "\n" + day)  # of two days, joined
    assert list(decisions(table)) == [(line, 1.5, 0.2, False, "cat") for line in (2, 5)]
    table.write_text(head + "a\tcat\t1.5\t0.2\t0\ngarbage\n")
    with pytest.raises(ValueError, match="line 3 is no decision"):
        list(decisions(table))


def test_no_evidence_at_all_can_be_written():
    monitor = Monitor(np.arange(1000.0), None, [(1000, 950)], 20_000)
    (window,) = monitor.add(np.zeros(20_000), np.arange(20_000) < 200, np.zeros(20_000, int))
    assert window.log_evidence == -np.inf and "alarms" not in window.warnings()
    assert json.loads(json.dumps(window.as_json(), allow_nan=False))["log_evidence"] is None


def test_a_figure_of_all_windows():
    drawn = figure(watched(np.random.default_rng(3), 3))
    assert [len(axes.lines[0].get_xdata()) for axes in drawn.axes] == [3, 3, 3]


def test_the_binary_needs_a_detector_and_a_log(tmp_path):
    done = command("ood_suite.monitor", f"--detector={tmp_path}", f"--log={tmp_path}/d.tsv")
    assert done.returncode == 1 and "is no detector" in done.stderr
