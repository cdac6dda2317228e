"""The report of an evaluation: terminal table, results.csv, results.json, self-contained
report.html, figures.
"""

import base64
import dataclasses
import html
import io
import pathlib

import numpy as np

from ood_suite.files import atomic_path, write_csv, write_json, write_text
from ood_suite.runs.run import versions

# Column titles; the positive class stands beside every number that depends on it.
TITLES = {
    "auroc": "AUROC",
    "aupr_in": "AUPR in",
    "aupr_out": "AUPR out",
    "detection_error": "det. error",
    "fpr95_id_positive": "FPR95 ID+",
    "fpr95_ood_positive": "FPR95 OOD+",
    "oscr": "OSCR",
    "accepted": "ID accepted",
}
MANY = 8  # scores beyond which the terminal shows an overview
LEGEND = (
    "Scores are higher = more OOD. AUPR in / out: ID / OOD is the positive class (step sum). "
    "FPR95 ID+: share of OOD accepted at the threshold that accepts 95% of ID. "
    "FPR95 OOD+: share of ID rejected at the threshold that catches 95% of OOD. "
    "In brackets 95% intervals: DeLong on the logit scale for AUROC, stratified bootstrap for the "
    "others (docs/intervals.md); they speak of the test examples, not of the training. "
    "OSCR: area under the rate of accepted and correctly classified ID "
    "against the rate of accepted OOD. ID accepted: share of ID test examples within the "
    "threshold, which accepts 95% of the held-out ones."
)


@dataclasses.dataclass
class GroupReport:
    """What the evaluator found for one repeat.

    Attributes:
        rows: one dict per score and OOD set, and per score and mean over OOD sets (those have no
            intervals). choice: one dict per background model, with its validation AUROC.
        chosen: name of the chosen background or None. notes: what a reader must know of the data.
        tuned: one dict per tuned score. classifier: accuracy and calibration of the classifier.
        figures: {name: matplotlib Figure}. baseline: the score that others are compared with.
        values: {score: (its values on the ID test set, {OOD set: its values})}.
        test_sets: {"id" or OOD set: fingerprint}. by_class: one dict per score and OOD class.
        near: names of the near OOD sets. costs: see costs.Costs.rows. shifted, full_spectrum: see
            shifted. unit_tests: see unit_tests.rows. data: {part of the data: its name, split, size
            and fingerprint}.
    """

    repeat_id: int
    rows: list
    choice: list
    chosen: str | None
    notes: list
    figures: dict
    baseline: str
    tuned: list = dataclasses.field(default_factory=list)
    classifier: dict = dataclasses.field(default_factory=dict)
    values: dict = dataclasses.field(default_factory=dict)
    test_sets: dict = dataclasses.field(default_factory=dict)
    by_class: list = dataclasses.field(default_factory=list)
    near: list = dataclasses.field(default_factory=list)
    costs: list = dataclasses.field(default_factory=list)
    shifted: list = dataclasses.field(default_factory=list)
    full_spectrum: list = dataclasses.field(default_factory=list)
    unit_tests: list = dataclasses.field(default_factory=list)
    data: dict = dataclasses.field(default_factory=dict)


def _metrics(report):
    """Names of the metrics in the rows of a report."""
    return [metric for metric in TITLES if metric in report.rows[0]]


def _sets(report):
    """The OOD sets of a report, and their means, in order."""
    return list(dict.fromkeys(row["ood"] for row in report.rows))


def terminal_table(reports):
    """The table as text: one line per score and OOD set (mean and standard deviation if there are
    repeats).
    """
    first = reports[0]
    lines = []
    for key, value in first.classifier.items():
        lines.append(f"ID {key.replace('_', ' ')}: {value:.4f}")
    names = list(dict.fromkeys(row["score"] for row in first.rows))
    if len(names) > MANY:
        lines += _overview(reports, names)
    for ood in _sets(first) if len(names) <= MANY else ():
        row = next(row for row in first.rows if row["ood"] == ood)
        lines += ["", f"OOD: {ood}{_counts(row)}"]
        found = [metric for metric in _metrics(first) if metric in row]
        cells = {name: [_cell(reports, name, ood, metric) for metric in found] for name in names}
        lines += _aligned([TITLES[metric] for metric in found], cells)
    for group in reports:
        if group.choice:
            best = max(row["validation_auroc"] for row in group.choice)
            lines += [
                "",
                f"Background of repeat {group.repeat_id}: {group.chosen}, chosen of "
                f"{len(group.choice)} on validation "
                f"OOD {group.choice[0]['validation_ood']} (AUROC {best:.4f}).",
            ]
        for row in group.tuned:
            edge = row["at_the_grid_edge"]
            warning = f"; at the edge of its grid: {edge}" if edge else ""
            default = row["with_defaults"]
            against = (
                "the defaults do not fit" if default is None else f"{default:.4f} with the defaults"
            )
            lines.append(
                f"Tuned: {row['score']} with {row['chosen']} (validation AUROC "
                f"{row['validation_auroc']:.4f}, {against}{warning})."
            )
    lines += [
        f"Note: {note}." for note in dict.fromkeys(n for group in reports for n in group.notes)
    ]
    brackets = "mean (standard deviation over repeats)" if len(reports) > 1 else "[95% interval]"
    return "\n".join([*lines, "", f"Cells: {brackets}. {LEGEND}", ""])


