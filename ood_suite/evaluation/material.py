"""What an evaluation works with: Outputs of every part of the data, the same for all kinds of
models. `densities.density` and `classifier.classifier` make it.
"""

import dataclasses
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ood_suite.data import DATASETS, corruptions, names
from ood_suite.data.layouts import DataDir, known, root_of
from ood_suite.data.synthetic import UNIT_TESTS
from ood_suite.evaluation.request import Request
from ood_suite.outputs import Outputs
from ood_suite.runs.extraction import Extractor
from ood_suite.runs.run import Role, Run

SHIFTED, UNIT = "shifted:", "unit:"  # what roles of these kinds begin with
UNIT_IMAGES = 400  # of each unit test, as NINCO has


class Tests(NamedTuple):
    """Outputs of the test sets.

    Attributes:
        id_test: of the ID test set. ood: {data set: of an OOD test set}.
        near: names of the OOD test sets that are near to the ID set.
        missing: {OOD test set that is not there: what says so}.
        shifted: {shift: of the ID test set under it}. units: {unit test: of its images}.
    """

    id_test: Outputs
    ood: dict[str, Outputs]
    near: tuple[str, ...] = ()
    missing: Mapping[str, str] = types.MappingProxyType({})
    shifted: Mapping[str, Outputs] = types.MappingProxyType({})
    units: Mapping[str, Outputs] = types.MappingProxyType({})


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
        advice: function() -> validation OOD examples that a score is recommended by, or None.
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
    advice: Callable[[], Outputs | None] = lambda: None


def asked_roles(roles: Mapping[str, Role], request: Request) -> dict[str, Role]:
    """The roles of a run, with the OOD sets that are asked for in place of its own, its ID test set
    under shifts, and unit tests.
    """
    asked = dict(roles)
    if request.ood_near or request.ood_far:
        asked = {name: role for name, role in roles.items() if not name.startswith("ood:")}
        for name in (*request.ood_near, *request.ood_far):
            asked[f"ood:{name}"] = Role((name,), "test", near=name in request.ood_near)
    if request.ood_validation:
        split = roles["validation_ood"].split if "validation_ood" in roles else "val"
        asked["validation_ood"] = Role(tuple(request.ood_validation), split)
    for shift in corruptions.expanded(request.ood_shifted):
        own = roles["id_test"]
        found = tuple(names.shifted(name, shift) for name in own.names)
        asked[f"{SHIFTED}{shift}"] = Role(found, own.split)
    if request.unit_tests:
        own = roles["id_test"]
        for name in UNIT_TESTS:
            asked[f"{UNIT}{name}"] = Role((f"{name}@{UNIT_IMAGES}",), "test")
        already = any(names.parse(name).shift for name in own.names)
        for name in () if already else corruptions.PERMUTED:
            asked[f"{UNIT}{name}"] = Role(
                tuple(names.shifted(n, name) for n in own.names), own.split
            )
    return asked


def require_typed(extractor: Extractor, run: Run, request: Request, data_dir: DataDir) -> None:
    """Refuses OOD sets that are asked for under a name that nobody knows, before anything is
    extracted. One that is known may be absent: that is a note of the report, see `test_sets`.

    Raises:
        FileNotFoundError: a name that is no data set's, and no file or folder.
    """
    folders = [pathlib.Path(), pathlib.Path(data_dir or "."), *filter(None, [root_of(data_dir)])]
    asked = [(name, "test") for name in (*request.ood_near, *request.ood_far)]
    if request.ood_validation:
        split = asked_roles(run.roles, request)["validation_ood"].split
        asked += [(name, split) for name in request.ood_validation]
    for name, part in asked:
        bare = names.parse(name).bare
        if known(bare) or bare in DATASETS or bare.startswith("tfds:"):
            continue
        if not any((folder / bare).exists() for folder in folders):  # perhaps an npz of that name
            extractor.hashes(run, (name,), part, data_dir=data_dir)


def test_sets(of: Callable[[str], Outputs], roles: Mapping[str, Role]) -> Tests:
    """Tests of the roles "id_test", "ood:<name>", "shifted:<shift>" and "unit:<name>"; an OOD set
    that is not there is left out.

    Args:
        of: function(role) -> its Outputs.

    Raises:
        ValueError: two sets that go by the same name.
        FileNotFoundError: the ID test set, or each OOD set, is absent.
    """
    id_test, near, missing = of("id_test"), [], {}
    found: dict[str, Outputs] = {}
    titles = [id_test.meta["dataset"]]
    for role in (role for role in roles if role.startswith("ood:")):
        try:
            outputs = of(role)
        except FileNotFoundError as error:
            missing[role.removeprefix("ood:")] = str(error)
            continue
        name = outputs.meta["dataset"]
        titles.append(name)
        found[name] = outputs
        near += [name] if roles[role].near else []
    if len(set(titles)) < len(titles):
        raise ValueError(f"Two test sets have the same name: {', '.join(titles)}. Rename one.")
    if missing and not found:
        raise FileNotFoundError(next(iter(missing.values())))
    shifted, units = (
        {role.removeprefix(kind): of(role) for role in roles if role.startswith(kind)}
        for kind in (SHIFTED, UNIT)
    )
    return Tests(id_test, found, tuple(near), missing, shifted, units)


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
