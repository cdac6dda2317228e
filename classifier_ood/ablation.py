"""What each ingredient of a leave-out ensemble buys, from one training."""

from absl import logging

from classifier_ood import ensemble
from ood_suite import intervals, metrics
from ood_suite.evaluation.classifier import classifier
from ood_suite.evaluation.groups import Group
from ood_suite.evaluation.overlap import refuse_overlap, require_separate
from ood_suite.evaluation.request import Request
from ood_suite.evaluation.results import data_notes
from ood_suite.scores import ensembles, logits


def variants(count):
    """{what: changes to the parameters of leave_out} for an ensemble of `count` members."""
    fewer = {f"{k} of {count} members": {"members": k} for k in range(1, count)}
    return {
        "leave_out": {},
        "with ODIN's rule": {"rule": "cross_entropy"},
        "without perturbation": {"epsilon": 0.0},
        "confidence only": {"terms": "confidence"},
        "entropy only": {"terms": "entropy"},
        **fewer,
    }


def ablate(run, temperature, epsilon, data_dir=None, ood_sets=()):
    """One dict per variant and OOD set: variant, ood, what it was made with, and all metrics, the
    AUROC with its interval.

    Args:
        run: Run of an ensemble. ood_sets: test sets in place of the run's.

    Raises:
        ValueError: parameters out of range, or OOD sets that share examples with what the run was
            made with.
    """
    step = {"temperature": temperature, "epsilon": epsilon}
    ensembles.check_step(**step)
    wanted = list(ensemble.PERTURBED)
    request = Request(ood_far=tuple(ood_sets))
    require_separate(run, request, False, data_dir)
    material = classifier(Group(0, run, []), request, wanted, data_dir)
    found = material.tests({name: step for name in wanted})
    id_test, tests = found.id_test, found.ood
    notes = [f"{name} is left out: {why.rstrip('.')}" for name, why in found.missing.items()]
    notes += refuse_overlap(material, id_test, tests, allowed=False)
    for note in data_notes([id_test, *tests.values()]) + notes:
        logging.info("Note: %s.", note)
    rows, own = [], _values(id_test, step)
    common = step | {"checkpoint": run.checkpoint, "num_id": len(id_test)}
    for name, outputs in tests.items():
        for variant, values in _values(outputs, step).items():
            pair = own[variant], values
            low, high = intervals.auroc_interval(*pair)
            row = {"variant": variant, "ood": name} | common | {"num_ood": len(outputs)}
            measured = metrics.evaluate(*pair)
            rows.append(row | measured | {"auroc_low": low, "auroc_high": high})
    return rows


def _values(outputs, step):
    """{variant: scores} of an ensemble's Outputs."""
    arrays = outputs.member_logits
    found = {
        variant: ensembles.leave_out(arrays, **step | changes)
        for variant, changes in variants(ensembles.count_members(arrays)).items()
    }
    return found | {"MSP of the mean": logits.msp(outputs.logits)}


def table(rows):
    """The rows as text, variants by OOD sets."""
    sets = list(dict.fromkeys(row["ood"] for row in rows))
    lines = [f"{'AUROC':<24}" + "".join(f"{ood:>24}" for ood in sets)]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells = [
            f"{row['auroc']:.4f} [{row['auroc_low']:.3f}, {row['auroc_high']:.3f}]"
            for row in rows
            if row["variant"] == variant
        ]
        lines.append(f"{variant:<24}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)
