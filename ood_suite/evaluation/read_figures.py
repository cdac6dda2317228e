"""What a report says of DNA reads besides the scores: GC content, tracks along reads, and the OOD
classes one by one, with their taxonomic distance from the ID classes.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import pearsonr, spearmanr

from ood_suite import intervals, metrics

COLOURS = ("#1f77b4", "#d62728", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2")
SMOOTHED = 15  # bases of the moving mean in a track
DRAWN_POINTS, DRAWN_READS = 1500, 4


def gc_content(bases):
    """float64 (n,), the share of G and C in each read; bases (n, length), 0..3 for A C G T.

    >>> gc_content(np.array([[0, 1, 2, 3]], np.uint8))
    array([0.5])
    """
    return ((bases == 1) | (bases == 2)).mean(axis=1, dtype=np.float64)


def distance(lineage, others):
    """Ranks from a class up to the lowest ancestor that it shares with one of the others; lineages
    are joined by semicolons, from the domain down. 0 is the same class.

    >>> distance("Bacteria;A;B;C", ["Bacteria;A;X;Y", "Bacteria;Z"])
    2
    """
    ranks = lineage.split(";")

    def shared(other):
        pairs = zip(ranks, other.split(";"), strict=False)
        return int(np.argmin([*(a == b for a, b in pairs), False]))

    return len(ranks) - max(shared(other) for other in others)


def class_rows(values, id_outputs, ood_outputs):
    """One dict per score and OOD class that has a name: AUROC against all ID examples, with its
    interval, and the class's distance where lineages are known.

    Args:
        values: {score: (id_scores, {data set: ood_scores})}.
    """
    rows = []
    id_lineages = [text for text in id_outputs.meta.get("lineages", ()) if text]
    for ood, outputs in ood_outputs.items():
        names = outputs.meta.get("class_names") or []
        lineages = outputs.meta.get("lineages") or [""] * len(names)
        for label, name in enumerate(names):
            own = outputs.labels == label
            if not own.any():
                continue
            common = {"ood": ood, "class": name, "num_ood": int(own.sum())}
            if id_lineages and lineages[label]:
                common["distance"] = distance(lineages[label], id_lineages)
            for score, (id_scores, ood_scores) in values.items():
                pair = id_scores, ood_scores[ood][own]
                low, high = intervals.auroc_interval(*pair) if own.sum() > 1 else (None, None)
                auroc = metrics.auroc(metrics.Counts.of(*pair))
                rows.append(
                    {"score": score} | common
                    | {"auroc": auroc, "auroc_low": low, "auroc_high": high}
                )  # fmt: skip
    return rows


def figures(values, id_outputs, ood_outputs, rows):
    """{file name: Figure}: GC content, tracks, AUROC against distance; what the outputs allow.

    Args:
        rows: of class_rows.
    """
    drawn = {}
    sets = {id_outputs.meta["dataset"]: id_outputs, **ood_outputs}
    if id_outputs.log_prob is not None:
        shown = [name for name in ("likelihood", "likelihood_ratio") if name in values]
        if shown:
            drawn["gc_content"] = gc_figure({name: values[name] for name in shown}, sets)
        drawn["tracks"] = track_figure(sets)
    if any("distance" in row for row in rows):
        drawn["distance"] = distance_figure(rows)
    return drawn


def gc_figure(values, sets):
    """Scores against GC content, with both correlations within the ID set.

    Args:
        values: {score: (id_scores, {data set: ood_scores})}. sets: {data set: Outputs}, ID first.
    """
    figure = Figure(figsize=(4.6 * len(values), 3.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (score, (id_scores, ood_scores)) in zip(panels, values.items(), strict=True):
        for i, (name, outputs) in enumerate(sets.items()):
            scored = ood_scores[name] if i else id_scores
            gc = gc_content(outputs.bases)
            rows = np.linspace(0, len(gc) - 1, min(len(gc), DRAWN_POINTS)).astype(int)
            axes.scatter(
                gc[rows], scored[rows], s=4, alpha=0.4, linewidths=0, label=name,
                color=COLOURS[i % len(COLOURS)], zorder=2 if i else 1,
            )  # fmt: skip
        text = correlation_text(gc_content(next(iter(sets.values())).bases), id_scores)
        axes.set(xlabel="GC content", ylabel=f"{score} (higher = more OOD)")
        axes.set_title(f"{score}\n{text}", fontsize=9)
        axes.legend(frameon=False, markerscale=3, fontsize=7)
    return figure


def correlations(values, id_outputs):
    """Notes: the correlations of likelihood and ratio with the GC content of the ID reads."""
    gc = gc_content(id_outputs.bases)
    shown = [name for name in ("likelihood", "likelihood_ratio") if name in values]
    return [
        f"{name} and GC content of the {correlation_text(gc, values[name][0])}" for name in shown
    ]


def correlation_text(gc, scores):
    """Pearson's and Spearman's correlation as text; of a constant there is none."""
    if np.ptp(gc) == 0.0 or np.ptp(scores) == 0.0:
        return "no correlation: one of the two is constant"
    pearson, spearman = pearsonr(gc, scores).statistic, spearmanr(gc, scores).statistic
    return f"ID: Pearson {pearson:+.2f}, Spearman {spearman:+.2f}"


def track_figure(sets):
    """log p(base) along a few reads of every set, or with a background model the log ratio; moving
    means over SMOOTHED bases.
    """
    lines = len(sets)
    figure = Figure(figsize=(7.0, 1.9 * lines + 0.4), dpi=110, layout="constrained")
    panels = figure.subplots(lines, 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for axes, (i, (name, outputs)) in zip(panels, enumerate(sets.items()), strict=True):
        track = outputs.log_prob_map.astype(np.float64)
        ratio = outputs.background_log_prob_map is not None
        if ratio:
            track = track - outputs.background_log_prob_map
        width = min(SMOOTHED, track.shape[1])
        sums = np.cumsum(np.pad(track, ((0, 0), (1, 0))), axis=1)
        means = (sums[:, width:] - sums[:, :-width]) / width
        rows = np.linspace(0, len(means) - 1, min(len(means), DRAWN_READS)).astype(int)
        for row in rows:
            axes.plot(
                np.arange(means.shape[1]) + width // 2, means[row], linewidth=0.9, alpha=0.8,
                color=COLOURS[i % len(COLOURS)],
            )  # fmt: skip
        axes.axhline(means.mean(), color="black", linestyle=":", linewidth=1)
        axes.set_title(f"{name} (dotted: mean of all its reads)", fontsize=8)
        axes.set_ylabel("log ratio, nats" if ratio else "log p, nats", fontsize=8)
    panels[-1].set_xlabel("base (higher = more ID)")
    return figure


def distance_figure(rows):
    """AUROC of every OOD class against its distance from the ID classes, one colour a score."""
    rows = [row for row in rows if "distance" in row]
    names = list(dict.fromkeys(row["score"] for row in rows))[: len(COLOURS)]
    figure = Figure(figsize=(5.6, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        own = [row for row in rows if row["score"] == name]
        x = np.array([row["distance"] for row in own], float) + 0.06 * (i - (len(names) - 1) / 2)
        axes.scatter(x, [row["auroc"] for row in own], s=18, color=COLOURS[i], label=name)
    for row in rows:
        if row["score"] == names[0]:
            axes.annotate(row["class"], (row["distance"], row["auroc"]), fontsize=6, xytext=(5, 3),
                          textcoords="offset points")  # fmt: skip
    axes.axhline(0.5, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="ranks up to an ancestor shared with an ID class", ylabel="AUROC")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=7)
    return figure