def _aligned(titles, cells):
    """Lines of a table of scores, from titles of columns and {score: its cells}."""
    width = max(map(len, cells)) + 2
    rows = {"score": titles} | cells
    return [f"  {name:<{width}}" + "".join(f"{c:>23}" for c in row) for name, row in rows.items()]


def _counts(row):
    """How many examples a row is about, if it is no mean over data sets."""
    if "num_ood" not in row:
        return ""
    return f" ({row['num_ood']} examples) against ID ({row['num_id']} examples)"


def _overview(reports, names):
    """Lines of one table per metric, scores by OOD sets: what a terminal can hold."""
    sets = _sets(reports[0])
    lines = []
    for metric in ("auroc", "fpr95_id_positive"):
        lines += ["", f"{TITLES[metric]} (all other metrics: results.csv and report.html)"]
        titles = [ood.split(" (")[0] for ood in sets]
        cells = {name: [_cell(reports, name, ood, metric) for ood in sets] for name in names}
        lines += _aligned(titles, cells)
    lines += [
        "",
        *(f"{ood}{_counts(next(r for r in reports[0].rows if r['ood'] == ood))}" for ood in sets),
    ]
    return lines


def _cell(reports, score, ood, metric):
    rows = [r for group in reports for r in group.rows if (r["score"], r["ood"]) == (score, ood)]
    values = [row[metric] for row in rows]
    if len(values) > 1:
        return f"{np.mean(values):.4f} ({np.std(values, ddof=1):.4f})"
    if f"{metric}_low" not in rows[0]:
        return f"{values[0]:.4f}"
    return f"{values[0]:.4f} [{rows[0][f'{metric}_low']:.3f}, {rows[0][f'{metric}_high']:.3f}]"


def over_repeats(reports):
    """Rows of mean and standard deviation over repeats: one per score and OOD set; none for a
    single repeat.
    """
    if len(reports) < 2:
        return []
    summary = []
    for score, ood in dict.fromkeys((row["score"], row["ood"]) for row in reports[0].rows):
        rows = [r for g in reports for r in g.rows if (r["score"], r["ood"]) == (score, ood)]
        entry = {"score": score, "ood": ood, "repeats": len(rows)}
        for metric in _metrics(reports[0]):
            values = [row[metric] for row in rows]
            entry |= {
                f"{metric}_mean": float(np.mean(values)),
                f"{metric}_std": float(np.std(values, ddof=1)),
            }
        summary.append(entry)
    return summary


