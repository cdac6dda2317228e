"""The report of an evaluation as files: results.csv, results.json, report.html, figures."""

import dataclasses
import pathlib

import numpy as np

from ood_suite.evaluation import page
from ood_suite.files import (
    RunError,
    atomic_path,
    fingerprint,
    read_json,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)
from ood_suite.runs.run import versions

# Tables of what only some evaluations ask for, or can say, and what of a report they are of.
TABLES = {
    "by_class.csv": "by_class", "costs.csv": "costs", "full_spectrum.csv": "full_spectrum",
    "leaderboard.csv": "classifier", "shifted.csv": "shifted", "unit_tests.csv": "unit_tests",
}  # fmt: skip


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
        verdict: see verdict.recommended. next_command: what makes a detector of the run.
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
    verdict: dict = dataclasses.field(default_factory=dict)
    next_command: str = ""


def over_repeats(reports):
    """Rows of mean and standard deviation over the repeats that have a score (none of one): one per
    score and OOD set; none for a single repeat.
    """
    if len(reports) < 2:
        return []
    summary = []
    every = [row for group in reports for row in group.rows]
    for score, ood in dict.fromkeys((row["score"], row["ood"]) for row in every):
        rows = [r for r in every if (r["score"], r["ood"]) == (score, ood)]
        entry = {"score": score, "ood": ood, "repeats": len(rows)}
        for metric in (metric for metric in page.TITLES if metric in rows[0]):
            values = [row[metric] for row in rows]
            entry |= {
                f"{metric}_mean": float(np.mean(values)),
                f"{metric}_std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
        summary.append(entry)
    return summary


def as_json(config, reports):
    """What results.json holds, of JSON values and arrays of NumPy."""
    return {
        "config": config,
        "versions_of_evaluation": versions(),
        "optional_files": optional_files(reports),
        "values": fingerprint(*values_by_name(reports).values()),  # what values.npz holds
        "groups": [
            {k: v for k, v in vars(group).items() if k not in ("costs", "figures", "values")}
            for group in reports
        ],
        "over_repeats": over_repeats(reports),
    }


def optional_files(reports):
    """Names of the tables and figures that only some evaluations have."""
    tables = [name for name, of in TABLES.items() if any(getattr(group, of) for group in reports)]
    pictures = {_picture(name, group, reports) for group in reports for name in group.figures}
    return tables + [f"figures/{name}.png" for name in sorted(pictures)]


def _picture(name, group, reports):
    return name if len(reports) == 1 else f"repeat{group.repeat_id}_{name}"


def _remove_stale(folder, wanted):
    """Removes the optional files that an earlier report here wrote, as its results.json says, and
    this one does not: they would be taken for its own.
    """
    try:
        earlier = read_json(folder / "results.json").get("optional_files", TABLES)
    except (OSError, RunError, ValueError, AttributeError):
        return
    for name in set(map(str, earlier)) - set(wanted):
        start, _, picture = name.rpartition("/")
        if name in TABLES or start == "figures" and picture.endswith(".png"):
            (folder / name).unlink(missing_ok=True)


def write(folder, config, reports, protocol=None):
    """Writes results.csv, results.json, by_class.csv (where OOD classes have names), costs.csv,
    values.npz (every score of every test example), report.html and figures/*.png into `folder`,
    each file atomically. For `protocol` see page.render.
    """
    folder = pathlib.Path(folder)
    _remove_stale(folder, optional_files(reports))
    write_csv(folder / "results.csv", [row for group in reports for row in group.rows])
    by_class = [{"repeat": group.repeat_id} | row for group in reports for row in group.by_class]
    if by_class:
        write_csv(folder / "by_class.csv", by_class)
    costs = [{"repeat": group.repeat_id} | row for group in reports for row in group.costs]
    if costs:  # apart from the results, which come out the same again
        write_csv(folder / "costs.csv", costs)
    write_json(folder / "results.json", as_json(config, reports))
    with atomic_path(folder / "values.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **values_by_name(reports))
    pictures = {}
    for group in reports:
        for name, figure in group.figures.items():
            name = _picture(name, group, reports)
            pictures[name] = page.png(figure)
            write_bytes(folder / "figures" / f"{name}.png", pictures[name])
    write_text(folder / "report.html", page.render(config, reports, pictures, protocol=protocol))


def values_by_name(reports):
    """{"<repeat>/<score>/id" and "<repeat>/<score>/ood/<set>": float64 (n,)}."""
    found = {}
    for group in reports:
        for score, (own, ood) in group.values.items():
            found[f"{group.repeat_id}/{score}/id"] = own
            found |= {f"{group.repeat_id}/{score}/ood/{name}": x for name, x in ood.items()}
    return found
