"""What a score costs beside its quality: seconds to fit and to score, and what it remembers."""

import contextlib
import time

PER = 10_000  # examples


class Costs:
    """Seconds of each score, summed by what they were spent on."""

    def __init__(self):
        self.seconds = {}

    @contextlib.contextmanager
    def of(self, name, what):
        """Counts the time within for a score. `what`: "fit" or "score"."""
        started = time.perf_counter()
        try:
            yield
        finally:
            key = name, what
            self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - started

    def rows(self, detectors, tested):
        """One dict per score: seconds of the fit, thresholds included, seconds to score 10,000
        examples from their Outputs, seconds of the network for 10,000 examples where an extraction
        recorded them (one of perturbed inputs or maps is not in it), and MiB of what was learned.

        Args:
            detectors: {score: fitted Detector}. tested: Outputs of all test sets.
        """
        count = sum(len(outputs) for outputs in tested)
        known = [o.meta["seconds_per_10000"] for o in tested if "seconds_per_10000" in o.meta]
        extraction = sum(known) / len(known) if known else None
        return [
            {
                "score": name,
                "fit_seconds": self.seconds[name, "fit"],
                "score_seconds_per_10000": self.seconds[name, "score"] * PER / count,
                "extraction_seconds_per_10000": extraction,
                "learned_mib": _learned(detector) / 2**20,
            }
            for name, detector in detectors.items()
        ]


def _learned(detector):
    """Bytes of the arrays that a detector keeps."""
    if not detector.entry.learns:
        return 0
    return sum(array.nbytes for array in detector.learner.get_arrays().values())
