"""A finished ensemble of leave-out classifiers, as `ood_suite.eval` asks it: what its members say
of data sets.
"""

import dataclasses

from classifier_ood import extract as member_extract
from ood_suite.runs import Run, RunError
from ood_suite.scores import ensembles

PERTURBED = "leave_out"  # the score that needs perturbed inputs
SCORES = ("entropy", "leave_out", "msp")  # msp and entropy: of the members' mean softmax
data_sets = member_extract.data_sets


def members(run):
    """The finished Runs of an ensemble, in order; RunError for one that is missing."""
    found = []
    for number in range(len(run.settings["left_out"])):
        folder = run.folder / f"member{number}"
        if not (folder / "config.json").exists():
            raise RunError(
                f"{run.folder} has no member {number}. Its training command continues it."
            )
        member = Run.load(folder, run.checkpoint)
        if not member.is_finished:
            raise RunError(f"{folder} is not finished. Its training command continues it.")
        found.append(member)
    return found


def extract(
    run, names, split, data_dir=None, perturbations=(), inner_layers=(), mahalanobis_epsilons=(),
    batch_size=100, rule="entropy",
):  # fmt: skip
    """Outputs of an ensemble on one data set: `logits` as ensembles.ensemble_logits makes them, and
    `member_logits`; what members have on file is not computed again.

    Args:
        perturbations: pairs (temperature, epsilon). rule: of the perturbation.
        The others are those of classifier_ood.extract.
    """
    if inner_layers or any(mahalanobis_epsilons):
        raise ValueError("--inner_layers are for single classifiers: evaluate a member's run.")
    moving = [pair for pair in perturbations if pair[1]]
    parts = [
        member_extract.extract(
            member, names, split, data_dir, moving, batch_size=batch_size, rule=rule
        )
        for member in members(run)
    ]
    logits = {}
    for number, part in enumerate(parts):
        logits[f"{number}"] = part.logits
        for temperature, epsilon in moving:
            key = ensembles.member_key(number, temperature, epsilon, rule)
            logits[key] = part.logits_perturbed[f"T={temperature:g},epsilon={epsilon:g}"]
    classes = range(sum(len(out) for out in run.settings["left_out"]))
    kept = [[c for c in classes if c not in out] for out in run.settings["left_out"]]
    first = parts[0]
    return dataclasses.replace(
        first,
        logits=ensembles.ensemble_logits([part.logits for part in parts], kept),
        features=None,
        head_kernel=None,
        head_bias=None,
        logits_perturbed=None,
        member_logits=logits,
        meta=first.meta | {"run": str(run.folder), "command": f"see {run.folder}"},
    )


def hashes(run, names, split, data_dir=None):
    return member_extract.hashes(members(run)[0], names, split, data_dir)
