"""A finished ensemble of leave-out classifiers, as `ood_suite.eval` asks it: what its members say
of data sets.
"""

import dataclasses

from classifier_ood import extract as member_extract
from ood_suite.files import RunError
from ood_suite.runs.extraction import short
from ood_suite.runs.run import Run
from ood_suite.scores import ensembles

# Scores that need perturbed inputs, and by which rule.
PERTURBED = {"leave_out": "entropy", "leave_out_odin": "cross_entropy"}
SCORES = ("entropy", *PERTURBED, "msp")  # msp and entropy: of the members' mean softmax
data_sets = member_extract.data_sets


def members(run):
    """The finished Runs of an ensemble, in order.

    Raises:
        RunError: a member that is missing or unfinished, or a folder that is not that member's.
    """
    found = []
    for number, folder in enumerate(run.parts):
        if not (folder / "config.json").exists():
            raise RunError(
                f"{run.folder} has no member {number}. Its training command continues it."
            )
        member = Run.load(folder, run.checkpoint)
        if not (folder / "model.keras").exists():  # there is a best one from the first epoch on
            raise RunError(f"{folder} is not finished. Its training command continues it.")
        _refuse_stranger(run, member, number)
        found.append(member)
    return found


def _refuse_stranger(run, member, number):
    """RunError if a folder is another member's, or of another ensemble: its columns would be taken
    for wrong classes.
    """
    expected = run.settings | {"member": number}
    del expected["parts"]
    pairs = (("settings", expected), ("fingerprints", run.config["fingerprints"]))
    differences = [
        f"{key} ({member.config[part].get(key)!r}, not {wanted.get(key)!r})"
        for part, wanted in pairs
        for key in sorted({*wanted, *member.config[part]})
        if member.config[part].get(key) != wanted.get(key)
    ]
    if differences:
        raise RunError(
            f"{member.folder} is not member {number} of this ensemble. It differs in "
            f"{', '.join(differences)}. Put back the right folder, or delete it and train again."
        )


def extract(
    run, names, split, data_dir=None, perturbations=(), inner_layers=(), mahalanobis_epsilons=(),
    batch_size=100,
):  # fmt: skip
    """Outputs of an ensemble on one data set: `logits` as ensembles.ensemble_logits makes them, and
    `member_logits`; what members have on file is not computed again.

    Args:
        perturbations: triples (temperature, epsilon, rule), see input_gradients.odin.
        The others are those of classifier_ood.extract.
    """
    if inner_layers or any(mahalanobis_epsilons):
        raise ValueError("--inner_layers are for single classifiers: evaluate a member's run.")
    steps = {}  # rule -> the pairs (temperature, epsilon) that move something
    for temperature, epsilon, rule in perturbations:
        if epsilon:
            steps.setdefault(rule, []).append((temperature, epsilon))
    parts, logits = [], {}
    for number, member in enumerate(members(run)):
        options = {"batch_size": batch_size}
        parts.append(member_extract.extract(member, names, split, data_dir, **options))
        logits[f"{number}"] = parts[-1].logits
        for rule, pairs in steps.items():
            part = member_extract.extract(
                member, names, split, data_dir, pairs, rule=rule, **options
            )
            for temperature, epsilon in pairs:
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
        meta=first.meta
        | {
            "run": str(run.folder),
            "command": f"python -m ood_suite.eval --run={run.folder}",
            "model_fingerprint": short([part.meta["model_fingerprint"] for part in parts]),
        },
    )


def hashes(run, names, split, data_dir=None):
    return member_extract.hashes(members(run)[0], names, split, data_dir)
