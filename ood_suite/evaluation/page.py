"""report.html: the verdict first, then one sorted table, the details, the figures. One file, which
needs no network and is read on paper, on a phone and at night.
"""

import base64
import datetime
import io
import re
import sys

import jinja2
import numpy as np
from matplotlib.text import Text

from ood_suite.evaluation import shifted, unit_tests, verdict

# Column titles; the positive class stands beside every number that depends on it.
TITLES = {
    "auroc": "AUROC", "aupr_in": "AUPR in", "aupr_out": "AUPR out", "detection_error": "det. error",
    "fpr95_id_positive": "FPR95 ID+", "fpr95_ood_positive": "FPR95 OOD+", "autc": "AUTC",
    "oscr": "OSCR", "augrc": "AUGRC", "scod_augrc": "SCOD AUGRC", "accepted": "ID accepted",
}  # fmt: skip
LEGEND = (
    "Scores are higher = more OOD. AUPR in / out: ID / OOD is the positive class (step sum). "
    "FPR95 ID+: share of OOD accepted at the threshold that accepts 95% of ID. "
    "FPR95 OOD+: share of ID rejected at the threshold that catches 95% of OOD. "
    "In brackets 95% intervals: DeLong on the logit scale for AUROC, stratified bootstrap for the "
    "others (docs/intervals.md); they speak of the test examples, not of the training. "
    "OSCR: area under the rate of accepted and correctly classified ID "
    "against the rate of accepted OOD. AUTC, AUGRC, SCOD: docs/evaluation.md. ID accepted: share "
    "of ID test examples within the threshold, which accepts 95% of the held-out ones."
)
OURS = ("ood_suite", "classifier_ood", "images_ood", "genomics_ood")
WIDE = 800  # pixels beyond which a figure has a line to itself
LEAST = 0.0001  # p value that is shown
SHOWN = ("auroc", "fpr95_id_positive")  # in the table of all scores
CAPTIONS = {
    "comparison": "AUROC of all that are compared, on each OOD set.",
    "complexity": "Log-likelihood against the PNG code length of each image.",
    "curves": "ROC and precision-recall curves of the best scores.",
    "gallery": "The most OOD of the ID and the least OOD of the OOD images, by the best score.",
    "heat_maps": "Log-probability and its ratio, pixel by pixel.",
    "histogram": "Scores of ID and OOD examples, with the threshold.",
    "histograms": "Scores of ID and OOD examples, with the thresholds.",
    "images": "The least and the most OOD images of a set.",
    "overview": "AUROC of every score on every OOD set; 0.5 is chance.",
    "ranks": "Mean ranks; what a bar joins is not told apart.",
    "risk_coverage": "Share of mistakes among what is accepted, against the share accepted.",
    "distance": "AUROC of each OOD class against its taxonomic distance from the ID classes.",
    "gc_content": "Scores against the GC content of the reads.",
    "shifts": "What becomes of the ID images under shifts, by severity.",
    "tracks": "Log-probability, or its ratio, along a few reads of each set.",
    "training": "Validation accuracy, or bits per dimension or base, over the training.",
    "tuning": "Validation AUROC over the grid of parameters.",
}


def render(config, reports, pictures, *, protocol=None):
    """The page as text.

    Args:
        config: of the run. reports: GroupReports of the repeats. pictures: {name: PNG bytes}.
        protocol: {"title", "rows"} of a paper's protocol, see side_by_side.
    """
    settings, first = config["settings"], reports[0]
    sets = list(dict.fromkeys(row["ood"] for row in first.rows if row["ood"] in first.test_sets))
    against = f" against {', '.join(sets)}" if sets else ", no OOD data"
    return template("report.html").render(
        title=f"{settings.get('exp', 'evaluation')}: {settings.get('id_dataset') or 'ID'}{against}",
        command=command(),
        verdict=verdict.in_words(reports),
        is_recommended=bool(first.verdict),
        facts=_facts(config, reports),
        notes=list(dict.fromkeys(verdict.sentence(n) for r in reports for n in r.notes)),
        overview=_overview(reports, sets),
        tables=[_table(reports, ood) for ood in dict.fromkeys(r["ood"] for r in first.rows)],
        legend=LEGEND,
        choices=[(report.repeat_id, report.chosen, report.choice) for report in reports],
        tuned=[row for report in reports for row in report.tuned],
        of_first=verdict.of_first(reports),
        shifted=shifted.of_best(first),
        unit_tests=unit_tests.failures(first),
        next_command=first.next_command,
        protocol=protocol,
        figures=shown(pictures),
        record=settings | config["versions"] | {"git commit": config["git_commit"]},
    )


def template(name):
    """One of templates/, which takes all text as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ood_suite.evaluation"), autoescape=True,
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template(name)


def command():
    """The words that a page was asked for with; none where no binary of ours asked."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name if spec else ""
    return ["python", "-m", name, *sys.argv[1:]] if name.partition(".")[0] in OURS else []


