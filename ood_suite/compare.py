"""Compares evaluated runs: one score of many runs, or several scores, side by side.

    python -m ood_suite.compare --reports=A/report,B/report,C/report_best --scores=energy --out=DIR

Each report is a folder that `ood_suite.eval` wrote. The first one is the baseline: the difference
of the AUROCs is tested pair by pair on the same test examples (DeLong), in the first repeat. Writes
comparison.csv, comparison.md and comparison.png.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags

from ood_suite import figures, intervals
from ood_suite.app import run_app
from ood_suite.outputs import load_npz
from ood_suite.runs import RunError, atomic_path, read_json, write_csv, write_text

FLAGS = flags.FLAGS


@dataclasses.dataclass
class Entry:
    """One score of one report.

    Attributes:
        name: of the run, with the checkpoint if it is not the last, and the score if there are
            several. groups: the report's repeats. values: see report.values_by_name.
    """

    name: str
    score: str
    groups: list
    values: dict

    def rows(self, ood):
        """The result rows of all repeats on one OOD set."""
        every = [row for group in self.groups for row in group["rows"]]
        return [row for row in every if (row["score"], row["ood"]) == (self.score, ood)]

    def pair(self, ood):
        """(ID values, OOD values) of the first repeat; None for a mean over sets."""
        start = f"{self.groups[0]['repeat_id']}/{self.score}"
        if f"{start}/ood/{ood}" not in self.values:
            return None
        return self.values[f"{start}/id"], self.values[f"{start}/ood/{ood}"]


def read(folders, scores):
    """The Entries of report folders.

    Raises:
        RunError: a folder that holds no report, or of other test sets than the first.
        ValueError: a score that a report has not.
    """
    folders = [pathlib.Path(folder) for folder in folders]
    entries, first = [], None
    for folder, name in zip(folders, _names(folders), strict=True):
        if not (folder / "results.json").exists():
            raise RunError(f"{folder} holds no report. `python -m ood_suite.eval` makes it.")
        groups = read_json(folder / "results.json")["groups"]
        first = first or (folder, groups[0]["test_sets"])
        if groups[0]["test_sets"] != first[1]:
            raise RunError(f"{folder} and {first[0]} are about different test sets.")
        values = load_npz(folder / "values.npz")
        known = list(dict.fromkeys(row["score"] for row in groups[0]["rows"]))
        for score in scores:
            if score not in known:
                raise ValueError(f"{folder} has no score {score!r}. It has: {', '.join(known)}.")
            title = f"{name}: {score}" if len(scores) > 1 else name
            entries.append(Entry(title, score, groups, values))
    return entries


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


def compare(entries):
    """One dict per entry and OOD set: metrics (means over repeats, with their standard deviation),
    interval of the AUROC, accuracy, and the paired difference to the first entry.
    """
    rows = []
    for ood in dict.fromkeys(row["ood"] for row in entries[0].groups[0]["rows"]):
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
            if entry is not entries[0] and entry.pair(ood):
                pairs = entry.pair(ood), entries[0].pair(ood)
                difference = intervals.paired_auroc_difference(*pairs)
                row |= {f"versus_{key}": value for key, value in difference.items()}
            rows.append(row)
    return rows


def table(rows):
    """The comparison as a table in Markdown."""
    lines = [
        "| run | OOD | AUROC | FPR95 ID+ | ID accuracy | AUROC minus the first's |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["run"], row["ood"], _cell(row, "auroc"), _cell(row, "fpr95_id_positive")]
        cells.append(f"{row['accuracy']:.4f}" if "accuracy" in row else "")
        if "versus_difference" in row:
            low, high = row["versus_low"], row["versus_high"]
            cells.append(f"{row['versus_difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
        else:
            cells.append("")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row, metric):
    if f"{metric}_std" in row:
        return f"{row[metric]:.3f} ({row[f'{metric}_std']:.3f})"
    if f"{metric}_low" in row:
        return f"{row[metric]:.3f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"
    return f"{row[metric]:.3f}"


def main(_):
    if not FLAGS.scores:
        raise ValueError("--scores is empty.")
    rows = compare(read(FLAGS.reports, FLAGS.scores))
    text, out = table(rows), pathlib.Path(FLAGS.out)
    write_csv(out / "comparison.csv", rows)
    write_text(out / "comparison.md", text)
    with atomic_path(out / "comparison.png") as temporary:
        figures.comparison(rows).savefig(temporary, format="png", bbox_inches="tight")
    print(text)
    print("[95% interval], or (standard deviation over repeats). " + f"Written to {out}.")


if __name__ == "__main__":
    flags.DEFINE_list("reports", None, "Report folders; the first is the baseline.")
    flags.DEFINE_list("scores", ["energy"], "Scores to compare.")
    flags.DEFINE_string("out", "output/comparison", "Folder of what is written.")
    flags.mark_flag_as_required("reports")
    run_app(main)
