"""Evaluated runs side by side: one score of many runs, or several scores; quality, ranks, costs."""

import dataclasses
import pathlib

import numpy as np
from scipy import stats

from ood_suite import intervals, ranks
from ood_suite.files import RunError, fingerprint, load_npz, read_csv, read_json, reading
from ood_suite.runs.settings import known_name

SAME = 1e-9  # of differences: a spread below is rounding
AGAIN = " Evaluate the run again."
GROUP = {"classifier": dict, "repeat_id": int, "rows": list, "test_sets": dict}  # of a repeat
ROW = {"ood": str, "repeat": int, "score": str}  # of its rows
METRICS = ("auroc", "fpr95_id_positive", "fpr95_ood_positive", "scod_augrc")
COSTS = (
    "fit_seconds", "score_seconds_per_10000", "extraction_seconds_per_10000", "learned_mib"
)  # fmt: skip


@dataclasses.dataclass
class Entry:
    """One score of one report.

    Attributes:
        name: of the run, with the checkpoint if it is not the last, and the score if there are
            several; of one run's scores, the score.
        run: the name without the score. groups: the report's repeats with that score.
        repeats: how many the report has. values: see report.values_by_name.
        costs: rows of costs.csv, see costs.Costs.rows.
    """

    name: str
    run: str
    score: str
    groups: list
    repeats: int
    values: dict
    costs: list

    def rows(self, ood):
        """The result rows of all repeats on one OOD set."""
        every = [row for group in self.groups for row in group["rows"]]
        return [row for row in every if (row["score"], row["ood"]) == (self.score, ood)]

    def pair(self, ood, repeat_id):
        """(ID values, OOD values) of a repeat, or of the first one if there is no such repeat."""
        known = [group["repeat_id"] for group in self.groups]
        start = f"{repeat_id if repeat_id in known else known[0]}/{self.score}"
        return self.values[f"{start}/id"], self.values[f"{start}/ood/{ood}"]


def read(folders, scores):
    """(the Entries of report folders, the OOD sets that all of them have).

    Raises:
        RunError: a folder that holds no report, or one with other data under a test set's name.
        ValueError: a score that a report has not.
    """
    folders = [pathlib.Path(folder) for folder in folders]
    entries, tested = [], []
    for folder, name in zip(folders, _names(folders), strict=True):
        groups, values = _report(folder)
        tested.append(groups[0]["test_sets"])
        for ood, mark in tested[-1].items():
            if tested[0].get(ood, mark) != mark:
                raise RunError(f"{folder} and {folders[0]} are about different test sets: {ood}.")
        costs = read_csv(folder / "costs.csv")
        known = list(dict.fromkeys(row["score"] for group in groups for row in group["rows"]))
        for asked in scores:
            score = known_name(known, asked, f"score of {folder}")
            title = f"{name}: {score}" if len(scores) > 1 else name
            title = score if len(folders) == 1 else title
            own = [row for row in costs if row.get("score") == score]
            having = [g for g in groups if any(row["score"] == score for row in g["rows"])]
            entries.append(Entry(title, name, score, having, len(groups), values, own))
    common = [ood for ood in tested[0] if ood != "id" and all(ood in sets for sets in tested)]
    if not common:
        raise RunError("These reports have no OOD set in common.")
    return entries, common


def _report(folder):
    """(groups, values) of a report; RunError if the folder holds none, or one that is damaged."""
    path = folder / "results.json"
    if not path.exists() or not (folder / "values.npz").exists():
        raise RunError(f"{folder} holds no report. `python -m ood_suite.eval` makes it.")
    results, values = read_json(path), load_npz(folder / "values.npz")
    with reading(path, "a report", AGAIN, RunError):
        groups, mark = results["groups"], fingerprint(*values.values())
        if not groups:
            raise ValueError("it has no repeat")
        for group in groups:
            _require(group, GROUP)
            for row in group["rows"]:
                _require(row, ROW)
    if results.get("values", mark) != mark:  # reports of older versions do not say
        raise RunError(f"{folder} holds parts of two reports.{AGAIN}")
    return groups, values


def _require(found, kinds):
    """Refuses a part of a report that lacks what is read of it (ValueError)."""
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            raise ValueError(f"its {key} must be {kind.__name__}, not {found.get(key)!r:.100}")


def _names(folders):
    """What tells the runs apart: the name of the run's folder, with its parents' as needed."""
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError("A report is given twice.")
    for depth in range(1, 6):
        names = []
        for path in paths:
            checkpoint = path.name.removeprefix("report").removeprefix("_")
            run = "/".join(path.parent.parts[-depth:])
            names.append(f"{run} ({checkpoint})" if checkpoint else run)
        if len(set(names)) == len(names):
            break
    return names


