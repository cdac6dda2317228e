"""The images that a score is most mistaken about, read again from their data sets."""

from typing import Any

import numpy as np
from absl import logging

from ood_suite import data
from ood_suite.evaluation import diagrams, shifted
from ood_suite.evaluation.material import asked_roles
from ood_suite.runs.extraction import extractor_of

SHOWN = 12  # images a line


def gallery(group, report, request, data_dir=None):
    """A Figure of the ID test images that are the most OOD by the score with the best mean AUROC,
    and of each OOD set's images that are the least; None where the images cannot be read again
    (reads of DNA, or data that were there when their outputs were extracted).

    Args:
        group: groups.Group. report: its report.GroupReport. request: as the evaluation's.
    """
    best = shifted.best_of([row for row in report.rows if "num_ood" in row])
    if best is None or group.foreground.config["extractor"].startswith("genomics_ood"):
        return None
    roles = asked_roles(group.foreground.roles, request)
    own, others = report.values[best]
    try:
        source = _read(roles["id_test"], data_dir, _shape(group.foreground))
        lines = {f"{source.name} (ID), most OOD": _extreme(source, own, most=True)}
        shape = source.images.shape[1:]
        for role in (r for name, r in roles.items() if name.startswith("ood:")):
            try:
                source = _read(role, data_dir, shape)
            except FileNotFoundError:  # a note of the report
                continue
            if source.name in others:
                found = _extreme(source, others[source.name], most=False)
                lines[f"{source.name}, least OOD"] = found
    except (FileNotFoundError, ValueError) as error:
        logging.info("No gallery: %s", error)
        return None
    threshold = next(row["threshold"] for row in report.rows if row["score"] == best)
    return diagrams.gallery(f"By {best}: mistakes at the edges", lines, threshold)


def _shape(run):
    """(height, width, channels) of a run's images: as its settings say, or, of a model of the
    user's where they leave it open, the model; None of all others.
    """
    if "image_shape" not in run.settings:
        return None
    extractor: Any = extractor_of(run)
    return run.settings["image_shape"] or extractor.load_classifier(run).image_shape


def _read(role, data_dir, shape):
    return data.first_available(role.names, role.split, data_dir, shape and tuple(shape))


def _extreme(source, scores, most):
    """(images, their scores) of the highest, or the lowest, scores of a set."""
    if len(source) != len(scores):
        raise ValueError(f"{source.name} has {len(source)} images, {len(scores)} were scored.")
    rows = np.argsort(-scores if most else scores, kind="stable")[:SHOWN]
    order = np.argsort(rows)  # streams are read in order
    images = np.empty((len(rows), *source.images.shape[1:]), np.uint8)
    images[order] = source.images[rows[order]]
    return images, scores[rows]
