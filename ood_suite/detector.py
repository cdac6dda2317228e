"""Detector: a score of the catalogue with what it learned and a threshold, so that it can decide.

>>> from ood_suite.outputs import Outputs
>>> held_out = Outputs(log_prob=np.linspace(-1300.0, -1000.0, 100))
>>> detector = Detector("likelihood").fit(held_out)
>>> detector.is_ood(Outputs(log_prob=np.array([-1100.0, -2000.0])))
array([False,  True])
"""

import pathlib

import numpy as np

from ood_suite import metrics, scores
from ood_suite.outputs import load_npz
from ood_suite.runs import atomic_path


class Detector:
    """Scores Outputs and decides.

    Args:
        name: a name of SCORES.
        acceptance: share of held-out in-distribution examples that must be accepted, in (0, 1].

    Attributes:
        threshold_: the score above which an example is OOD.
    """

    def __init__(self, name, acceptance=0.95):
        self.name = name
        self.acceptance = acceptance

    def fit(self, held_out):
        """Learns what the score learns, and the threshold, from Outputs of held-out in-distribution
        examples.
        """
        entry = scores.get(self.name)
        if entry.learns:
            self._learner = entry.fn().fit(*held_out.require(entry.needs, self.name))
        self.threshold_ = metrics.threshold_at(self.score(held_out), self.acceptance)
        return self

    def score(self, outputs):
        """float64 (n,), higher = more OOD. ValueError if the score learns and `fit` was not
        called.
        """
        entry = scores.get(self.name)
        arrays = outputs.require(entry.needs, self.name)
        if not entry.learns:
            return entry.fn(*arrays)
        if not hasattr(self, "_learner"):
            raise ValueError(f"The score {self.name} learns: call fit first.")
        return self._learner.score(*arrays)

    def is_ood(self, outputs):
        """bool (n,): score > threshold_."""
        if not hasattr(self, "threshold_"):
            raise ValueError("The detector has no threshold: call fit first.")
        return self.score(outputs) > self.threshold_

    def save(self, path):
        """Writes name, threshold and everything learned as one npz, without pickle."""
        if not hasattr(self, "threshold_"):
            raise ValueError("The detector has no threshold: call fit first.")
        learned = vars(self._learner) if hasattr(self, "_learner") else {}
        arrays = {f"learned/{name}": value for name, value in learned.items()}
        with atomic_path(pathlib.Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                name=self.name,
                acceptance=self.acceptance,
                threshold=self.threshold_,
                **arrays,
            )

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote; it scores identically."""
        arrays = load_npz(path)
        if not {"name", "acceptance", "threshold"} <= set(arrays):
            raise ValueError(f"{path} holds no detector. Received: {sorted(arrays)}.")
        detector = cls(str(arrays["name"]), float(arrays["acceptance"]))
        entry = scores.get(detector.name)
        detector.threshold_ = float(arrays["threshold"])
        if entry.learns:
            detector._learner = entry.fn()
            for name, value in arrays.items():
                if name.startswith("learned/"):
                    setattr(detector._learner, name.removeprefix("learned/"), value[()])
        return detector
