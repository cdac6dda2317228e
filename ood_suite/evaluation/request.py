"""What is asked of an evaluation."""

import dataclasses

from ood_suite.data.corruptions import SHIFTS
from ood_suite.runs.settings import setting
from ood_suite.scores import PRESETS, SCORES, SHAPERS

ALL = ("all",)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of an evaluation; the field names are those of the flags of ood_suite.eval."""

    scores: tuple = setting(
        ALL,
        f"Scores: all, or some of {', '.join(SCORES)}; and compositions such as react+energy, of "
        f"the shapers {', '.join(SHAPERS)}. all leaves out those that need a second look at the "
        "images, which are named beside it: all,rankfeat. Parameters in brackets, the whole in "
        "quotes: --scores='knn(k=10),react(clip=1.6)+energy'.",
    )
    tune: bool = setting(False, "Search each score's grid on validation OOD (classifiers).")
    preset: str | None = setting(
        None, "Parameters that papers use on a benchmark, in place of defaults.", choices=PRESETS
    )
    checkpoint: str = setting("last", "Model of the run: last, best, first, epoch_<n>, step_<n>.")
    inner_layers: tuple = setting(
        (), "Layers of a classifier for mahalanobis_layers and gram; usual, which is the default: "
        "the ends of its stages.",
    )  # fmt: skip
    ood_near: tuple = setting((), "OOD test sets near to the ID set, in place of the run's.")
    ood_far: tuple = setting((), "OOD test sets far from the ID set, in place of the run's.")
    ood_shifted: tuple = setting(
        (), "Shifts of the ID test set, reported apart from OOD: all, or some of "
        f"{', '.join(SHIFTS)}, at all five severities or, as in gaussian_noise_3, at one.",
    )  # fmt: skip
    unit_tests: bool = setting(False, "Test noise, plain colours, stripes and permuted ID images.")
    ood_validation: tuple = setting(
        (), "OOD data to tune and recommend by, in place of the run's; the first found."
    )
    baseline: str | None = setting(
        None, "Score that the others are compared with, pair by pair; default: likelihood, or msp."
    )
    repeats: bool = setting(False, "Evaluate all repeats; adds their mean and standard deviation.")
    allow_overlap: bool = setting(False, "Accept OOD sets that share examples with ID data.")
    resamples: int = setting(1000, "Bootstrap resamples behind the intervals.", at_least=10)
    all: bool = setting(False, "Show every score in the terminal, not only the best.")
    json: bool = setting(False, "Print one JSON object to stdout in place of the tables.")
    # Not a flag: whether scores that the run does not have are notes, as a protocol wants it.
    optional: bool = False

    @property
    def suffix(self):
        """Of the folder of a report, which is about one model of the run."""
        return "" if self.checkpoint == "last" else f"_{self.checkpoint}"