def now():
    """When a page was made."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def shown(pictures):
    """[(caption, address, is wide)] of figures, the overview first.

    Args:
        pictures: {name: PNG bytes}.
    """
    return [
        (caption(name), encoded(pictures[name]), width(pictures[name]) > WIDE)
        for name in sorted(pictures, key=lambda name: "overview" not in name)
    ]


def _facts(config, reports):
    """[(title, text)] of what was done, when, with what."""
    first = reports[0]
    data = first.data
    sizes = {part: f"{found.get('dataset', '')}: {found['n']}" for part, found in data.items()}
    oods = [text for part, text in sizes.items() if part.startswith("ood:")]
    facts = [
        ("date", now()),
        ("ID test examples", sizes.get("id_test", "")),
        ("held-out examples", sizes.get("held_out", "")),
        ("OOD test examples", ", ".join(oods) or "none"),
        ("repeats", str(len(reports))),
    ]
    names = {"accuracy": "ID accuracy", "expected_calibration_error": "calibration error"}
    for key in first.classifier:
        value = np.mean([report.classifier[key] for report in reports])
        facts.append((names.get(key, key), f"{value:.4f}"))
    return [(title, text) for title, text in facts if text]


def _overview(reports, sets):
    """{"columns", "rows"} of one sorted table: means first, then AUROC by set, threshold."""
    names, chosen = verdict.ranked(reports), reports[0].verdict.get("score")
    means = list(dict.fromkeys(r["ood"] for r in reports[0].rows if r["ood"] not in sets and sets))
    means.sort(key=lambda title: not title.startswith("mean of all"))
    shown = [(metric, ood) for ood in means for metric in SHOWN]
    shown += [(metric, ood) for ood in sets for metric in SHOWN[: 1 if means else 2]]
    columns = [f"{TITLES[metric]}, {ood.split(' (')[0]}" for metric, ood in shown]
    columns += [f"threshold{verdict.of_first(reports)}", TITLES["accepted"]]
    rows = []
    for name in names:
        every = (row for report in reports for row in report.rows if "threshold" in row)
        own = next(row for row in every if row["score"] == name)
        cells = [cell(reports, name, ood, metric) for metric, ood in shown]
        cells += [f"{own['threshold']:.5g}{_of_other(own, reports)}"]
        cells += [cell(reports, name, own["ood"], "accepted")]
        rows.append({"name": name, "cells": cells, "is_best": name == chosen})
    return {"columns": columns, "rows": rows}


def _table(reports, ood):
    """{"title", "columns", "rows"} of one OOD set, or of a mean over sets."""
    first = reports[0]
    found = next(row for row in first.rows if row["ood"] == ood)
    metrics = [metric for metric in TITLES if metric in found]
    rows = []
    for name in verdict.ranked(reports):
        cells = [cell(reports, name, ood, metric) for metric in metrics]
        cells.insert(1, _difference(reports, name, ood))  # beside the AUROC, which it is about
        rows.append({"name": name, "cells": cells})
    counts = f" ({found['num_ood']} examples)" if "num_ood" in found else ""
    columns = [TITLES[metric] for metric in metrics]
    columns.insert(1, f"minus baseline's{verdict.of_first(reports)}")
    return {"title": f"ID against {ood}{counts}", "columns": columns, "rows": rows}


def _difference(reports, name, ood):
    row: dict = next(iter(verdict.rows_of(reports, name, ood)), {})
    if "versus_difference" not in row:
        return "baseline" if name == reports[0].baseline else ""
    p_value = row.get("versus_p_holm", row["versus_p_value"])
    return (
        f"{row['versus_difference']:+.3f} [{row['versus_low']:+.3f}, {row['versus_high']:+.3f}] "
        f"{f'p={p_value:.1g}' if p_value >= LEAST else f'p<{LEAST:.1g}'}{_of_other(row, reports)}"
    )


def _of_other(row, reports):
    """What marks a row of another repeat below a head that says "first repeat"."""
    return "" if row["repeat"] == reports[0].repeat_id else f" (repeat {row['repeat']})"


def cell(reports, score, ood, metric):
    """A number with its interval, or its standard deviation over repeats; it says where not all of
    them have the score. Empty where none has it on that set.
    """
    rows = verdict.rows_of(reports, score, ood)
    values = [row[metric] for row in rows]
    if not values:
        return ""
    some = "" if len(rows) == len(reports) else f", {len(rows)} of {len(reports)} repeats"
    if len(values) > 1:
        return f"{np.mean(values):.4f} ({np.std(values, ddof=1):.4f}{some})"
    if some:
        return f"{values[0]:.4f} ({some[2:]})"
    if f"{metric}_low" not in rows[0]:
        return f"{values[0]:.4f}"
    return f"{values[0]:.4f} [{rows[0][f'{metric}_low']:.3f}, {rows[0][f'{metric}_high']:.3f}]"


def caption(name):
    """What a figure of that name shows, which is its text for those who cannot see it."""
    bare = re.sub(r"^repeat\d+_", "", name)
    repeat = name.removesuffix(bare).strip("_").replace("repeat", "repeat ")
    kinds = [kind for kind in CAPTIONS if f"{bare}_".startswith(f"{kind}_")]
    kind = max(kinds, key=len, default="")
    about = ", ".join(filter(None, [bare[len(kind) :].strip("_"), repeat]))
    text = CAPTIONS.get(kind, "Figure.")
    return f"{text.rstrip('.')}: {about}." if about else text


def png(figure):
    """A figure as bytes. Names of data sets and runs stand in it: a $ begins no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def width(data):
    """Of a PNG, in pixels: it stands in its first chunk."""
    return int.from_bytes(data[16:20])


def encoded(data):
    """Bytes of a PNG as an address that holds them."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
