"""Density models under evaluation: outputs with those of backgrounds beside them, the choice."""

import dataclasses

import numpy as np

from ood_suite import metrics, scores
from ood_suite.evaluation.material import (
    SHIFTED,
    UNIT,
    Material,
    asked_roles,
    strangers,
    test_sets,
)
from ood_suite.evaluation.request import Request
from ood_suite.files import RunError
from ood_suite.runs.extraction import Parts, extractor_of


def density(group, request=Request(), *, data_dir=None) -> Material:
    """The Material of a foreground model and its backgrounds, of which one is chosen by the AUROC
    of the likelihood ratio on validation data (ID and OOD).

    Args:
        request: Request, whose OOD sets take the place of the run's.
    """
    run, extractor = group.foreground, extractor_of(group.foreground)
    roles = asked_roles(run.roles, request)

    def of(role, chosen=None, maps=False):
        if role not in roles:
            raise RunError(f"{run.folder} names no {role} data.")
        return joined(group, roles[role], data_dir, chosen=chosen, maps=maps)

    held_out, validation_ood, chosen, choice = of("held_out"), None, None, []
    if group.backgrounds and "validation_ood" not in roles:
        chosen = default_background(group)
        held_out = of("held_out", chosen)
    elif group.backgrounds:
        chosen, choice = choose(group, held_out, of("validation_ood"))
        held_out, validation_ood = of("held_out", chosen), of("validation_ood", chosen)
    try:
        names, split = roles["training"].names, roles["training"].split
        training = extractor.hashes(run, names, split, data_dir=data_dir)
    except FileNotFoundError:
        training = None  # it was there when the run was made

    def tests(parameters):
        return test_sets(lambda role: of(role, chosen, maps=has_maps(role)), roles)

    def advice():
        if validation_ood is not None or "validation_ood" not in roles:
            return validation_ood
        try:
            return of("validation_ood", chosen)
        except FileNotFoundError:
            if request.ood_validation:
                raise
            return None

    return Material(
        held_out=held_out,
        training=training,
        validation_ood=validation_ood,
        selection=validation_ood,
        tests=tests,
        fingerprints=run.config["fingerprints"],
        baseline="likelihood",
        scores=extractor.SCORES,
        advice=advice,
        choice=choice,
        chosen=chosen,
        notes=strangers(run, training, held_out),
    )


def has_maps(role):
    """Whether heat maps are drawn of a test set."""
    return not role.startswith((SHIFTED, UNIT))


def joined(group, role, data_dir, *, chosen, maps):
    """The foreground's Outputs with those of the backgrounds beside them; the chosen one is the
    ratio's.
    """

    def of(run, with_maps):
        return extractor_of(run).extract(
            run, role.names, role.split, data_dir=data_dir, parts=Parts(maps=with_maps)
        )

    outputs = of(group.foreground, maps)
    if not group.backgrounds:
        return outputs
    backgrounds = [of(run, maps and run is chosen) for run in group.backgrounds]
    ratio = backgrounds[group.backgrounds.index(chosen)] if chosen else None
    return dataclasses.replace(
        outputs,
        background_log_probs=np.stack([b.log_prob for b in backgrounds], axis=1),
        background_log_prob=ratio.log_prob if ratio else None,
        background_log_prob_map=ratio.log_prob_map if ratio else None,
    )


def default_background(group):
    """The background that is taken where no validation OOD data can choose: of those with the
    largest penalty the one with the smallest mutation rate; 0.1 and 1e-4 on DNA, as in Ren et al.,
    "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019, appendix.
    """
    return min(
        group.backgrounds, key=lambda r: (-r.settings["reg_weight"], r.settings["mutation_rate"])
    )


def choose(group, held_out, validation_ood):
    """(chosen run, rows): validation AUROC of the likelihood ratio for every background."""
    ratio, rows = scores.get("likelihood_ratio").fn, []
    for column, run in enumerate(group.backgrounds):
        counts = metrics.Counts.of(
            *(
                ratio(o.log_prob, o.background_log_probs[:, column])
                for o in (held_out, validation_ood)
            )
        )
        rows.append({
            "background": run.folder.name,
            "mutation_rate": run.settings["mutation_rate"],
            "reg_weight": run.settings["reg_weight"],
            "validation_ood": validation_ood.meta["dataset"],
            "validation_auroc": metrics.auroc(counts),
        })  # fmt: skip
    best = int(np.argmax([row["validation_auroc"] for row in rows]))
    return group.backgrounds[best], rows
