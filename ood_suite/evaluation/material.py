"""What an evaluation works with: Outputs of every part of the data, the same for all kinds of
models. `densities.density` and `classifier.classifier` make it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ood_suite.evaluation.request import Request
from ood_suite.outputs import Outputs
from ood_suite.runs.run import Role, Run


class Tests(NamedTuple):
    """Outputs of the test sets.

    Attributes:
        id_test: of the ID test set. ood: {data set: of an OOD test set}.
        near: names of the OOD test sets that are near to the ID set.
    """

    id_test: Outputs
    ood: dict[str, Outputs]
    near: tuple[str, ...] = ()


@dataclasses.dataclass
class Material:
    """What there is to evaluate of one group.

    Attributes:
        held_out: ID examples that the model was not trained on: they set thresholds.
        training: the model's training data, for scores that learn; at most hashes if none does.
        validation_ood: OOD examples to choose and tune by, None where nothing is chosen.
        selection: the OOD examples that chose anything, also in the training: tests share none.
        tests: function of {score: its tuned parameters} -> Tests, extracted when called.
        fingerprints: {data set: fingerprint} of what the run was made with.
        baseline: the score that the others are compared with.
        scores: names of the scores that make sense for such a run.
        choice: one dict per background model, with its validation AUROC. chosen: that Run.
        notes: what a reader must know of the data.
    """

    held_out: Outputs
    training: Outputs | None
    validation_ood: Outputs | None
    selection: Outputs | None
    tests: Callable[[Mapping[str, Mapping[str, Any]]], Tests]
    fingerprints: Mapping[str, str]
    baseline: str
    scores: tuple[str, ...]
    choice: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    chosen: Run | None = None
    notes: list[str] = dataclasses.field(default_factory=list)


def asked_roles(roles: Mapping[str, Role], request: Request) -> dict[str, Role]:
    """The roles of a run, with the OOD sets that are asked for in place of its own."""
    asked = dict(roles)
    if request.ood_near or request.ood_far:
        asked = {name: role for name, role in roles.items() if not name.startswith("ood:")}
        for name in (*request.ood_near, *request.ood_far):
            asked[f"ood:{name}"] = Role((name,), "test", near=name in request.ood_near)
    if request.ood_validation:
        split = roles["validation_ood"].split if "validation_ood" in roles else "val"
        asked["validation_ood"] = Role(tuple(request.ood_validation), split)
    return asked


def test_sets(of: Callable[[str], Outputs], roles: Mapping[str, Role]) -> Tests:
    """Tests of the roles "id_test" and "ood:<name>".

    Args:
        of: function(role) -> its Outputs.

    Raises:
        ValueError: two sets that go by the same name.
    """
    ood = [role for role in roles if role.startswith("ood:")]
    id_test, *others = (of(role) for role in ("id_test", *ood))
    names = [outputs.meta["dataset"] for outputs in others]
    known = [id_test.meta["dataset"], *names]
    if len(set(known)) < len(known):
        raise ValueError(f"Two test sets have the same name: {', '.join(known)}. Rename one.")
    near = tuple(n for n, role in zip(names, ood, strict=True) if roles[role].near)
    return Tests(id_test, dict(zip(names, others, strict=True)), near)


def strangers(run: Run, training: Outputs | None, held_out: Outputs) -> list[str]:
    """Notes on training and held-out data that are not those that the run was made with."""
    notes = []
    for title, part in (("training", training), ("held-out", held_out)):
        if part is None:
            continue
        key = f"{part.meta['dataset']}_{part.meta['split']}"
        if run.config["fingerprints"].get(key) not in (None, part.meta["fingerprint"]):
            notes.append(
                f"the {title} ID examples are not those that {run.folder.name} was made with: give "
                "its --data_dir"
            )
    return notes
