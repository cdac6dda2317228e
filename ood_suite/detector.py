"""Detector: a score of the catalogue with what it learned and a threshold, so that it can decide.

>>> from ood_suite.outputs import Outputs
>>> held_out = Outputs(log_prob=np.linspace(-1300.0, -1000.0, 100))
>>> detector = Detector("likelihood").fit(held_out)
>>> detector.is_ood(Outputs(log_prob=np.array([-1100.0, -2000.0])))
array([False,  True])
"""

import json
import pathlib

import numpy as np

from ood_suite import metrics, scores
from ood_suite.files import atomic_path, load_npz
from ood_suite.scores.checks import class_labels
from ood_suite.scores.gaussian import TiedGaussian
from ood_suite.scores.subspace import Residual

PARTS = {"Residual": Residual, "TiedGaussian": TiedGaussian}  # that a learner may hold
SOURCE = ("model_fingerprint", "features_layer")  # what must not change between fit and use


class Detector:
    """Scores Outputs and decides.

    Args:
        name: a name of SCORES, or a composed one such as "react+energy".
        acceptance: share of held-out in-distribution examples that must be accepted, in (0, 1].
        parameters: {name: value} other than the defaults of the score.

    Attributes:
        threshold_: the score above which an example is OOD.
        source_: model and layer that the fit saw, as far as its Outputs say.
    """

    def __init__(self, name, acceptance=0.95, parameters=None):
        self.name = name
        self.acceptance = acceptance
        self.parameters = dict(parameters or {})
        self.entry = scores.get(name)
        self.learner = self.entry.make(self.parameters)

    def fit(self, held_out, training=None, validation_ood=None):
        """Learns what the score learns, and the threshold.

        Args:
            held_out: Outputs of in-distribution examples that the model was not trained on: they
                set the threshold.
            training: Outputs of the model's training data, for scores that learn from them.
            validation_ood: Outputs of validation OOD data, for scores that learn from those too.

        Raises:
            ValueError: a score lacks the data it learns from, or the Outputs are of two models.
        """
        self.learner = self.entry.make(self.parameters)
        self.source_ = {key: held_out.meta[key] for key in SOURCE if key in held_out.meta}
        if self.entry.learns:
            source = held_out if self.entry.fit_on == "held_out" else training
            if source is None:
                raise ValueError(
                    f"{self.name} learns from training data: fit(held_out, training=Outputs)."
                )
            self._check_source(source)
            if "labels" in self.entry.fit_needs and source.logits is not None:
                (labels,) = source.require(("labels",), self.name)
                class_labels(labels, len(source), source.logits.shape[1])
            self.learner.fit(*source.require(self.entry.fit_needs, self.name))
        if getattr(self.learner, "judge_needs", ()):
            source = held_out if self.learner.judge_on == "held_out" else training
            needs = list(self.entry.needs) + ["labels"] * ("labels" in self.learner.judge_needs)
            self.learner.fit_judge(*source.require(needs, self.name))
        if hasattr(self.learner, "fit_validation"):
            if validation_ood is None:
                raise ValueError(f"{self.name} needs validation OOD data: fit(validation_ood=...).")
            pair = (held_out, validation_ood)
            self.learner.fit_validation(*(o.require(self.entry.needs, self.name) for o in pair))
        self._fitted = True
        self.threshold_ = metrics.threshold_at(self.score(held_out), self.acceptance)
        return self

    def score(self, outputs):
        """float64 (n,), higher = more OOD.

        Raises:
            ValueError: the score learns and `fit` was not called; arrays that it needs are absent;
                or the outputs are of another model or layer than at fit.
        """
        arrays = outputs.require(self.entry.needs, self.name)
        if self.entry.learns and not hasattr(self, "_fitted"):
            raise ValueError(f"The score {self.name} learns: call fit first.")
        self._check_source(outputs)
        return np.asarray(getattr(self.learner, "score", self.learner)(*arrays), np.float64)

    def _check_source(self, outputs):
        for key, value in getattr(self, "source_", {}).items():
            if outputs.meta.get(key, value) != value:
                raise ValueError(
                    f"{self.name} was fitted to outputs with {key} {value!r}. Received: "
                    f"{outputs.meta[key]!r} ({outputs.meta.get('dataset', 'unnamed data')})."
                )

    def is_ood(self, outputs):
        """bool (n,): score > threshold_."""
        if not hasattr(self, "threshold_"):
            raise ValueError("The detector has no threshold: call fit first.")
        return self.score(outputs) > self.threshold_

    def save(self, path):
        """Writes name, threshold and everything learned as one npz, without pickle."""
        if not hasattr(self, "threshold_"):
            raise ValueError("The detector has no threshold: call fit first.")
        settings = {
            "name": self.name,
            "acceptance": float(self.acceptance),
            "threshold": self.threshold_,
            "parameters": {name: np.asarray(v).item() for name, v in self.parameters.items()},
            "source": self.source_,
        }
        arrays = dict(_learned(self.learner, "learned")) if self.entry.learns else {}
        with atomic_path(pathlib.Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, detector=json.dumps(settings), **arrays)

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote; it scores identically."""
        arrays = load_npz(path, mapped=True)
        if "detector" not in arrays:
            raise ValueError(f"{path} holds no detector. Received: {sorted(arrays)}.")
        settings = json.loads(str(arrays.pop("detector")))
        detector = cls(settings["name"], settings["acceptance"], settings["parameters"])
        detector.threshold_, detector.source_ = settings["threshold"], settings["source"]
        detector._fitted = True
        for name, array in arrays.items():
            _put(detector.learner, name.split("/")[1:], array[()])
        return detector


def _learned(learner, prefix):
    """(path, array) of all that a learner and the learners within it know."""
    for name, value in vars(learner).items():
        if name in ("shapers", "judge"):
            inner = value if name == "shapers" else {"judge": value}
            for key, part in inner.items():
                if hasattr(part, "fit"):
                    yield from _learned(part, f"{prefix}/{key}")
        elif type(value).__name__ in PARTS:
            yield from _learned(value, f"{prefix}/{name}:{type(value).__name__}")
        elif name.endswith("_"):
            yield f"{prefix}/{name}", value


def _put(learner, path, value):
    """Sets what `_learned` named."""
    for step in path[:-1]:
        name, _, kind = step.partition(":")
        if kind:
            if not hasattr(learner, name):
                setattr(learner, name, PARTS[kind]())
            learner = getattr(learner, name)
        else:
            learner = learner.judge if name == "judge" else learner.shapers[name]
    setattr(learner, path[-1], value)
