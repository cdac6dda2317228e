"""What a finished ensemble of leave-out classifiers says of a data set, from what its members say.
`python -m ood_suite.extract` and `python -m ood_suite.eval` call this.
"""

import dataclasses

from classifier_ood import extract as of_member
from ood_suite.files import RunError
from ood_suite.outputs import Outputs
from ood_suite.runs.extraction import Parts, short
from ood_suite.runs.run import Run
from ood_suite.scores import ensembles
from ood_suite.scores.ensembles import RULES
from ood_suite.scores.gradients import odin_key

PERTURBED: dict[str, str] = {"leave_out": "entropy", "leave_out_odin": "cross_entropy"}
# The entropy and the MSP are those of the members' mean softmax.
SCORES: tuple[str, ...] = ("entropy", *PERTURBED, "msp")
SECONDS = "seconds_per_10000"


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
    """Refuses a folder that is another member's, or of another ensemble (RunError): its columns
    would be taken for wrong classes.
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
    run, names, split, *, data_dir=None, parts=Parts(), batch_size=100, shard=None
) -> Outputs:
    """Outputs of an ensemble on one data set: `logits` as ensembles.ensemble_logits makes them, and
    `member_logits`; what members have on file is not computed again. See runs.extraction.Extractor.
    """
    if parts.inner_layers or parts.fields:
        raise ValueError(
            "--inner_layers and --fields are for single classifiers: evaluate a member's run."
        )
    common = {"data_dir": data_dir, "batch_size": batch_size, "shard": shard}
    said: list[Outputs] = []  # of the members, one each
    logits: dict = {}  # member_key -> (n, classes of the member)
    for number, member in enumerate(members(run)):
        said.append(of_member.extract(member, names, split, **common))
        logits[f"{number}"] = said[-1].logits
        for rule in RULES:
            steps = tuple(s for s in parts.perturbations if s[1] and s[2] == rule)
            if not steps:
                continue
            moved = of_member.extract(
                member, names, split, parts=Parts(perturbations=steps), **common
            )
            perturbed = moved.logits_perturbed or {}
            for temperature, epsilon, _ in () if shard else steps:
                key = ensembles.member_key(number, temperature, epsilon, rule)
                logits[key] = perturbed[odin_key(temperature, epsilon)]
    if shard:  # the ensemble speaks when all shards of its members are there
        return said[0]
    classes = range(sum(len(out) for out in run.settings["left_out"]))
    kept = [[c for c in classes if c not in out] for out in run.settings["left_out"]]
    return dataclasses.replace(
        said[0],
        logits=ensembles.ensemble_logits([part.logits for part in said], kept),
        features=None,
        head_kernel=None,
        head_bias=None,
        logits_perturbed=None,
        member_logits=logits,
        meta=_meta(run, [part.meta for part in said]),
    )


def _meta(run, said):
    """An ensemble's, of its members': it takes the time of all."""
    found = said[0] | {
        "run": str(run.folder),
        "command": f"python -m ood_suite.extract --run={run.folder}",
        "model_fingerprint": short([meta["model_fingerprint"] for meta in said]),
    }
    seconds = [meta[SECONDS] for meta in said if SECONDS in meta]
    found.pop(SECONDS, None)
    return found | ({SECONDS: sum(seconds)} if len(seconds) == len(said) else {})


def hashes(run, names, split, *, data_dir=None) -> Outputs | None:
    """Outputs with labels and hashes of the examples alone. See runs.extraction.Extractor."""
    return of_member.hashes(members(run)[0], names, split, data_dir=data_dir)
