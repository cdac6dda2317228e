"""Figures of the report. Each function returns a matplotlib Figure; nothing here needs a model."""

import contextlib
import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ood_suite import metrics
from ood_suite.data.decoding import opened, picture

ID_COLOUR, OOD_COLOURS = "#1f77b4", ("#d62728", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2")
CURVE_POINTS = 2000
THUMBNAIL = (64, 64, 3)
MAP_SHIFT, MAP_RANGE = 6.0, (0.0, 6.0)  # nats; the paper's heat maps


def histograms(score_name, id_scores, ood_scores, threshold=None):
    """Overlaid densities of one score: ID, and each OOD set; the decision threshold as a dashed
    line.

    Args:
        id_scores: (n,). ood_scores: {data set: (m,)}.
    """
    figure, axes = _figure(5.2, 3.4)
    _histogram(axes, id_scores, ood_scores, threshold)
    axes.set(xlabel=f"{score_name} (higher = more OOD)", ylabel="density", title=score_name)
    axes.legend(frameon=False)
    return figure


def histogram_grid(values, thresholds, columns=4):
    """The histograms of many scores as one figure.

    Args:
        values: {score: (id_scores, {data set: ood_scores})}. thresholds: {score: float}.
    """
    lines = -(-len(values) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.1 * lines), dpi=90, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, (id_scores, ood_scores)) in zip(grid.flat, values.items(), strict=False):
        _histogram(axes, id_scores, ood_scores, thresholds[name])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    for axes in grid.flat[len(values) :]:
        axes.set_axis_off()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
    return figure


def _histogram(axes, id_scores, ood_scores, threshold):
    everything = np.concatenate([id_scores, *ood_scores.values()])
    low, high = np.quantile(everything, [0.002, 0.998])
    bins = np.linspace(low, high if high > low else low + 1.0, 61)
    groups = [("ID", id_scores, ID_COLOUR)]
    groups += [
        (name, values, OOD_COLOURS[i % len(OOD_COLOURS)])
        for i, (name, values) in enumerate(ood_scores.items())
    ]
    for name, values, colour in groups:
        clipped = np.clip(values, bins[0], bins[-1])
        style = {"histtype": "stepfilled", "alpha": 0.5}  # one patch, not sixty
        axes.hist(clipped, bins, density=True, color=colour, label=name, **style)
    axes.xaxis.set_major_locator(MaxNLocator(4))  # scores at T = 1000 differ in the fifth digit
    if threshold is not None:
        axes.axvline(
            threshold, color="black", linestyle="--", linewidth=1, label="accepts 95% of ID"
        )


def overview(aurocs):
    """AUROC of every score on every OOD set as a heat map with its numbers, best mean first.

    Args:
        aurocs: {score: {data set: AUROC}}.
    """
    names = sorted(aurocs, key=lambda name: -np.mean(list(aurocs[name].values())))
    sets = list(aurocs[names[0]])
    columns = sets + (["mean"] if len(sets) > 1 else [])
    numbers = np.array([[aurocs[name][s] for s in sets] for name in names])
    if len(sets) > 1:
        numbers = np.column_stack([numbers, numbers.mean(axis=1)])
    size = (2.2 + 1.1 * len(columns), 0.8 + 0.24 * len(names))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots()
    # Blue and orange, which all eyes tell apart; chance is the white in the middle.
    drawn = axes.imshow(numbers, cmap="PuOr", vmin=0.0, vmax=1.0, aspect="auto")
    for line, row in enumerate(numbers):
        for column, value in enumerate(row):
            colour = "white" if abs(value - 0.5) > 0.35 else "black"
            axes.text(
                column, line, f"{value:.3f}", ha="center", va="center", fontsize=7, color=colour
            )
    axes.set_xticks(range(len(columns)), columns, fontsize=8, rotation=20, ha="right")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title("AUROC", fontsize=10)
    figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
    return figure


def tuning(score_name, found):
    """Validation AUROC over a grid of two parameters, as a heat map with its numbers; the best one
    is framed.

    Args:
        found: list of (AUROC, {parameter: value}), each pair of values once at most.
    """
    first, second = found[0][1]
    lines, columns = (sorted({setting[name] for _, setting in found}) for name in (first, second))
    numbers = np.full((len(lines), len(columns)), np.nan)
    for auroc, setting in found:
        numbers[lines.index(setting[first]), columns.index(setting[second])] = auroc
    figure = Figure(figsize=(2.0 + 0.7 * len(columns), 1.2 + 0.4 * len(lines)), dpi=110)
    axes = figure.subplots()
    drawn = axes.imshow(numbers, cmap="viridis", aspect="auto")
    middle = (np.nanmin(numbers) + np.nanmax(numbers)) / 2
    for (line, column), value in np.ndenumerate(numbers):
        colour = "white" if value < middle else "black"
        axes.text(column, line, f"{value:.3f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns], fontsize=8)
    axes.set_yticks(range(len(lines)), [f"{value:g}" for value in lines], fontsize=8)
    axes.set(xlabel=second, ylabel=first, title=f"{score_name}: AUROC on validation OOD")
    best = max(found, key=lambda pair: pair[0])[1]  # the first of equals, as the tuning takes it
    corner = columns.index(best[second]) - 0.5, lines.index(best[first]) - 0.5
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2))
    figure.colorbar(drawn, ax=axes)
    return figure