def compare(entries, ood_sets):
    """One dict per entry and OOD set: metrics (means over repeats, with their standard deviation),
    interval of the AUROC, accuracy, and the difference to the first entry, its p value also
    corrected for all comparisons (Holm).
    """
    rows = []
    for ood in ood_sets:
        for entry in entries:
            found = entry.rows(ood)
            row = {"run": entry.name, "ood": ood, "repeats": len(found)}
            for metric in ("auroc", "fpr95_id_positive", "aupr_in", "aupr_out", "oscr"):
                values = [r[metric] for r in found if metric in r]
                if values:
                    row[metric] = float(np.mean(values))
                if len(values) > 1:
                    row[f"{metric}_std"] = float(np.std(values, ddof=1))
            if len(found) == 1 and "auroc_low" in found[0]:
                row |= {key: found[0][key] for key in ("auroc_low", "auroc_high")}
            accuracies = [g["classifier"].get("accuracy") for g in entry.groups]
            if None not in accuracies:
                row["accuracy"] = float(np.mean(accuracies))
            if entry is not entries[0]:
                row |= _difference(entry, entries[0], ood)
            rows.append(row)
    compared = [row for row in rows if "versus_p_value" in row]
    found = ranks.holm([row["versus_p_value"] for row in compared])
    for row, p_value in zip(compared, found, strict=True):
        row["versus_p_holm"] = float(p_value)
    return rows


def _difference(entry, baseline, ood):
    """The paired difference with its interval; over several repeats, each with the same repeat of
    the other (or all with the only one of its report), mean and standard deviation; between
    repeats that differ also the p value of Student's paired test. {} without a common repeat.
    """
    ours, theirs = ([group["repeat_id"] for group in e.groups] for e in (entry, baseline))
    numbers = [number for number in ours if number in theirs]
    if 1 in (entry.repeats, baseline.repeats):
        numbers = max(ours, theirs, key=len)
    found = [
        intervals.paired_auroc_difference(entry.pair(ood, number), baseline.pair(ood, number))
        for number in numbers
    ]
    if not found:
        return {}
    if len(found) == 1:
        return {f"versus_{key}": value for key, value in found[0].items()}
    values = [row["difference"] for row in found]
    spread = float(np.std(values, ddof=1))
    row = {"versus_difference": float(np.mean(values)), "versus_std": spread}
    if spread > SAME and 1 not in (entry.repeats, baseline.repeats):  # else one training decides
        row["versus_p_value"] = float(stats.ttest_1samp(values, 0.0).pvalue)
    return row


def means(entries, ood_sets):
    """One dict per entry and group of the common OOD sets ("near", "far", "all"): METRICS, means
    over its sets and over repeats. Reports of older versions do not say what is near.
    """
    near = [ood for ood in entries[0].groups[0].get("near", ()) if ood in ood_sets]
    groups = {"near": near, "far": [ood for ood in ood_sets if ood not in near]} if near else {}
    found = []
    for title, members in (groups | {"all": ood_sets}).items():
        for entry in entries if members else ():
            own = [row for ood in members for row in entry.rows(ood)]
            cells = {m: float(np.mean([r[m] for r in own])) for m in METRICS if m in own[0]}
            found.append({"run": entry.name, "mean": title, "sets": len(members)} | cells)
    return found


def rankings(entries, ood_sets):
    """List of (name, treatments, ranks.Ranking): "ranks" of the entries, and of several scores of
    several reports "ranks_of_scores", for which a report is a block too. Empty where there is too
    little to rank.
    """
    numbers = set.intersection(*({g["repeat_id"] for g in entry.groups} for entry in entries))
    blocks = [
        [_auroc(entry, ood, number) for entry in entries]
        for ood in ood_sets
        for number in sorted(numbers)
    ]
    found = _ranked("ranks", [entry.name for entry in entries], np.array(blocks))
    scores = list(dict.fromkeys(entry.score for entry in entries))
    if len(scores) > 1 and len(entries) > len(scores):  # read gives all scores of a run in turn
        found += _ranked("ranks_of_scores", scores, np.reshape(blocks, (-1, len(scores))))
    return found


def _auroc(entry, ood, number):
    return next(row["auroc"] for row in entry.rows(ood) if row["repeat"] == number)


def _ranked(name, treatments, blocks):
    if len(treatments) < 3 or len(blocks) < 2:
        return []
    return [(name, treatments, ranks.rank(blocks))]


def costs_of(entries):
    """One dict per entry: COSTS, means over repeats, {} where its report knows none."""
    found = []
    for entry in entries:
        row = {"run": entry.name}
        for key in COSTS:
            known = [float(r[key]) for r in entry.costs if r.get(key)]
            row |= {key: float(np.mean(known))} if known else {}
        found.append(row)
    return found
