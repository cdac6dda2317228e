"""What an evaluation says in a terminal of 100 columns: the verdict, the best scores, the notes."""

import textwrap

import numpy as np

from ood_suite.evaluation import shifted, unit_tests, verdict

WIDTH = 100
MANY = 8  # scores that are shown unless all are asked for
SETS = 5  # OOD sets whose columns fit beside the names
NAME = 32
TITLES = {
    "auroc": "AUROC", "fpr95_id_positive": "FPR95 ID+", "fpr95_ood_positive": "FPR95 OOD+",
    "aupr_in": "AUPR in", "aupr_out": "AUPR out", "accepted": "accepted",
}  # fmt: skip


def text(reports, folder, *, everything=False):
    """All of it, as one string.

    Args:
        reports: of the repeats. folder: of the report. everything: whether all scores are shown.
    """
    first = reports[0]
    names = verdict.ranked(reports)
    shown = names if everything else names[:MANY]
    lines = ["", *_wrapped(f"VERDICT  {verdict.in_words(reports)}")]
    lines += [""] if first.classifier else []
    for key in first.classifier:
        value = np.mean([report.classifier[key] for report in reports])
        lines.append(f"ID {key.replace('_', ' ')}: {value:.4f}")
    sets = list(dict.fromkeys(row["ood"] for row in first.rows))
    tested = [ood for ood in sets if ood in first.test_sets]
    if len(tested) > 1:
        sizes = {r["ood"]: r for r in first.rows if r["ood"] in tested}
        listed = ", ".join(f"{ood} ({sizes[ood]['num_ood']} examples)" for ood in tested)
        lines += _wrapped(f"OOD: {listed}; ID: {sizes[tested[0]]['num_id']} examples")
        for metric in ("auroc", "fpr95_id_positive"):
            lines += ["", f"{TITLES[metric]}, means first", *_overview(reports, shown, metric)]
    for ood in tested if len(tested) <= 2 or everything else ():
        lines += _of_set(reports, shown, ood)
    for ood in (ood for ood in sets if not tested):
        lines += _of_set(reports, shown, ood)
    if len(shown) < len(names):
        lines.append(f"  ... and {len(names) - len(shown)} more scores: --all shows them.")
    lines += _choices(reports)
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        lines += _wrapped(f"Note: {verdict.sentence(note)}")
    tables = shifted.table(first), unit_tests.table(first, None if everything else MANY)
    for blank, head, *rest in filter(None, tables):
        for line in (blank, f"{head}{verdict.of_first(reports)}", *rest):
            lines += _wrapped(line) or [""]
    lines += ["", *_wrapped(_cells(reports)), "", f"Report:   {folder}/report.html"]
    lines += [f"Detector: {first.next_command}"] if first.next_command else []  # to be pasted
    return "\n".join([*lines, ""])


def _cells(reports):
    spread = "(standard deviation over repeats)" if len(reports) > 1 else "[95% interval]"
    return (
        f"Higher scores are more OOD. Cells: value {spread}. FPR95 ID+ is the share of OOD data "
        "accepted where 95% of ID data are; accepted is that of ID data within the threshold. All "
        "metrics: results.csv; what they mean: docs/evaluation.md."
    )


def _wrapped(line):
    return textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_long_words=False)


def _cut(name, width):
    return name if len(name) <= width else f"{name[: width - 2]}.."


def _overview(reports, names, metric):
    """Lines of a table of scores by OOD sets, of one metric."""
    first = reports[0]
    sets = list(dict.fromkeys(r["ood"] for r in first.rows if r["ood"] in first.test_sets))
    near = [ood for ood in sets if ood in first.near]
    groups = {"mean": sets}
    if near and len(near) < len(sets):
        groups |= {"near": near, "far": [ood for ood in sets if ood not in near]}
    columns = groups | {ood: [ood] for ood in sets[:SETS]}
    width = (WIDTH - NAME) // len(columns)
    head = "".join(f"{_cut(title, width - 1):>{width}}" for title in columns)
    yield f"  {'score':<{NAME - 2}}{head}"
    for name in names:
        cells = []
        for members in columns.values():
            found = [_value(reports, name, ood, metric)[0] for ood in members]
            cells.append(f"{np.mean(found):>{width}.4f}")
        yield f"  {_cut(name, NAME - 3):<{NAME - 2}}{''.join(cells)}"
    if len(sets) > SETS:
        yield f"  ... and {len(sets) - SETS} more OOD sets: see the report."


def _of_set(reports, names, ood):
    """Lines of one OOD set: all that fits of each score."""
    row = next(row for row in reports[0].rows if row["ood"] == ood)
    counts = f"ID ({row['num_id']} examples)"
    against = f" ({row['num_ood']} examples) against" if "num_ood" in row else ","
    yield from ("", f"OOD: {ood}{against} {counts}")
    metrics = [metric for metric in TITLES if metric in row]
    yield f"  {'score':<20}" + "".join(
        f"{TITLES[metric]:>{23 if metric == 'auroc' else 11}}" for metric in metrics
    )
    for name in names:
        cells = ""
        for metric in metrics:
            value, spread = _value(reports, name, ood, metric)
            cells += f"{f'{value:.4f} {spread}':>23}" if metric == "auroc" else f"{value:>11.4f}"
        start = f"  {name}" if len(name) > 19 else f"  {name:<20}"
        yield start + (f"\n{'':<22}{cells}" if len(name) > 19 else cells)


def _value(reports, name, ood, metric):
    """(mean over the repeats that have the score there, its spread in brackets); (nan, "") if none
    has.
    """
    rows = verdict.rows_of(reports, name, ood)
    values = [row[metric] for row in rows]
    some = "" if len(rows) == len(reports) else f"{len(rows)} of {len(reports)}"
    if len(values) > 1:
        spread = f"{np.std(values, ddof=1):.4f}"
        return np.mean(values), f"({', '.join(filter(None, (spread, some)))})"
    if not values:
        return np.nan, ""
    if some:
        return values[0], f"({some} repeats)"
    if f"{metric}_low" not in rows[0]:
        return values[0], ""
    return values[0], f"[{rows[0][f'{metric}_low']:.3f}, {rows[0][f'{metric}_high']:.3f}]"


def _choices(reports):
    """Lines on what validation data chose."""
    lines = []
    for group in reports:
        if group.choice:
            best = max(row["validation_auroc"] for row in group.choice)
            lines += ["", *_wrapped(
                f"Background of repeat {group.repeat_id}: {group.chosen}, chosen of "
                f"{len(group.choice)} on validation OOD {group.choice[0]['validation_ood']} "
                f"(AUROC {best:.4f})."
            )]  # fmt: skip
        for row in group.tuned:
            edge, default = row["at_the_grid_edge"], row["with_defaults"]
            before = "the defaults do not fit" if default is None else f"{default:.4f} by default"
            lines += _wrapped(
                f"Tuned: {row['score']} with {row['chosen']} (validation AUROC "
                f"{row['validation_auroc']:.4f}, {before}"
                f"{f'; at the edge of its grid: {edge}' if edge else ''})."
            )
    return lines
