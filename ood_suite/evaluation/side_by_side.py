"""A run under a protocol of a paper: our numbers, the published ones, and the differences."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import sys

import numpy as np
from absl import logging

from ood_suite import metrics
from ood_suite.data import names, short_name
from ood_suite.data.layouts import root_of
from ood_suite.evaluation.evaluate import evaluate
from ood_suite.evaluation.groups import find_groups
from ood_suite.evaluation.request import Request
from ood_suite.files import write_csv, write_json
from ood_suite.protocols import FAR, ID, MEAN, NEAR, Protocol

# Of a score that has no published numbers: the paper's FPR95, and what says most.
SHOWN = ("auroc", "aupr_in")
MEANS = (MEAN, NEAR, FAR)
WIDTHS = {"method": 22, "score": 42, "ood": 14, "metric": 18}


def judge(
    name: str,
    protocol: Protocol,
    folder: pathlib.Path,
    request: Request,
    *,
    data_dir=None,
    out=None,
):
    """Evaluates a run under a protocol, prints the table, and writes protocol.csv and
    protocol.json beside the report.

    Args:
        name: of the protocol. request: with the protocol's scores and OOD sets, see `asked`.
        out: folder; default: RUN/protocol_<name>, with the checkpoint's if it is not the last.

    Returns:
        rows, see `compare`.
    """
    target = pathlib.Path(out or pathlib.Path(folder) / f"protocol_{name}{request.suffix}")
    notes = [*protocol.notes, *_strangers(protocol, folder, request)]

    def on_page(reports):
        rows, _ = compare(protocol, reports)
        return {"title": protocol.title, "rows": [_in_per_cent(row) for row in rows]}

    own = dataclasses.replace(request, json=False)  # its JSON is not what is asked for here
    with contextlib.redirect_stdout(sys.stderr if request.json else sys.stdout):
        reports = evaluate(folder, own, data_dir=data_dir, out=target, beside=on_page)
    rows, absent = compare(protocol, reports)
    if absent and len(_sets(protocol)) > 1:
        notes.append(f"no mean over the protocol's sets is taken without {', '.join(absent)}")
    found = list(dict.fromkeys(note for report in reports for note in report.notes))
    write_csv(target / "protocol.csv", rows)
    judged = {
        "protocol": name, "checkpoint": request.checkpoint, "title": protocol.title,
        "fpr95": protocol.fpr95, "rows": rows, "absent": absent, "notes": notes + found,
    }  # fmt: skip
    write_json(target / "protocol.json", judged)
    print(
        json.dumps(judged | {"report": str(target)})
        if request.json
        else table(protocol, rows, notes)
    )
    logging.info("Wrote protocol.csv and protocol.json to %s.", target)
    return rows


def located(protocol: Protocol, data_dir=None) -> Protocol:
    """The protocol with its lists of images in place of whole sets, as far as they lie below the
    root of `data_dir`.
    """
    root = root_of(data_dir)

    def of(name):
        parts = names.parse(name)
        path = root / protocol.lists[parts.bare] if root and parts.bare in protocol.lists else None
        if path is None or not path.is_file():
            return name
        return f"{path}:{parts.transform}" if parts.transform else str(path)

    near, far = (tuple(of(name) for name in sets) for sets in (protocol.near, protocol.far))
    return dataclasses.replace(protocol, near=near, far=far)


def asked(protocol: Protocol) -> dict:
    """What a protocol says of a Request: {field: value}."""
    return {
        "scores": protocol.scores, "ood_near": protocol.near, "ood_far": protocol.far,
        "optional": True,
    }  # fmt: skip


def compare(protocol: Protocol, reports: list) -> tuple[list, list]:
    """(rows, OOD sets that are absent). A row has score, method, ood, metric, ours, published,
    difference (ours - published) and source; ours is the mean over repeats, None where a set or a
    score is absent. Our scores that nobody published follow, with SHOWN and the protocol's FPR95.
    """
    ours = _ours(protocol, reports)
    rows = [
        _row(
            ours, one.score, one.method, ood=ood, metric=metric, published=value, source=one.source
        )
        for one in protocol.published
        for ood, values in one.values.items()
        for metric, value in values.items()
    ]
    known = {(row["score"], row["ood"], row["metric"]) for row in rows}
    rows += [
        _row(ours, score, "", ood=ood, metric=metric)
        for score, ood, metric in ours
        if (score, ood, metric) not in known and ood != ID and metric in (*SHOWN, protocol.fpr95)
    ]
    if len({ood for _, ood, _ in ours} - {ID, *MEANS}) == 1:  # the mean of one is said already
        rows = [row for row in rows if row["ood"] not in MEANS or row["method"]]
    there = {ood for _, ood, _ in ours}
    return rows, [ood for ood in _sets(protocol) if ood not in there]


def _row(ours, score, method, *, ood, metric, published=None, source=""):
    own = ours.get((score, ood, metric))
    both = own is not None and published is not None
    return {
        "score": score, "method": method, "ood": ood, "metric": metric, "ours": own,
        "published": published, "difference": own - published if both else None, "source": source,
    }  # fmt: skip


def _ours(protocol, reports):
    """{(score, OOD set, one of MEANS or ID, metric): mean over repeats}."""
    values: dict[tuple, list] = {}
    for report in reports:
        rows = [row for row in report.rows if row["ood"] in report.test_sets]
        for row in rows:
            for metric in (name for name in metrics.METRICS if name in row):
                values.setdefault((row["score"], row["ood"], metric), []).append(row[metric])
        for score in protocol.scores:
            if "accuracy" in report.classifier:
                accuracy = report.classifier["accuracy"]
                values.setdefault((score, ID, "accuracy"), []).append(accuracy)
    found = {key: float(np.mean(list_of)) for key, list_of in values.items()}
    sets = _sets(protocol) or list(dict.fromkeys(ood for _, ood, _ in found if ood != ID))
    near = sets[: len(protocol.near)]
    groups = {MEAN: sets} | ({NEAR: near, FAR: sets[len(near) :]} if near else {})
    for score in dict.fromkeys(score for score, ood, _ in found if ood != ID):
        for (mean, members), metric in itertools.product(groups.items(), metrics.METRICS):
            cells = [found[key] for ood in members if (key := (score, ood, metric)) in found]
            if cells and len(cells) == len(members):
                found[score, mean, metric] = float(np.mean(cells))
    return found


def _sets(protocol):
    """Names of its OOD sets as a report has them."""
    return [_untransformed(name) for name in (*protocol.near, *protocol.far)]


def _untransformed(name):
    """imagenet of imagenet:imagenet, dtd@100 of dtd:shorter_side@100, test_tin of its list."""
    found = names.parse(name)
    bare = short_name(pathlib.Path(found.bare)) if os.path.exists(found.bare) else found.bare
    return f"{bare}@{found.count}" if found.count else bare


def _strangers(protocol, folder, request):
    """A note on a run of another ID set than the protocol's."""
    role = find_groups(pathlib.Path(folder), request.checkpoint)[0].foreground.roles.get("id_test")
    own = [_untransformed(name) for name in role.names] if role else []
    lists = [f"test_{protocol.id_dataset}", f"test_{protocol.id_dataset}.txt"]  # of OpenOOD
    known = {protocol.id_dataset, *lists}
    if not own or not protocol.id_dataset or known & {name.split("/")[-1] for name in own}:
        return []
    return [
        f"the protocol's ID set is {protocol.id_dataset}, the run's is {' or '.join(role.names)}: "
        "published numbers are of other data"
    ]


