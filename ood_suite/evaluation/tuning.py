"""The tuning of scores on validation data."""

import numpy as np
from absl import logging

from ood_suite import metrics, scores
from ood_suite.detector import Detector
from ood_suite.progress import progress


def tune(names, held_out, training, validation_ood):
    """The best setting of each score's grid by the AUROC of held-out ID against validation OOD.

    Settings that the data do not allow (such as more neighbours than examples) are left out. Ties
    go to the default, then to the order of the grid.

    Returns:
        {score: parameters}; rows for the report: score, parameters, AUROC, default AUROC, and
        whether the best value of a parameter is the first or last of its grid; and {score: list of
        (AUROC, parameters)} of all that was tried.
    """
    chosen, rows, tried = {}, [], {}
    jobs = [name for name in names if scores.get(name).grid]
    for name in progress(jobs, desc="tuning", unit="score"):
        entry, found = scores.get(name), []
        for setting in entry.settings:
            try:
                detector = Detector(name, parameters=setting)
                detector.fit(held_out, training, validation_ood)
                pair = detector.score(held_out), detector.score(validation_ood)
            except ValueError as error:
                logging.debug("%s with %s is left out: %s", name, setting, error)
                continue
            found.append((metrics.auroc(metrics.Counts.of(*pair)), setting))
        if not found:
            continue  # the fit will say why
        tried[name] = found
        defaults = [auroc for auroc, setting in found if setting == entry.settings[0]]
        best = int(np.argmax([auroc for auroc, _ in found]))
        chosen[name] = found[best][1]
        edge = [
            parameter
            for parameter, values in entry.grid.items()
            if len(values) > 2
            and chosen[name][parameter] in (min(values) or None, max(values))  # 0 is no edge
        ]
        rows.append({
            "score": name,
            "chosen": ", ".join(f"{k} = {v:g}" for k, v in chosen[name].items()),
            "validation_auroc": found[best][0],
            "with_defaults": defaults[0] if defaults else None,
            "at_the_grid_edge": ", ".join(edge),
        })  # fmt: skip
    return chosen, rows, tried