def comparison(rows):
    """AUROC of several runs, one panel per OOD set, with intervals or standard deviations as bars.

    Args:
        rows: as compare.compare gives them.
    """
    sets = list(dict.fromkeys(row["ood"] for row in rows))
    names = list(dict.fromkeys(row["run"] for row in rows))
    beside = max(2.0, 0.09 * max(map(len, names)))  # inches of the names
    size = (beside + 2.6 * len(sets), 1.0 + 0.28 * len(names))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    for axes, ood in zip(
        figure.subplots(1, len(sets), squeeze=False, sharey=True)[0], sets, strict=True
    ):
        own = [row for row in rows if row["ood"] == ood]
        for place, row in enumerate(own):
            value, spread = row["auroc"], row.get("auroc_std", 0.0)
            low, high = row.get("auroc_low", value - spread), row.get("auroc_high", value + spread)
            bars = [[value - low], [high - value]]
            colour = ID_COLOUR if place else "black"
            axes.errorbar(value, place, xerr=bars, fmt="o", color=colour, capsize=3, markersize=4)
        axes.axvline(own[0]["auroc"], color="black", linestyle=":", linewidth=0.8)
        axes.set_title(ood, fontsize=9)
        axes.set_xlabel("AUROC")
        axes.grid(axis="x", alpha=0.3)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    return figure


def curves(title, pairs):
    """ROC and precision-recall curves (OOD positive) of several scores.

    Args:
        pairs: {score: (id_scores, ood_scores)}.
    """
    figure, (roc, precision) = _figure(9.0, 3.9, columns=2)
    for name, (id_scores, ood_scores) in pairs.items():
        counts = metrics.Counts.of(id_scores, ood_scores)
        roc.plot(*_thin(*metrics.roc_curve(counts)), label=f"{name} ({metrics.auroc(counts):.3f})")
        label = f"{name} ({metrics.aupr_out(counts):.3f})"
        precision.step(*_thin(*metrics.precision_recall_curve(counts)), where="pre", label=label)
    roc.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    roc.set(xlabel="share of ID rejected", ylabel="share of OOD caught", title=f"ROC, {title}")
    base_rate = len(ood_scores) / (len(id_scores) + len(ood_scores))
    precision.axhline(base_rate, color="grey", linestyle=":", linewidth=1)
    precision.set(
        xlabel="share of OOD caught", ylabel="precision (OOD)", ylim=(0, 1.03),
        title=f"precision-recall, {title}",
    )  # fmt: skip
    roc.legend(title="AUROC", frameon=False, fontsize=8)
    precision.legend(title="AUPR-out", frameon=False, fontsize=8)
    return figure


def spread_rows(log_prob, count=16):
    """Rows of `count` examples spread evenly over the sorted log-probability, most likely first."""
    order = np.argsort(-np.asarray(log_prob), kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]


def heat_maps(title, outputs, count=16):
    """Images spread over the likelihood, each above its per-pixel log p and log-likelihood ratio.

    The paper's maps: log p + 6 and LLR, both on 0..6 nats in grey, so that a bright pixel counts as
    in-distribution.

    Args:
        outputs: Outputs with images, log_prob, log_prob_map and, for the ratio,
            background_log_prob_map.
    """
    rows = spread_rows(outputs.log_prob, count)
    maps = [("log p + 6", outputs.log_prob_map[rows] + MAP_SHIFT)]
    if outputs.background_log_prob_map is not None:
        ratio = outputs.log_prob_map[rows] - outputs.background_log_prob_map[rows]
        maps.append(("log p - log p background", ratio))
    figure = Figure(figsize=(0.62 * len(rows) + 1.2, 0.72 * (1 + len(maps)) + 0.5), dpi=110)
    grid = _lines(figure, ["image"] + [name.replace(" - ", "\n- ") for name, _ in maps])
    _picture(grid[0], _strip(outputs.images[rows]))
    for axes, (_, values) in zip(grid[1:], maps, strict=True):
        drawn = axes.imshow(_strip(values), cmap="gray", vmin=MAP_RANGE[0], vmax=MAP_RANGE[1])
    bar = figure.colorbar(drawn, ax=grid, fraction=0.02, pad=0.01)
    bar.set_label("nats per pixel", fontsize=8)
    figure.suptitle(
        f"{title}: the most likely at the left, the least likely at the right", fontsize=9
    )
    return figure


