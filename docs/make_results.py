"""Draws the figures of docs/results/ from benchmarks/likelihood_ratio.json and
benchmarks/trained_classifiers.json.

    python docs/make_results.py
    python docs/make_results.py --collect=FOLDER     # first gathers the second file from its runs

FOLDER holds cl/fashion/wide_resnet, cl/fashion/leave_out_wide_resnet, ft/um, ft/control, ft/umap or
some of them, with the reports and histories that the commands of docs/results/unleashing_mask.md
and leave_out.md leave. What FOLDER lacks stays as it is on record, each seed for itself.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from matplotlib.figure import Figure  # noqa: E402

from ood_suite.files import read_csv, write_json  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
RATIO, CLASSIFIERS = (
    ROOT / "benchmarks" / f"{name}.json" for name in ("likelihood_ratio", "trained_classifiers")
)
COLUMNS = ("score", "ood", "repeat", "auroc", "auroc_low", "auroc_high", "fpr95_id_positive")
FIVE = ("leave_out", "leave_out_odin")
TUNED = ("control", "um", "umap")
FAMILIES = {
    "r1_s0_fg": "1 layer, [-1, 1]", "r2_s0_fg": "2 layers, [-1, 1]",
    "r5_s0_fg": "5 layers, [-1, 1]", "r5_s1_fg": "the same, seed 1", "r5_s2_fg": "seed 2",
    "r5_raw_s0_fg": "5 layers, 0..255 (the paper's)",
    "r5_raw_s1_fg": "the same, seed 1", "r5_raw_s2_fg": "seed 2",
}  # fmt: skip


def report_rows(report, repeat=None):
    """What figures need of a report; `repeat` for one that was made of a single seed."""
    own = {} if repeat is None else {"repeat": repeat}
    lines = read_csv(report / "results.csv")
    return [{k: row[k] for k in COLUMNS if k in row} | own for row in lines]


def collect(folder):
    """{what: rows} of the reports and histories below a folder."""
    base = folder / "cl" / "fashion" / "wide_resnet"
    reports = {
        "base": base / "report",
        "leave_out": folder / "cl" / "fashion" / "leave_out_wide_resnet" / "report",
    } | {path.name.removeprefix("report_"): path for path in sorted(base.glob("report_epoch_*"))}
    found = {name: report_rows(path) for name, path in reports.items() if path.exists()}
    for name in TUNED:
        together = folder / "ft" / name / "report"
        seeds = sorted(together.parent.glob("seed*/report"))
        if together.exists():
            found[name] = report_rows(together)
        elif seeds:
            parts = [report_rows(path, path.parent.name.removeprefix("seed")) for path in seeds]
            found[name] = [row for part in parts for row in part]
    if base.exists():
        found["history"] = read_csv(base / "logs" / "history.csv")
        found["constraint"] = json.loads((base / "loss_constraint.json").read_text())
    return found


def joined(known, found):
    """What is on record, with what was found in its place."""
    for name in TUNED:
        new = found.get(name, ())
        repeats = {row["repeat"] for row in new}
        old = [row for row in known.get(name, ()) if row["repeat"] not in repeats]
        found[name] = sorted([*old, *new], key=lambda row: row["repeat"])  # stable: sets in order
    return known | found


def ratio_figure(chosen):
    """AUROC against MNIST of the chosen pairs, as the foreground is trained."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for row in chosen:
        steps = dict(sorted((int(step), value) for step, value in row["by_step"].items()))
        style = "-" if "s0" in row["foreground"] else ":"
        axes.plot(list(steps), list(steps.values()), style, label=FAMILIES[row["foreground"]])
    axes.axhspan(0.973, 0.994, color="0.9", zorder=0, label="the paper's range")
    axes.set(xlabel="foreground steps of 64 images", ylabel="AUROC, MNIST", ylim=(0.88, 1.0))
    axes.legend(fontsize=8)
    return figure


