"""Figures of what decisions cost: risks, ranks, shifts, and the images that are mistaken. Each
function returns a matplotlib Figure; nothing here needs a model.
"""

import numpy as np
from matplotlib.figure import Figure

from ood_suite import selective
from ood_suite.ranks import alike

PANEL = (3.4, 3.0)  # inches
DRAWN_SETS = 5  # beyond which panels would not be read


def risk_coverage(values, correct):
    """Risk against coverage: a panel of the mistakes on ID data alone, and one for each OOD set.

    Args:
        values: {score: (id_scores, {data set: ood_scores})}. correct: bool (n_id,).
    """
    sets = list(next(iter(values.values()))[1])[:DRAWN_SETS]
    figure, panels = _panels(1 + len(sets))
    for axes, ood in zip(panels, [None, *sets], strict=True):
        for name, (own, others) in values.items():
            alone = ood is None
            found = (
                selective.curve(own, ~correct)
                if alone
                else selective.scod(own, others[ood], correct)
            )
            label = f"{name} ({selective.augrc(found):.3f})"
            axes.plot(found.coverage, found.risk, linewidth=1, label=label)
        title = "ID alone: mistakes" if alone else f"ID and {ood}, half and half"
        axes.set(xlabel="share accepted", ylabel="errors among the accepted", ylim=(0, None))
        axes.set_title(title, fontsize=9)
        axes.legend(title="AUGRC", frameon=False, fontsize=6, title_fontsize=7)
    return figure


def shifts(rows):
    """What a classifier and one score make of the ID test set by severity of a shift, 0 being none.

    Args:
        rows: of that score, as shifted.rows gives them.
    """
    titles = {
        "accuracy": "accuracy of the classifier", "flagged": "share flagged as OOD",
        "flagged_of_correct": "share flagged of those classified correctly",
    }  # fmt: skip
    known = [key for key in titles if key in rows[0]]
    kinds = dict.fromkeys(r["shift"].rpartition("_")[0] for r in rows if r["shift"] != "clean")
    figure, panels = _panels(len(known))
    for axes, key in zip(panels, known, strict=True):
        for kind in kinds:
            own = {int(r["shift"][-1]): r for r in rows if r["shift"].rpartition("_")[0] == kind}
            levels = {0: rows[0]} | own
            points = [level for level in levels if key in levels[level]]
            axes.plot(points, [levels[p][key] for p in points], marker=".", label=kind)
        axes.set(xlabel="severity", ylim=(0, 1.02), xticks=range(6))
        axes.set_title(titles[key], fontsize=8)
    panels[0].legend(frameon=False, fontsize=6)
    figure.suptitle(f"ID data under shift, by {rows[0]['score']}", fontsize=9)
    return figure


def gallery(title, lines, threshold):
    """Lines of images with their scores, in bold where the decision at the threshold is right.

    Args:
        lines: {title: (uint8 images (n, height, width, channels), scores (n,))}, the first of ID.
    """
    lines = dict(list(lines.items())[: 1 + DRAWN_SETS])
    columns = max(len(scores) for _, scores in lines.values())
    size = (0.75 * columns + 0.4, 1.15 * len(lines) + 0.4)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    for number, (part, (label, (images, scores))) in enumerate(
        zip(figure.subfigures(len(lines), 1, squeeze=False)[:, 0], lines.items(), strict=True)
    ):
        part.suptitle(label, fontsize=7, x=0.01, ha="left")
        for place, axes in enumerate(part.subplots(1, columns, squeeze=False)[0]):
            axes.set_axis_off()
            if place < len(scores):
                axes.imshow(images[place].squeeze(), cmap="gray", vmin=0, vmax=255)
                is_right = (scores[place] > threshold) == (number > 0)
                weight = "bold" if is_right else "normal"
                axes.set_title(f"{scores[place]:.3g}", fontsize=6, fontweight=weight)
    figure.suptitle(f"{title} (threshold {threshold:.3g}; bold: decided rightly)", fontsize=8)
    return figure


def ranks(names, found):
    """Mean ranks, best first; bars at the right join those that no pair tells apart, and the one
    below is Nemenyi's critical difference (Demsar's diagram, turned so that names can be many).

    Args:
        names: of the treatments. found: their ranks.Ranking.
    """
    order = np.argsort(found.mean_ranks, kind="stable")
    groups, count = alike(found), len(names)
    beside = max(1.6, 0.09 * max(map(len, names)))  # inches of the names
    size = (3.0 + beside + 0.15 * len(groups), 1.1 + 0.26 * count)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.hlines(range(count), 1, found.mean_ranks[order], color="lightgrey", linewidth=1)
    axes.plot(found.mean_ranks[order], range(count), "o", markersize=5, color="#1f77b4")
    for column, (first, last) in enumerate(groups):
        place = count + 0.25 + 0.2 * column
        axes.plot([place, place], [first - 0.2, last + 0.2], color="black", linewidth=3)
    axes.plot([1, 1 + found.critical_difference], [count, count], color="grey", linewidth=3)
    label = f"  CD {found.critical_difference:.2f}"
    axes.text(1 + found.critical_difference, count, label, va="center", fontsize=7, color="grey")
    axes.set_yticks(range(count), [names[i] for i in order], fontsize=8)
    axes.set_ylim(count + 0.5, -0.5)
    title = f"{found.blocks} blocks, Friedman p = {found.p_value:.2g}"
    axes.set(xlabel="mean rank by AUROC (1 = best)", xticks=range(1, count + 1))
    axes.set_title(title, fontsize=9)
    return figure


def _panels(count):
    size = (PANEL[0] * count, PANEL[1])
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]
