"""Evaluated runs on one page: quality on each OOD set, near and far means apart, ranks with their
tests, and what each costs.
"""

import numpy as np

from ood_suite import ranks
from ood_suite.evaluation import comparison, diagrams, figures
from ood_suite.files import atomic_path, write_csv, write_json, write_text

METRICS = ("auroc", "fpr95_id_positive", "fpr95_ood_positive", "scod_augrc")
COSTS = (
    "fit_seconds", "score_seconds_per_10000", "extraction_seconds_per_10000", "learned_mib"
)  # fmt: skip
ABOUT_RANKS = (
    "Rank 1 is the best AUROC of a block, which is an OOD set in one repeat. The Friedman test "
    "asks whether all are alike; pairs are Conover's, corrected by Holm over all pairs. Blocks of "
    "the same network are not independent: with few repeats p values are too small. CD: how far "
    "mean ranks lie apart that differ by Nemenyi's test, which is stricter."
)


def write(folder, entries, ood_sets):
    """Writes comparison.csv, comparison.md, comparison.json, comparison.png and, of at least three
    entries on two blocks, ranks.png (ranks_of_scores.png).

    Args:
        entries, ood_sets: as comparison.read gives them.

    Returns:
        the page, in Markdown.
    """
    rows, averaged = comparison.compare(entries, ood_sets), means(entries, ood_sets)
    costs, ranked = costs_of(entries), rankings(entries, ood_sets)
    text = page(rows, averaged, costs, ranked)
    write_csv(folder / "comparison.csv", rows)
    write_text(folder / "comparison.md", text)
    write_json(
        folder / "comparison.json",
        {"rows": rows, "means": averaged, "costs": costs, "ranks": [_plain(*r) for r in ranked]},
    )
    drawn = {"comparison": figures.comparison(rows)}
    drawn |= {name: diagrams.ranks(names, found) for name, names, found in ranked}
    for name, figure in drawn.items():
        with atomic_path(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", bbox_inches="tight")
    return text


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
            known = [float(r[key]) for r in entry.costs if r[key] != ""]
            row |= {key: float(np.mean(known))} if known else {}
        found.append(row)
    return found


def _plain(name, treatments, found):
    values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found._asdict().items()}
    return {"name": name, "treatments": treatments} | values


def page(rows, averaged, costs, ranked):
    """The comparison in Markdown."""
    parts = ["# Comparison", "## On each OOD set", _set_table(rows)]
    parts += ["## Means", _mean_table(averaged)]
    for name, treatments, found in ranked:
        parts += [f"## {name.replace('_', ' ').capitalize()}", _rank_table(treatments, found)]
    if ranked:
        parts.append(ABOUT_RANKS)
    if any(len(row) > 1 for row in costs):
        parts += ["## Costs", _cost_table(costs)]
    return "\n\n".join(parts) + "\n"


def _table(titles, lines):
    head = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join(head + ["| " + " | ".join(line) + " |" for line in lines])


def _set_table(rows):
    titles = ["run", "OOD", "AUROC", "FPR95 ID+", "ID accuracy"]
    titles += ["AUROC minus the first's", "p (Holm)"]
    lines = []
    for row in rows:
        line = [row["run"], row["ood"], _cell(row, "auroc"), _cell(row, "fpr95_id_positive")]
        line.append(f"{row['accuracy']:.4f}" if "accuracy" in row else "")
        difference = "versus_difference" in row
        spread = _spread(row, "versus", "+")
        line.append(f"{row['versus_difference']:+.3f} {spread}" if difference else "")
        line.append(f"{row['versus_p_holm']:.2g}" if "versus_p_holm" in row else "")
        lines.append(line)
    return _table(titles, lines)


def _mean_table(averaged):
    titles = ["run", "mean of", *(name.replace("_", " ") for name in METRICS)]
    lines = [
        [row["run"], f"{row['mean']} ({row['sets']})", *(_number(row.get(m)) for m in METRICS)]
        for row in averaged
    ]
    return _table(titles, lines)


def _rank_table(treatments, found):
    order = np.argsort(found.mean_ranks, kind="stable")
    against = ["", *(f"{found.pairs[order[0], i]:.2g}" for i in order[1:])]
    lines = [
        [treatments[i], f"{found.mean_ranks[i]:.2f}", p_value]
        for i, p_value in zip(order, against, strict=True)
    ]
    said = (
        f"{found.blocks} blocks, Friedman chi2 {found.statistic:.2f}, p {found.p_value:.2g}, "
        f"CD {found.critical_difference:.2f}."
    )
    return _table(["", "mean rank", "p against the best"], lines) + "\n\n" + said


def _cost_table(costs):
    titles = [
        "run", "fit, s", "score, s per 10,000", "network, s per 10,000", "learned, MiB"
    ]  # fmt: skip
    return _table(titles, [[r["run"], *(_number(r.get(key)) for key in COSTS)] for r in costs])


def _number(value):
    return "" if value is None else f"{value:.3g}"


def _cell(row, metric):
    return f"{row[metric]:.3f} {_spread(row, metric)}".strip()


def _spread(row, start, sign=""):
    if f"{start}_std" in row:
        return f"({row[f'{start}_std']:.3f})"
    if f"{start}_low" in row:
        return f"[{row[f'{start}_low']:{sign}.3f}, {row[f'{start}_high']:{sign}.3f}]"
    return ""