def training_figure(found):
    """Energy's AUROC on each set and the training loss, over the epochs of the classifier."""
    epochs = sorted(int(name[6:]) for name in found if name.startswith("epoch_"))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    parts = [(epoch, found[f"epoch_{epoch}"]) for epoch in epochs] + [(40, found["base"])]
    for name in dict.fromkeys(row["ood"] for _, rows in parts for row in rows):
        line = [
            (epoch, float(row["auroc"]))
            for epoch, rows in parts
            for row in rows
            if row["ood"] == name and row["score"] == "energy"
        ]
        is_mean = name.startswith("mean")
        label, width = ("mean", 3.0) if is_mean else (name, 1.0)
        axes.plot(*zip(*line, strict=True), linewidth=width, label=label)
    axes.set(xlabel="epoch", ylabel="AUROC of energy")
    figure.legend(fontsize=8, loc="outside upper center", ncols=7)
    loss = axes.twinx()
    per_epoch = int(found["history"][0]["step"])
    history = [(int(r["step"]) / per_epoch, float(r["loss"])) for r in found["history"]]
    loss.semilogy(*zip(*history, strict=True), "k--", linewidth=1.0)
    loss.set_ylabel("training loss in nats (dashed)")
    return figure


def dots_figure(panels):
    """AUROC on each set, with its 95% interval: a panel for each title, a colour for each label, a
    dot for each seed.

    Args:
        panels: {title: {label: rows of one score}}.
    """
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    columns = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (title, groups) in zip(columns, panels.items(), strict=True):
        add_dots(axes, groups)
        axes.set(title=title, xlabel="AUROC")
    rows = next(iter(groups.values()))
    sets = dict.fromkeys("mean" if r["ood"].startswith("mean") else r["ood"] for r in rows)
    columns[0].set_yticks(range(len(sets)), sets)
    columns[0].invert_yaxis()
    figure.legend(*columns[0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
    return figure


def add_dots(axes, groups):
    seeds = [
        (color, label, [row for row in group if row["repeat"] == repeat])
        for color, (label, group) in enumerate(groups.items())
        for repeat in sorted({row["repeat"] for row in group})
    ]
    labelled = set()
    for place, (color, label, rows) in enumerate(seeds):
        x = [float(row["auroc"]) for row in rows]
        # Means over sets have no interval.
        ends = [[float(row[k] or row["auroc"]) for row in rows] for k in COLUMNS[4:6]]
        errors = [[abs(a - b) for a, b in zip(x, end, strict=True)] for end in ends]
        y = [i + 0.7 * (place / (len(seeds) - 1) - 0.5) for i in range(len(rows))]
        style = {"fmt": "o", "markersize": 4, "color": f"C{color}", "elinewidth": 1}
        axes.errorbar(x, y, xerr=errors, label=None if label in labelled else label, **style)
        labelled.add(label)
    for i in range(0, len(rows), 2):
        axes.axhspan(i - 0.5, i + 0.5, color="0.95", zorder=0)
    axes.set_ylim(-0.5, len(rows) - 0.5)


def one_score(found, name, score):
    return [row for row in found[name] if row["score"] == score]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--collect", type=pathlib.Path, help="Folder of the runs.")
    options = parser.parse_args()
    if options.collect:
        known = json.loads(CLASSIFIERS.read_text())
        write_json(CLASSIFIERS, joined(known, collect(options.collect)))
    chosen = json.loads(RATIO.read_text())["chosen"]
    ratio_figure(chosen).savefig(FIGURES / "ratio_by_step.png", dpi=120)
    found = json.loads(CLASSIFIERS.read_text())
    training_figure(found).savefig(FIGURES / "energy_by_epoch.png", dpi=120)
    tuned = {"before": "base", "control": "control", "um": "um", "umap": "umap"}
    by_score = {
        score: {label: one_score(found, name, score) for label, name in tuned.items()}
        for score in ("energy", "knn")
    }
    dots_figure(by_score).savefig(FIGURES / "unleashing_mask.png", dpi=120)
    five = {f"five, {score}": one_score(found, "leave_out", score) for score in FIVE}
    one = {f"one, {score}": one_score(found, "base", score) for score in ("energy", "odin", "knn")}
    dots_figure({"": five | one}).savefig(FIGURES / "leave_out_trained.png", dpi=120)


if __name__ == "__main__":
    main()
