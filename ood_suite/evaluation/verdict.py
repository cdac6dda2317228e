"""Which score a report recommends, by validation data alone, with its threshold and its promise."""

import shlex

import numpy as np

from ood_suite import conformal, intervals, metrics, scores
from ood_suite.data import DATASETS, layouts, names
from ood_suite.evaluation.overlap import SHARED_VALIDATION, shared
from ood_suite.scores import named

SEED = 20  # of the parting of held-out examples
# What scores of a detector of pixels may need, of a network as it is.
OF_PIXELS = {"features", "logits", "logits_perturbed", "head_kernel", "head_bias"}


def halves(count):
    """Rows of two halves of held-out examples, in ascending order: one to choose a score by, one to
    set its threshold.

    What chose among scores must not set the threshold: the best of several on these examples has
    fewer false alarms among them than among new ones.
    """
    order = np.random.default_rng(SEED).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def recommended(detectors, validation_ood, ood_tests, has_chosen=False):
    """The score with the best AUROC of one half of the held-out ID against validation OOD examples,
    as a dict: score, and its name with_parameters that are no defaults; validation_ood, auroc, low,
    high (a 95% interval); threshold and promise, of the other half; compared (how many scores
    were) and alike (how many of the others are not below it by a 95% interval); is_generated,
    whether the validation data are noise of ours. {} without validation data, or if these, or a
    sample of them, are tested on as well.

    Args:
        has_chosen: whether all held-out examples had a part in an earlier choice, which is kept.

    Scores that learned from the validation data, or need more of them than was extracted, are not
    compared.
    """
    if validation_ood is None or not detectors:
        return {}
    if any(_is_tested_on(validation_ood, outputs) for outputs in ood_tests.values()):
        return {}
    found = {}
    for name, detector in detectors.items():
        if hasattr(detector.entry.fn, "fit_validation"):
            continue
        try:
            own = detector.calibration_
            found[name] = own[halves(len(own))[0]], detector.score(validation_ood)
        except ValueError:  # such as perturbed logits, which nobody asked for of these data
            continue
    if not found:
        return {}
    aurocs = {name: metrics.auroc(metrics.Counts.of(*pair)) for name, pair in found.items()}
    best = max(aurocs, key=lambda name: aurocs[name])
    low, high = intervals.auroc_interval(*found[best])
    detector = detectors[best]
    own = detector.calibration_[halves(len(detector.calibration_))[1]]
    others = [pair for name, pair in found.items() if name != best]
    leads = [intervals.paired_auroc_difference(found[best], pair)["low"] for pair in others]
    threshold = conformal.accepting(own, detector.acceptance)
    return {
        "score": best,
        "with_parameters": named.composed(best, detector.parameters),
        "validation_ood": validation_ood.meta["dataset"],
        "auroc": aurocs[best],
        "low": float(low),
        "high": float(high),
        "threshold": threshold,
        "promise": str(conformal.Promise.of(len(own), int(np.sum(own <= threshold)))),
        "compared": len(found),
        "alike": sum(low <= 0.0 for low in leads),
        "has_chosen": has_chosen,
        "is_generated": _is_generated(validation_ood.meta["dataset"]),
    }


def _is_tested_on(validation_ood, outputs):
    """Whether OOD tests are the validation data, or hold more of them than public sets share."""
    if outputs.meta["fingerprint"] == validation_ood.meta["fingerprint"]:
        return True
    if outputs.example_hashes is not None and validation_ood.example_hashes is not None:
        return shared(validation_ood, outputs) > SHARED_VALIDATION * len(validation_ood)
    first, second = (
        (names.parse(o.meta["dataset"]).bare, o.meta.get("split"))
        for o in (validation_ood, outputs)
    )
    return first == second


def next_command(run, found, data_dir=None):
    """The command that makes a detector of a run of a classifier of images, as a shell takes it.

    Args:
        found: as `recommended` gives it; without any, and of a score of what a detector of pixels
            has not, the command itself chooses.
    """
    words = ["python", "-m", "ood_suite.calibrate", f"--run={run.folder}"]
    words += [f"--checkpoint={run.checkpoint}"] if run.checkpoint != "last" else []
    words += layouts.flags(data_dir)
    score = found.get("with_parameters", "auto")
    if found and set(scores.get(score).needs) - OF_PIXELS:
        score = "auto"
    return shlex.join([*words, f"--score={score}"])


def in_words(reports):
    """The verdict as one sentence or two, for every reader."""
    first = reports[0]
    if not first.verdict:
        return (
            "No score is recommended: no validation OOD data were looked at, and test data must "
            "not choose."
        )
    verdict = first.verdict
    others = len(reports) - 1
    text = (
        f"{verdict['with_parameters']} is recommended: of {verdict['compared']} scores it tells "
        f"validation data best apart ({verdict['validation_ood']}, AUROC {verdict['auroc']:.3f} "
        f"[{verdict['low']:.3f}, {verdict['high']:.3f}]{_alike(verdict['alike'])}). An example is "
        "OOD where it is above "
        f"{verdict['threshold']:.6g}: {verdict['promise']}. The other half of the held-out "
        "examples chose the score."
    )
    if verdict["is_generated"]:
        text += " The validation OOD data are generated: others may rank the scores otherwise."
    if verdict["has_chosen"]:
        text += " All of them had a part in an earlier choice, of parameters or of a background."
    if others:
        same = sum(report.verdict.get("score") == verdict["score"] for report in reports[1:])
        text += f" {same} of {others} further repeats recommend the same."
    return text


def _is_generated(title):
    """Whether a data set of that title is noise of ours."""
    bare = names.parse(title).bare
    return bare in DATASETS and DATASETS[bare].generator is not None


def _alike(count):
    """Words on the scores that the validation data do not tell from the best."""
    if not count:
        return ""
    return f"; {count} others are as good there" if count > 1 else "; another is as good there"


def sentence(note):
    """A note with one full stop at its end, or the dots that it has."""
    return note if note.endswith("...") else f"{note.rstrip('.')}."


def of_first(reports):
    """What marks that something is of the first repeat alone, where there are several."""
    return " (first repeat)" if len(reports) > 1 else ""


def names_of(reports):
    """Names of the scores that any repeat has, as they come."""
    return list(dict.fromkeys(row["score"] for report in reports for row in report.rows))


def rows_of(reports, name, ood):
    """The rows of a score on an OOD set, of the repeats that have it."""
    every = (row for report in reports for row in report.rows)
    return [row for row in every if (row["score"], row["ood"]) == (name, ood)]


def ranked(reports):
    """Names of the scores, the best mean AUROC over OOD sets first; as they come without any."""
    names = names_of(reports)
    means = {name: mean(reports, name, "auroc") for name in names}
    return sorted(names, key=lambda name: -means[name] if means[name] is not None else 0.0)


def mean(reports, name, metric):
    """Mean of a metric over OOD sets and repeats, or None."""
    rows = [
        row for report in reports for row in report.rows
        if row["score"] == name and row["ood"] in report.test_sets and metric in row
    ]  # fmt: skip
    return float(np.mean([row[metric] for row in rows])) if rows else None
