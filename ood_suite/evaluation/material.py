"""What an evaluation works with: Outputs of every part of the data, the same for all kinds of
models. `densities.density` and `classifier.classifier` make it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ood_suite.outputs import Outputs
from ood_suite.runs.run import Run


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
