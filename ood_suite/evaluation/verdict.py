"""Which score a report recommends, by validation data alone, with its threshold and its promise."""

import numpy as np

from ood_suite import intervals, metrics


def recommended(detectors, validation_ood, ood_tests):
    """The score with the best AUROC of held-out ID against validation OOD examples, as a dict:
    score, validation_ood, auroc, low, high (a 95% interval), threshold, promise, compared (how many
    scores were). {} without validation data, or if these are tested on as well.

    Scores that learned from the validation data, or need more of them than was extracted, are not
    compared.
    """
    if validation_ood is None or not detectors:
        return {}
    mark = validation_ood.meta["fingerprint"]
    if any(outputs.meta["fingerprint"] == mark for outputs in ood_tests.values()):
        return {}
    found = {}
    for name, detector in detectors.items():
        if hasattr(detector.entry.fn, "fit_validation"):
            continue
        try:
            found[name] = detector.calibration_, detector.score(validation_ood)
        except ValueError:  # such as perturbed logits, which nobody asked for of these data
            continue
    if not found:
        return {}
    aurocs = {name: metrics.auroc(metrics.Counts.of(*pair)) for name, pair in found.items()}
    best = max(aurocs, key=lambda name: aurocs[name])
    low, high = intervals.auroc_interval(*found[best])
    return {
        "score": best,
        "validation_ood": validation_ood.meta["dataset"],
        "auroc": aurocs[best],
        "low": float(low),
        "high": float(high),
        "threshold": float(detectors[best].threshold_),
        "promise": str(detectors[best].promise),
        "compared": len(found),
    }


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
        f"{verdict['score']} is recommended: of {verdict['compared']} scores it tells validation "
        f"data best apart ({verdict['validation_ood']}, AUROC {verdict['auroc']:.3f} "
        f"[{verdict['low']:.3f}, {verdict['high']:.3f}]). An example is OOD where it is above "
        f"{verdict['threshold']:.6g}: {verdict['promise']}."
    )
    if others:
        same = sum(report.verdict.get("score") == verdict["score"] for report in reports[1:])
        text += f" {same} of {others} further repeats recommend the same."
    return text


def ranked(reports):
    """Names of the scores, the best mean AUROC over OOD sets first; as they come without any."""
    names = list(dict.fromkeys(row["score"] for row in reports[0].rows))
    means = {name: mean(reports, name, "auroc") for name in names}
    return sorted(names, key=lambda name: -means[name] if means[name] is not None else 0.0)


def mean(reports, name, metric):
    """Mean of a metric over OOD sets and repeats, or None."""
    rows = [
        row for report in reports for row in report.rows
        if row["score"] == name and row["ood"] in report.test_sets and metric in row
    ]  # fmt: skip
    return float(np.mean([row[metric] for row in rows])) if rows else None
