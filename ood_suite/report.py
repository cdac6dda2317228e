"""The report of an evaluation: terminal table, results.csv, results.json, self-contained
report.html, figures.
"""

import base64
import dataclasses
import html
import io
import pathlib

import numpy as np

from ood_suite.metrics import METRICS
from ood_suite.runs import atomic_path, versions, write_csv, write_json, write_text

# Column titles; the positive class stands beside every number that depends on it.
TITLES = {
    "auroc": "AUROC",
    "aupr_in": "AUPR in",
    "aupr_out": "AUPR out",
    "detection_error": "det. error",
    "fpr95_id_positive": "FPR95 ID+",
    "fpr95_ood_positive": "FPR95 OOD+",
}
LEGEND = (
    "Scores are higher = more OOD. AUPR in / out: ID / OOD is the positive class (step sum). "
    "FPR95 ID+: share of OOD accepted at the threshold that accepts 95% of ID. "
    "FPR95 OOD+: share of ID rejected at the threshold that catches 95% of OOD. "
    "In brackets 95% intervals: DeLong for AUROC, stratified bootstrap for the others; they speak "
    "of the test examples, "
    "not of the training."
)


@dataclasses.dataclass
class GroupReport:
    """What the evaluator found for one repeat.

    Attributes:
        rows: one dict per score and OOD set. choice: one dict per background model, with its
            validation AUROC.
        chosen: name of the chosen background or None. notes: what a reader must know of the data.
        figures: {name: matplotlib Figure}. baseline: the score that others are compared with.
    """

    repeat_id: int
    rows: list
    choice: list
    chosen: str | None
    notes: list
    figures: dict
    baseline: str


def terminal_table(reports):
    """The table as text: one line per score and OOD set (mean and standard deviation if there are
    repeats).
    """
    lines = []
    for ood, num_id, num_ood in dict.fromkeys(
        (row["ood"], row["num_id"], row["num_ood"]) for row in reports[0].rows
    ):
        lines += ["", f"OOD: {ood} ({num_ood} images) against ID ({num_id} images)"]
        lines.append(f"  {'score':<18}" + "".join(f"{TITLES[m]:>23}" for m in METRICS))
        for name in dict.fromkeys(row["score"] for row in reports[0].rows):
            cells = [_cell(reports, name, ood, metric) for metric in METRICS]
            lines.append(f"  {name:<18}" + "".join(f"{cell:>23}" for cell in cells))
    for group in reports:
        if group.chosen:
            best = max(row["validation_auroc"] for row in group.choice)
            lines += [
                "",
                f"Background of repeat {group.repeat_id}: {group.chosen}, chosen of "
                f"{len(group.choice)} on validation "
                f"OOD {group.choice[0]['validation_ood']} (AUROC {best:.4f}).",
            ]
    lines += [
        f"Note: {note}." for note in dict.fromkeys(n for group in reports for n in group.notes)
    ]
    brackets = "mean (standard deviation over repeats)" if len(reports) > 1 else "[95% interval]"
    return "\n".join([*lines, "", f"Cells: {brackets}. {LEGEND}", ""])


def _cell(reports, score, ood, metric):
    rows = [r for group in reports for r in group.rows if (r["score"], r["ood"]) == (score, ood)]
    values = [row[metric] for row in rows]
    if len(values) > 1:
        return f"{np.mean(values):.4f} ({np.std(values, ddof=1):.4f})"
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
        for metric in METRICS:
            values = [row[metric] for row in rows]
            entry |= {
                f"{metric}_mean": float(np.mean(values)),
                f"{metric}_std": float(np.std(values, ddof=1)),
            }
        summary.append(entry)
    return summary


def write(folder, config, reports):
    """Writes results.csv, results.json, report.html and figures/*.png into `folder`, each file
    atomically.
    """
    folder = pathlib.Path(folder)
    write_csv(folder / "results.csv", [row for group in reports for row in group.rows])
    results = {
        "config": config,
        "versions_of_evaluation": versions(),
        "groups": [{k: v for k, v in vars(group).items() if k != "figures"} for group in reports],
        "over_repeats": over_repeats(reports),
    }
    write_json(folder / "results.json", results)
    pictures = {}
    for group in reports:
        for name, figure in group.figures.items():
            name = name if len(reports) == 1 else f"repeat{group.repeat_id}_{name}"
            pictures[name] = _png(figure)
            with atomic_path(folder / "figures" / f"{name}.png") as temporary:
                temporary.write_bytes(pictures[name])
    write_text(folder / "report.html", _html(config, reports, pictures))


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1280px;margin:2em auto;"
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
    sets = f"{settings['id_dataset']} against {', '.join(settings['ood_test'])}"
    title = f"{settings.get('exp', 'evaluation')}: {sets}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    notes = dict.fromkeys(note for group in reports for note in group.notes)
    parts += [f'<p class="note">{html.escape(note)}.</p>' for note in notes]
    for ood in dict.fromkeys(row["ood"] for row in reports[0].rows):
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
    images = [
        f'<img alt="{html.escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for name, data in pictures.items()
    ]
    parts.append(f'<h2>Figures</h2><div class="figures">{"".join(images)}</div>')
    record = html.escape("\n".join(f"{k}: {v}" for k, v in (settings | config["versions"]).items()))
    parts.append(
        f"<details><summary>Settings and versions of the foreground model</summary><pre>{record}\n"
        f"git commit: {config['git_commit']}</pre></details>"
    )
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html>{head}{body}\n"


def _results_table(reports, ood):
    names = dict.fromkeys(row["score"] for row in reports[0].rows)
    lines = []
    for name in names:
        line = [name] + [_cell(reports, name, ood, metric) for metric in METRICS]
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
        *TITLES.values(),
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