def table(protocol: Protocol, rows: list, notes: list) -> str:
    """The comparison as text, in per cent."""
    lines = ["", f"{protocol.title}. In per cent; FPR95 as the paper has it: {protocol.fpr95}."]
    head = "".join(f"{title:<{width}}" for title, width in WIDTHS.items())
    lines.append(f"{head}{'ours':>9}{'published':>11}{'difference':>12}")
    for row in rows:
        start = "".join(f"{row[title] or '-':<{width}}" for title, width in WIDTHS.items())
        cells = (_per_cent(row["ours"]), _per_cent(row["published"]))
        lines.append(f"{start}{cells[0]:>9}{cells[1]:>11}{_per_cent(row['difference'], '+'):>12}")
    sources = dict.fromkeys(f"Published: {row['source']}" for row in rows if row["source"])
    return "\n".join([*lines, *sources, *(f"Note: {note}." for note in notes)])


def _in_per_cent(row):
    """A row for the page, whose columns are those of the table."""
    found = {key: row[key] or "-" for key in ("score", "method", "ood", "metric")}
    found |= {key: _per_cent(row[key]) for key in ("ours", "published")}
    return found | {"difference": _per_cent(row["difference"], "+"), "source": row["source"]}


def _per_cent(value, sign=""):
    return "-" if value is None else f"{100 * value:{sign}.2f}"