def contact_sheet(title, names, scores, count=10):
    """The least and the most OOD images of a set of files, with their names and scores.

    Args:
        names: (n,) paths; what cannot be drawn leaves an empty place. scores: (n,).
    """
    order = np.argsort(scores, kind="stable")
    count = min(count, len(order))
    lines = {"least OOD": order[:count], "most OOD": order[::-1][:count]}
    drawn = Figure(figsize=(1.15 * count + 0.8, 3.4), dpi=110, layout="constrained")
    grid = drawn.subplots(2, count, squeeze=False)
    for axes_of_line, (label, rows) in zip(grid, lines.items(), strict=True):
        axes_of_line[0].set_ylabel(label, fontsize=8)
        for axes, row in zip(axes_of_line, rows, strict=True):
            axes.set(xticks=[], yticks=[])
            text = f"{pathlib.Path(names[row]).name[-18:]}\n{scores[row]:.4g}"
            axes.set_title(text, fontsize=5)
            with contextlib.suppress(Exception), opened(names[row]) as file:
                axes.imshow(picture(file, THUMBNAIL))
    drawn.suptitle(title, fontsize=9)
    return drawn


def likelihood_against_complexity(id_outputs, ood_outputs):
    """log p against the length of the PNG code: why simple images are likely.

    Args:
        id_outputs: Outputs with log_prob and code_length. ood_outputs: {data set: such Outputs}.
    """
    figure, axes = _figure(5.2, 3.8)
    groups = [("ID", id_outputs, ID_COLOUR)]
    groups += [
        (name, outputs, OOD_COLOURS[i % len(OOD_COLOURS)])
        for i, (name, outputs) in enumerate(ood_outputs.items())
    ]
    for name, outputs, colour in groups:
        rows = np.linspace(0, len(outputs) - 1, min(len(outputs), 1500)).astype(int)
        axes.scatter(
            outputs.code_length[rows] / 8, outputs.log_prob[rows], s=4, alpha=0.4, color=colour,
            label=name, linewidths=0,
        )  # fmt: skip
    axes.set(
        xlabel="PNG bytes", ylabel="log p (nats per image)", title="likelihood against complexity"
    )
    axes.legend(frameon=False, markerscale=3)
    return figure


def training_curves(histories):
    """Validation bits per dimension or base, or accuracy, by step, one line a run.

    Args:
        histories: {run: list of rows of logs/history.csv}.
    """
    first = next(iter(histories.values()))[0]
    known = ("bits_per_dim", "bits_per_base", "accuracy")
    metric = next(name for name in known if f"val_{name}" in first)
    figure, axes = _figure(5.2, 3.4)
    for name, rows in histories.items():
        steps = [int(row["step"]) for row in rows]
        axes.plot(steps, [float(row[f"val_{metric}"]) for row in rows], marker=".", label=name)
    axes.set(xlabel="step", ylabel=f"validation {metric.replace('_', ' ')}", title="training")
    axes.legend(frameon=False, fontsize=8)
    return figure


def pixel_maps(images, bits, title):
    """Images above their bits per pixel, with a colour bar of the true range.

    Args:
        images: uint8 (n, height, width, channels). bits: (n, height, width).
    """
    figure = Figure(figsize=(0.9 * len(images) + 1.5, 2.6), dpi=110)
    grid = _lines(figure, ["", ""])
    _picture(grid[0], _strip(images))
    drawn = grid[1].imshow(_strip(bits), cmap="viridis", vmin=0, vmax=float(bits.max()))
    figure.colorbar(drawn, ax=grid, fraction=0.02, pad=0.01).set_label("bits per pixel", fontsize=8)
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


def _lines(figure, names):
    """Axes below each other, for strips of pictures, without ticks: a name at the left of each."""
    grid = figure.subplots(
        len(names), 1, gridspec_kw={"hspace": 0.08}, subplot_kw={"xticks": [], "yticks": []}
    )
    for axes, name in zip(grid, names, strict=True):
        axes.spines[:].set_visible(False)
        axes.set_facecolor("lightsteelblue")  # seen through what is NaN
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return grid


def _strip(pictures):
    """Pictures (n, height, width, ...) side by side, each within a frame: white around images, NaN
    around maps. (Axes of their own would take ten times as long to draw.)
    """
    frame = (max(1, pictures.shape[2] // 32),) * 2
    white = 255 if pictures.dtype == np.uint8 else np.nan
    behind = [(0, 0)] * (pictures.ndim - 3)
    padded = np.pad(pictures, [(0, 0), frame, frame, *behind], constant_values=white)
    return np.concatenate(padded, axis=1)


def _picture(axes, image):
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image)


def _thin(x, y):
    """At most CURVE_POINTS points of a curve, its ends kept."""
    if len(x) <= CURVE_POINTS:
        return x, y
    rows = np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int)
    return x[rows], y[rows]


def _figure(width, height, columns=1):
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots(1, columns)
