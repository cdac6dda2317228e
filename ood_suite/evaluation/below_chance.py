"""Where a score ranks OOD examples as more in-distribution than ID ones, and why."""

import numpy as np

ALIKE = 0.1  # difference in PNG length below which images are as complex as the ID ones


def below_chance(rows, id_test, ood_tests):
    """Sentences for the reader of a report: one that names scores and sets whose AUROC is below 0.5
    with its whole interval, and, of densities of images, one a set that says how complex it is.

    Args:
        rows: of results.result_row: score, ood, auroc, auroc_high.
        id_test: Outputs. ood_tests: {data set: Outputs}.
    """
    below = [row for row in rows if row.get("auroc_high", 1.0) < 0.5]
    if not below:
        return []
    named = ", ".join(f"{r['score']} on {r['ood']} ({r['auroc']:.3f})" for r in below)
    notes = [f"Worse than chance: {named}. Do not use these scores for such data"]
    for name in dict.fromkeys(row["ood"] for row in below):
        notes += _complexity(name, id_test, ood_tests[name])
    return notes


def _complexity(name, id_test, outputs):
    """How long the PNGs of an OOD set are beside those of the ID set, and what follows."""
    if id_test.code_length is None or outputs.code_length is None:
        return []
    share = float(np.mean(outputs.code_length) / np.mean(id_test.code_length))
    if abs(share - 1.0) < ALIKE:
        return [f"{name}: as complex as the ID images (PNG lengths {share:.2f} of theirs)"]
    if share < 1.0:
        why = "simple images are likely under any model of images, so that the likelihood is high"
    else:
        why = "complex images are unlikely under foreground and background alike: what is left of "
        why += "the ratio says little, and the likelihood by itself says more"
    return [f"{name}: PNG lengths are {share:.2f} of the ID images'; {why}"]
