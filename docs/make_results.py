"""Draws the figures of docs/results/ from benchmarks/likelihood_ratio.json and
benchmarks/trained_classifiers.json.

    python docs/make_results.py
    python docs/make_results.py --collect=FOLDER     # first gathers the second file from its runs

FOLDER holds cl/fashion/wide_resnet, cl/fashion/leave_out_wide_resnet, ft/um and ft/control with the
reports and histories that the commands of docs/results/unleashing_mask.md and leave_out.md leave.
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
FAMILIES = {
    "r1_s0_fg": "1 layer, [-1, 1]", "r2_s0_fg": "2 layers, [-1, 1]",
    "r5_s0_fg": "5 layers, [-1, 1]", "r5_s1_fg": "the same, seed 1", "r5_s2_fg": "seed 2",
    "r5_raw_s0_fg": "5 layers, 0..255 (the paper's)",
}  # fmt: skip


def collect(folder):
    """{what: rows} of the reports and histories below a folder."""
    base = folder / "cl" / "fashion" / "wide_resnet"
    reports = {
        "base": base / "report",
        "control": folder / "ft" / "control" / "report",
        "um": folder / "ft" / "um" / "report",
        "leave_out": folder / "cl" / "fashion" / "leave_out_wide_resnet" / "report",
    } | {path.name.removeprefix("report_"): path for path in sorted(base.glob("report_epoch_*"))}
    found = {
        name: [{k: row[k] for k in COLUMNS if k in row} for row in read_csv(path / "results.csv")]
        for name, path in reports.items()
    }
    found["history"] = read_csv(base / "logs" / "history.csv")
    return found | {"constraint": json.loads((base / "loss_constraint.json").read_text())}


def ratio_figure(chosen):
    """AUROC against MNIST of the chosen pairs, as the foreground is trained."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for row in chosen:
        steps = {int(step): value for step, value in row["by_step"].items()}
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--collect", type=pathlib.Path, help="Folder of the runs.")
    options = parser.parse_args()
    if options.collect:
        write_json(CLASSIFIERS, collect(options.collect))
    chosen = json.loads(RATIO.read_text())["chosen"]
    ratio_figure(chosen).savefig(FIGURES / "ratio_by_step.png", dpi=120)
    found = json.loads(CLASSIFIERS.read_text())
    training_figure(found).savefig(FIGURES / "energy_by_epoch.png", dpi=120)


if __name__ == "__main__":
    main()
