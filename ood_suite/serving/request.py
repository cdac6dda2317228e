"""What is asked of a calibration."""

import dataclasses

from ood_suite.runs.settings import setting


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What is asked of a calibration; the field names are those of the flags."""

    score: tuple = setting(
        ("auto",),
        "Score, or several that are fused by their p-values, with parameters as in 'knn(k=10)'; "
        "auto: the best on validation OOD.",
    )
    false_alarms: float = setting(
        0.05, "Share of ID examples that may be called OOD.", above=0.0, below=1.0
    )
    confidence: float | None = setting(
        None,
        "Keep to false_alarms with this confidence, such as 0.95; if not given, on average.",
        above=0.0,
        below=1.0,
    )
    by_class: bool = setting(False, "A threshold for each predicted class by itself.")
    classes: tuple = setting((), "Names of the classes; default: those of the training folder.")
    pixel_range: str = setting(
        "0..255", "Of float pixels; bytes are 0..255.", choices=("0..255", "0..1", "-1..1")
    )
    checkpoint: str = setting("last", "Model of the run: last, best, first, epoch_<n>.")
    ood_validation: tuple = setting((), "OOD data to choose by, in place of the run's.")