def write(folder, config, reports):
    """Writes results.csv, results.json, by_class.csv (where OOD classes have names), costs.csv,
    values.npz (every score of every test example), report.html and figures/*.png into `folder`,
    each file atomically.
    """
    folder = pathlib.Path(folder)
    write_csv(folder / "results.csv", [row for group in reports for row in group.rows])
    by_class = [{"repeat": group.repeat_id} | row for group in reports for row in group.by_class]
    if by_class:
        write_csv(folder / "by_class.csv", by_class)
    costs = [{"repeat": group.repeat_id} | row for group in reports for row in group.costs]
    if costs:  # apart from the results, which come out the same again
        write_csv(folder / "costs.csv", costs)
    results = {
        "config": config,
        "versions_of_evaluation": versions(),
        "groups": [
            {k: v for k, v in vars(group).items() if k not in ("costs", "figures", "values")}
            for group in reports
        ],
        "over_repeats": over_repeats(reports),
    }
    write_json(folder / "results.json", results)
    with atomic_path(folder / "values.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **values_by_name(reports))
    pictures = {}
    for group in reports:
        for name, figure in group.figures.items():
            name = name if len(reports) == 1 else f"repeat{group.repeat_id}_{name}"
            pictures[name] = _png(figure)
            with atomic_path(folder / "figures" / f"{name}.png") as temporary:
                temporary.write_bytes(pictures[name])
    write_text(folder / "report.html", _html(config, reports, pictures))


def values_by_name(reports):
    """{"<repeat>/<score>/id" and "<repeat>/<score>/ood/<set>": float64 (n,)}."""
    found = {}
    for group in reports:
        for score, (own, ood) in group.values.items():
            found[f"{group.repeat_id}/{score}/id"] = own
            found |= {f"{group.repeat_id}/{score}/ood/{name}": x for name, x in ood.items()}
    return found


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1480px;margin:2em auto;"
    "padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0;font-size:12px;display:block;overflow-x:auto}"
    ".figures{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start}"
    "th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}small{color:#777}img{max-width:100%}"
    ".note{background:#fff6dd;padding:.5em 1em}details{margin:1em 0}"
    "pre{font-size:12px;white-space:pre-wrap}"
)


def _html(config, reports, pictures):
    settings = config["settings"]
    tested = [row["ood"] for row in reports[0].rows if "num_ood" in row]
    sets = f"{settings['id_dataset'] or 'ID'} against {', '.join(dict.fromkeys(tested))}"
    title = f"{settings.get('exp', 'evaluation')}: {sets}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    notes = dict.fromkeys(note for group in reports for note in group.notes)
    parts += [f'<p class="note">{html.escape(note)}.</p>' for note in notes]
    for key, value in reports[0].classifier.items():
        parts.append(f"<p>ID {html.escape(key.replace('_', ' '))}: <b>{value:.4f}</b></p>")
    if "overview" in pictures:
        parts.append(_image("overview", pictures["overview"]))
    for ood in _sets(reports[0]):
        parts.append(f"<h2>ID against {html.escape(ood)}</h2>" + _results_table(reports, ood))
    parts.append(f"<p><small>{html.escape(LEGEND)}</small></p>")
    for group in reports:
        if group.choice:
            parts.append(
                f"<h2>Choice of the background model (repeat {group.repeat_id})</h2>"
                f"<p>Chosen on validation data only: <b>{html.escape(group.chosen)}</b>.</p>"
            )
            parts.append(
                _table(list(group.choice[0]), [list(row.values()) for row in group.choice])
            )
        if group.tuned:
            parts.append("<h2>Parameters, tuned on validation data only</h2>")
            rows = [list(row.values()) for row in group.tuned]
            parts.append(_table([key.replace("_", " ") for key in group.tuned[0]], rows))
    images = [_image(name, data) for name, data in pictures.items() if name != "overview"]
    parts.append(f'<h2>Figures</h2><div class="figures">{"".join(images)}</div>')
    record = html.escape("\n".join(f"{k}: {v}" for k, v in (settings | config["versions"]).items()))
    parts.append(
        f"<details><summary>Settings and versions of the model</summary><pre>{record}\n"
        f"git commit: {config['git_commit']}</pre></details>"
    )
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html>{head}{body}\n"


def _image(name, data):
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{encoded}">'


def _results_table(reports, ood):
    names = dict.fromkeys(row["score"] for row in reports[0].rows)
    lines = []
    found = _metrics(reports[0])
    for name in names:
        line = [name] + [_cell(reports, name, ood, metric) for metric in found]
        row = next(r for r in reports[0].rows if (r["score"], r["ood"]) == (name, ood))
        if "versus_difference" in row:
            line.append(
                f"{row['versus_difference']:+.3f} "
                f"[{row['versus_low']:+.3f}, {row['versus_high']:+.3f}]"
                f" p={row['versus_p_value']:.1g}"
            )
        else:
            line.append("baseline" if name == reports[0].baseline else "")
        lines.append(line)
    titles = [
        "score",
        *(TITLES[metric] for metric in found),
        "AUROC minus baseline's" + (" (first repeat)" if len(reports) > 1 else ""),
    ]
    return _table(titles, lines)


def _table(titles, lines):
    def show(value):
        return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))

    head = "".join(f"<th>{show(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{show(v)}</td>" for v in line) + "</tr>" for line in lines
    )
    return f"<table><tr>{head}</tr>{body}</table>"
