"""Rows of results: metrics with intervals, comparisons, means; and figures of the classifier."""

import numpy as np

from ood_suite import intervals, metrics, ranks, selective
from ood_suite.evaluation.overlap import is_labelled


def result_row(name, ood_name, values, baseline, resamples, correct=None):
    """One line of the results: metrics with intervals, and the difference to the baseline score.

    Args:
        values: {score: (id_scores, {data set: ood_scores})}.
        correct: bool (n_id,), whether the classifier is right, for OSCR and risks.
    """
    pair = values[name][0], values[name][1][ood_name]
    row = {"score": name, "ood": ood_name, "num_id": len(pair[0]), "num_ood": len(pair[1])}
    row |= metrics.evaluate(*pair)
    bounds = intervals.bootstrap_intervals(*pair, resamples=resamples)
    for metric, (low, high) in bounds.items():
        row |= {f"{metric}_low": low, f"{metric}_high": high}
    row["autc"] = metrics.autc(metrics.Counts.of(*pair))
    if correct is not None:
        row |= {"oscr": metrics.oscr(*pair, correct)} | selective.evaluate(*pair, correct)
    if baseline in values and name != baseline:
        other = values[baseline][0], values[baseline][1][ood_name]
        difference = intervals.paired_auroc_difference(pair, other)
        row |= {f"versus_{key}": value for key, value in difference.items()}
    return row


def correct_p_values(rows):
    """Adds `versus_p_holm`: the p values of all comparisons with the baseline, over all scores and
    OOD sets, as one family (Holm).
    """
    compared = [row for row in rows if "versus_p_value" in row]
    found = ranks.holm([row["versus_p_value"] for row in compared])
    for row, p_value in zip(compared, found, strict=True):
        row["versus_p_holm"] = float(p_value)


def group_means(rows, near):
    """Rows of plain means over the near, the far and all OOD sets of each score; none for a single
    set.
    """
    sets = list(dict.fromkeys(row["ood"] for row in rows))
    groups = {"near": [s for s in sets if s in near], "far": [s for s in sets if s not in near]}
    if not groups["near"]:
        groups = {}
    groups["all"] = sets
    found = []
    for title, members in groups.items():
        if len(sets) < 2 or not members:
            continue
        for name in dict.fromkeys(row["score"] for row in rows):
            own = [row for row in rows if row["score"] == name and row["ood"] in members]
            known = (*metrics.METRICS, "autc", "oscr", *selective.COLUMNS, "accepted")
            keys = [key for key in known if key in own[0]]
            means = {key: float(np.mean([row[key] for row in own])) for key in keys}
            label = f"mean of {title} ({', '.join(members)})"
            found.append({"score": name, "ood": label, "repeat": own[0]["repeat"]} | means)
    return found


def right(id_test):
    """bool (n,), whether a classifier is right on labelled examples; None for a density model."""
    return id_test.logits.argmax(axis=1) == id_test.labels if is_labelled(id_test) else None


def classifier_figures(id_test):
    """{"accuracy", "expected_calibration_error"} of the ID test set, {} for a density model."""
    if not is_labelled(id_test):
        return {}
    if id_test.labels.max() >= id_test.logits.shape[1]:
        raise ValueError(
            f"The ID test set has labels up to {id_test.labels.max()}, the model has "
            f"{id_test.logits.shape[1]} classes: is it the data set that the model was trained on?"
        )
    names = ["accuracy"]
    if id_test.member_logits is None:  # members' zeros for left-out classes are no probabilities
        names.append("expected_calibration_error")
    return {name: getattr(metrics, name)(id_test.logits, id_test.labels) for name in names}


def data_notes(tested):
    """What a reader must know of the data sets: samples, stand-ins, resizing."""
    found = [outputs.meta["note"] for outputs in tested if outputs and outputs.meta.get("note")]
    return list(dict.fromkeys(found))
