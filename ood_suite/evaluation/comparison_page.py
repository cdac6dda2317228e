"""Evaluated runs on one page: quality on each OOD set, near and far means apart, ranks with their
tests, and what each costs.
"""

from typing import NamedTuple

import numpy as np

from ood_suite.evaluation import comparison, diagrams, figures, page
from ood_suite.files import write_bytes, write_csv, write_json, write_text

LEVEL = 0.05  # of tests
ABOUT_SETS = (
    "[95% interval], or (standard deviation over repeats). The difference is that on the same "
    "examples (DeLong), or over the same repeats (Student's paired test); p values are corrected "
    "for all comparisons."
)
ABOUT_RANKS = (
    "Rank 1 is the best AUROC of a block, which is an OOD set in one repeat. The Friedman test "
    "asks whether all are alike; pairs are Conover's, corrected by Holm over all pairs. Blocks of "
    "the same network are not independent: with few repeats p values are too small. CD: how far "
    "mean ranks lie apart that differ by Nemenyi's test, which is stricter."
)


class Section(NamedTuple):
    """A table of the page.

    Attributes:
        lines: lists of texts, the first of which is the line's name. said: what it needs to be
            understood.
    """

    title: str
    columns: list
    lines: list
    said: str = ""

    @property
    def rows(self):
        """The lines as a template takes them."""
        return [{"name": line[0], "cells": line[1:]} for line in self.lines]


def write(folder, entries, ood_sets):
    """Writes comparison.html, comparison.md, comparison.csv, comparison.json, comparison.png and,
    of at least three entries on two blocks, ranks.png (ranks_of_scores.png), else removes these.

    Args:
        entries, ood_sets: as comparison.read gives them.

    Returns:
        the page, in Markdown.
    """
    rows, averaged = comparison.compare(entries, ood_sets), comparison.means(entries, ood_sets)
    costs, ranked = comparison.costs_of(entries), comparison.rankings(entries, ood_sets)
    found = sections(rows, averaged, costs, ranked)
    said = verdict(rows, averaged, ranked)
    text = markdown(said, found)
    write_csv(folder / "comparison.csv", rows)
    write_text(folder / "comparison.md", text)
    write_json(
        folder / "comparison.json",
        {"rows": rows, "means": averaged, "costs": costs, "ranks": [_plain(*r) for r in ranked]},
    )
    drawn = {"comparison": figures.comparison(rows)}
    drawn |= {name: diagrams.ranks(names, found) for name, names, found in ranked}
    pictures = {name: page.png(figure) for name, figure in drawn.items()}
    for name, data in pictures.items():
        write_bytes(folder / f"{name}.png", data)
    for name in {"ranks", "ranks_of_scores"} - set(pictures):  # of an earlier comparison here
        (folder / f"{name}.png").unlink(missing_ok=True)
    write_text(folder / "comparison.html", html(entries, ood_sets, said, found, pictures))
    return text


def html(entries, ood_sets, said, found, pictures):
    """The page as one file that needs no network."""
    repeats = sorted({len(entry.groups) for entry in entries})
    facts = [
        ("date", page.now()),
        ("reports", ", ".join(dict.fromkeys(entry.run for entry in entries))),
        ("scores", ", ".join(dict.fromkeys(entry.score for entry in entries))),
        (
            "OOD sets that all have",
            f"{', '.join(ood_sets)}; the same by fingerprint",
        ),
        ("repeats", " to ".join(map(str, dict.fromkeys((repeats[0], repeats[-1]))))),
    ]
    return page.template("comparison.html").render(
        title=f"{len(entries)} compared on {', '.join(ood_sets)}", verdict=said, facts=facts,
        command=page.command(), sections=found, figures=page.shown(pictures),
    )  # fmt: skip


def verdict(rows, averaged, ranked):
    """Sentences: which is best, and what tells it from the others."""
    every = [row for row in averaged if row["mean"] == "all"]
    best = max(every, key=lambda row: row["auroc"])
    found = [f"Best mean AUROC over the sets that all have: {best['run']}, {best['auroc']:.3f}."]
    for name, treatments, ranking in ranked:
        found.append(_told_apart(name.replace("ranks", "").replace("_", " "), treatments, ranking))
    tested = [row["versus_p_holm"] < LEVEL for row in rows if "versus_p_holm" in row]
    if tested:
        found.append(
            f"{sum(tested)} of {len(tested)} AUROCs differ from the first's on the same examples "
            f"({LEVEL:.0%}; DeLong, over repeats Student's paired test; Holm)."
        )
    return found


def _told_apart(of, treatments, ranking):
    if not ranking.p_value < LEVEL:
        return f"Ranks{of} are not told apart (Friedman's p is {ranking.p_value:.2g})."
    first = int(np.argmin(ranking.mean_ranks))
    others = [i for i in range(len(treatments)) if i != first]
    alike = [treatments[i] for i in others if not ranking.pairs[first, i] < LEVEL]
    rest = f"all but {', '.join(alike)}" if alike else "all others"
    told = "none of the others" if len(alike) == len(others) else rest
    return (
        f"Best mean rank{of}: {treatments[first]}, {ranking.mean_ranks[first]:.2f}; told from "
        f"{told} ({LEVEL:.0%}, Conover, Holm)."
    )


def _plain(name, treatments, found):
    values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found._asdict().items()}
    return {"name": name, "treatments": treatments} | values


def sections(rows, averaged, costs, ranked):
    """The tables as Sections."""
    found = [_of_means(averaged), _of_sets(rows)]
    found += [_of_ranks(*ranking) for ranking in ranked]
    return found + ([_of_costs(costs)] if any(len(row) > 1 for row in costs) else [])


def markdown(said, found):
    """The page as text.

    Args:
        said: sentences. found: Sections.
    """
    parts = ["# Comparison", "\n".join(said)]
    for section in found:
        parts += [f"## {section.title}", _table(section.columns, section.lines)]
        parts += [section.said] if section.said else []
    return "\n\n".join(parts) + "\n"


def _table(titles, lines):
    head = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join(head + ["| " + " | ".join(line) + " |" for line in lines])


def _of_sets(rows):
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
    return Section("On each OOD set", titles, lines, ABOUT_SETS)


def _of_means(averaged):
    titles = ["run", "mean of", *(page.TITLES[name] for name in comparison.METRICS)]
    lines = [
        [row["run"], f"{row['mean']} ({row['sets']})"]
        + [f"{row[metric]:.3f}" if metric in row else "" for metric in comparison.METRICS]
        for row in averaged
    ]
    return Section("Means", titles, lines)


def _of_ranks(name, treatments, found):
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
    title = name.replace("_", " ").capitalize()
    columns = ["", "mean rank", "p against the best"]
    return Section(title, columns, lines, f"{said} {ABOUT_RANKS}")


def _of_costs(costs):
    titles = [
        "run", "fit, s", "score, s per 10,000", "network, s per 10,000", "learned, MiB"
    ]  # fmt: skip
    lines = [[r["run"], *(_number(r.get(key)) for key in comparison.COSTS)] for r in costs]
    return Section("Costs", titles, lines)


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
