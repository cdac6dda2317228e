"""ID test data under covariate shift: reported apart, because they are no OOD data. A good detector
passes what its classifier still gets right.
"""

import numpy as np

from ood_suite import conformal, intervals, metrics
from ood_suite.files import write_csv


def evaluated(detectors, values, tests, right):
    """(`rows`, `full_spectrum`) of an evaluation, empty where no shift was asked for.

    Args:
        detectors: {score: fitted Detector}. values: {score: (id_scores, {OOD set: scores})}.
        tests: material.Tests. right: as `rows` takes it.
    """
    if not tests.shifted:
        return [], []
    own_values = values_of(detectors, values, tests.shifted)
    thresholds = {name: detector.threshold_ for name, detector in detectors.items()}
    of_id = {"clean": tests.id_test, **tests.shifted}
    others = {name: own for name, (_, own) in own_values.items()}
    return rows(own_values, of_id, thresholds, right), full_spectrum(values, others)


def values_of(detectors, values, parts):
    """{score: (its values on the ID test set, {part: its values})} of further Outputs."""
    return {
        name: (values[name][0], {part: detector.score(o) for part, o in parts.items()})
        for name, detector in detectors.items()
    }


def rows(values, shifted, thresholds, right):
    """One dict per score and shift, the ID test set as it is ("clean") first: the classifier's
    accuracy, the share that is flagged as OOD at the threshold, also of those that are classified
    correctly, and the AUROC of clean against shifted images with its interval.

    Args:
        values: {score: (id_scores, {shift: scores})}. shifted: {shift: Outputs}, "clean" among
            them. thresholds: {score: float}. right: function of Outputs -> bool (n,), None for a
            density.
    """
    found = []
    for score, (own, others) in values.items():
        for shift, scored in ({"clean": own} | others).items():
            flagged = conformal.beyond(scored, thresholds[score])
            row = {"score": score, "shift": shift, "num": len(scored)}
            correct = right(shifted[shift])
            if correct is not None:
                row["accuracy"] = float(correct.mean())
                if correct.any():
                    row["flagged_of_correct"] = float(flagged[correct].mean())
            row["flagged"] = float(flagged.mean())
            if shift != "clean":
                row["auroc"] = metrics.auroc(metrics.Counts.of(own, scored))
                row["auroc_low"], row["auroc_high"] = intervals.auroc_interval(own, scored)
            found.append(row)
    return found


def full_spectrum(values, others):
    """One dict per score and OOD set: METRICS where ID is the clean and all shifted images.

    Args:
        values: {score: (id_scores, {OOD set: scores})}. others: {score: {shift: scores}}.

    Reference: Yang et al., "Full-Spectrum Out-of-Distribution Detection", IJCV 2023; Zhang et al.,
        "OpenOOD v1.5", 2023.
    """
    found = []
    for score, (own, of_ood) in values.items():
        spectrum = np.concatenate([own, *others[score].values()])
        for ood, scored in of_ood.items():
            row = {"score": score, "ood": ood, "num_id": len(spectrum), "num_ood": len(scored)}
            found.append(row | metrics.evaluate(spectrum, scored))
    return found


def write(folder, reports):
    """Writes shifted.csv and full_spectrum.csv, where there is something to say."""
    for name in ("shifted", "full_spectrum"):
        lines = [{"repeat": g.repeat_id} | row for g in reports for row in getattr(g, name)]
        if lines:
            write_csv(folder / f"{name}.csv", lines)


def table(report):
    """Lines for a terminal: of each shift what the first, or the best, score makes of it."""
    best, own, spectrum = of_best(report)
    if not best:
        return []
    lines = ["", f"ID data under shift, by {best} (no OOD data; all scores: shifted.csv)"]
    lines.append(f"  {'shift':<20}{'accuracy':>10}{'flagged':>10}{'AUROC':>8}")
    for row in own:
        cells = (f"{row[k]:.3f}" if k in row else "-" for k in ("accuracy", "flagged", "auroc"))
        lines.append("  {:<20}{:>10}{:>10}{:>8}".format(row["shift"], *cells))
    for row in spectrum:
        lines.append(f"  Full-spectrum AUROC against {row['ood']}: {row['auroc']:.4f}")
    return lines


def of_best(report):
    """(the best score of the full spectrum, or the first, rows of `shifted`, of `full_spectrum`) of
    a report; ("", [], []) if there is nothing under shift.
    """
    if not report.shifted:
        return "", [], []
    best = best_of(report.full_spectrum) or report.shifted[0]["score"]
    parts = report.shifted, report.full_spectrum
    return best, *([row for row in part if row["score"] == best] for part in parts)


def best_of(lines):
    """The score of the largest mean AUROC over rows, or None."""
    aurocs: dict[str, list[float]] = {}
    for row in lines:
        aurocs.setdefault(row["score"], []).append(row["auroc"])
    return max(aurocs, key=lambda score: np.mean(aurocs[score])) if aurocs else None
