"""Detector: a score of the catalogue with what it learned and a threshold, so that it can decide.

>>> from ood_suite.outputs import Outputs
>>> held_out = Outputs(log_prob=np.linspace(-1300.0, -1000.0, 100))
>>> detector = Detector("likelihood").fit(held_out)
>>> detector.is_ood(Outputs(log_prob=np.array([-1100.0, -2000.0])))
array([False,  True])
"""

import copy
import functools
import importlib
import json
import logging
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ood_suite import conformal, metrics, scores
from ood_suite.files import atomic_path, load_npz, reading
from ood_suite.outputs import Outputs
from ood_suite.scores import named
from ood_suite.scores.checks import class_labels

FOLDS = 10  # of held-out data, for the threshold of a score that learns from them
# What must not change between fit and use: of files, and of a KerasClassifier.
SOURCE = (
    "model_fingerprint", "features_layer", "network_fingerprint", "input_range", "image_shape",
)  # fmt: skip
AT_CHANCE = (
    "The classifier is right for no more of the held-out examples than chance is: are pixel range, "
    "labels and order of the classes those that it was trained on?"
)
# What a file says of a detector -> its type.
SETTINGS = {
    "name": str, "acceptance": float, "threshold": float, "parameters": dict, "source": dict,
}  # fmt: skip


class Detector:
    """Scores Outputs and decides.

    Args:
        name: a name of SCORES, or a composed one such as "react+energy".
        acceptance: share of held-out in-distribution examples that must be accepted, in (0, 1].
        parameters: {name: value} other than the defaults of the score.

    Attributes:
        threshold_: the score above which an example is OOD: the held-out score of rank
            ceil((n + 1) * acceptance), so that on average over held-out sets at least `acceptance`
            of new ID examples are accepted (see ood_suite.conformal).
        calibration_: float64 (n,), the held-out scores.
        source_: model and layer that the fit saw, as far as its Outputs say.
    """

    def __init__(
        self, name: str, acceptance: float = 0.95, parameters: Mapping[str, Any] | None = None
    ):
        self.name = name
        self.acceptance = acceptance
        self.entry = scores.get(name)
        self.parameters = named.checked(self.entry.parameters, parameters or {})
        self.learner = self.entry.make(self.parameters)

    def fit(
        self,
        held_out: Outputs,
        training: Outputs | None = None,
        validation_ood: Outputs | None = None,
    ) -> "Detector":
        """Learns what the score learns, and the threshold.

        A score that learns from the held-out data too fits them better than new data: its threshold
        comes from scores of each tenth of them by a learner of the other nine.

        Args:
            held_out: Outputs of in-distribution examples that the model was not trained on: they
                set the threshold.
            training: Outputs of the model's training data, for scores that learn from them.
            validation_ood: Outputs of validation OOD data, for scores that learn from those too.

        Raises:
            ValueError: a score lacks the data it learns from, or the Outputs are of two models.
        """
        labels = held_out.labels
        if held_out.logits is not None and labels is not None and (labels >= 0).all():
            if metrics.is_at_chance(held_out.logits, labels):
                _warn_once(AT_CHANCE, held_out.meta.get("dataset"), len(labels))
        self.learner = self.entry.make(self.parameters)
        self.source_ = {key: held_out.meta[key] for key in SOURCE if key in held_out.meta}
        self._fit_to_training(training)
        before = copy.copy(self.learner)
        learned = self._fit_to_held_out(self.learner, held_out, validation_ood)
        self._fitted = True
        if hasattr(self.learner, "unseen_"):
            values = self.learner.unseen_
        elif learned and len(held_out) > 1:
            values = self._unseen(before, held_out, validation_ood)
        else:
            values = self.score(held_out)
        self.threshold_ = conformal.accepting(values, self.acceptance)
        self.calibration_ = values
        return self

    def _fit_to_training(self, training):
        if not self.entry.learns or self.entry.fit_on == "held_out":
            return
        if training is None:
            raise ValueError(
                f"{self.name} learns from training data: fit(held_out, training=Outputs)."
            )
        self._check_source(training)
        if "labels" in self.entry.fit_needs and training.logits is not None:
            (labels,) = training.require(("labels",), self.name)
            class_labels(labels, len(training), training.logits.shape[1])
        self.learner.fit(*training.require(self.entry.fit_needs, self.name))
        if getattr(self.learner, "judge_needs", ()) and self.learner.judge_on == "training":
            self.learner.fit_judge(*training.require(self._judge_needs(), self.name))

    def _judge_needs(self):
        return [*self.entry.needs, *(["labels"] if "labels" in self.learner.judge_needs else [])]

    def _fit_to_held_out(self, learner, held_out, validation_ood):
        """Whether the learner learned anything from held-out data, which sets its attributes anew
        and changes none in place.
        """
        learned = False
        if self.entry.learns and self.entry.fit_on == "held_out":
            learner.fit(*held_out.require(self.entry.fit_needs, self.name))
            learned = True
        if getattr(learner, "judge_needs", ()) and learner.judge_on == "held_out":
            learner.fit_judge(*held_out.require(self._judge_needs(), self.name))
            learned = True
        if hasattr(learner, "fit_held_out"):
            learner.fit_held_out(*held_out.require(self.entry.needs, self.name))
            learned = True
        if hasattr(learner, "fit_validation"):
            if validation_ood is None:
                raise ValueError(f"{self.name} needs validation OOD data: fit(validation_ood=...).")
            self._check_source(validation_ood)
            pair = (held_out, validation_ood)
            learner.fit_validation(*(o.require(self.entry.needs, self.name) for o in pair))
            learned = True
        return learned

    def _unseen(self, learner, held_out, validation_ood):
        """float64 (n,): the score of each held-out example by a learner of other examples."""
        count = len(held_out)
        order = np.random.default_rng(0).permutation(count)  # files are often sorted by class
        values = np.empty(count)
        for fold in np.array_split(order, min(FOLDS, count)):
            other = copy.copy(learner)
            rest = np.setdiff1d(order, fold, assume_unique=True)
            self._fit_to_held_out(other, held_out.take(rest), validation_ood)
            arrays = held_out.take(fold).require(self.entry.needs, self.name)
            values[fold] = other.score(*arrays)
        return values

    def score(self, outputs: Outputs) -> np.ndarray:
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

    def is_ood(self, outputs: Outputs) -> np.ndarray:
        """bool (n,): score > threshold_, by more than conformal.TIED."""
        self._require_threshold()
        return conformal.beyond(self.score(outputs), self.threshold_)

    def p_values(self, outputs: Outputs, rng: np.random.Generator | None = None) -> np.ndarray:
        """float64 (n,), of each example if it were in-distribution; see conformal.p_values.

        Raises:
            ValueError: a detector of a file that version 0.1 wrote, without held-out scores.
        """
        if not hasattr(self, "calibration_"):
            raise ValueError("The detector has no held-out scores: fit it anew.")
        return conformal.p_values(self.calibration_, self.score(outputs), rng)

    @property
    def promise(self) -> conformal.Promise:
        """The share of false alarms that the threshold promises; ValueError before `fit`."""
        if not hasattr(self, "calibration_"):
            raise ValueError("The detector has no held-out scores: fit it anew.")
        rank = int(np.sum(self.calibration_ <= self.threshold_))
        return conformal.Promise.of(len(self.calibration_), rank)

    def _require_threshold(self):
        if not hasattr(self, "threshold_"):
            raise ValueError("The detector has no threshold: call fit first.")

    def save(self, path: str | pathlib.Path) -> None:
        """Writes name, threshold and everything learned as one npz, without pickle."""
        self._require_threshold()
        settings = {
            "name": self.name,
            "acceptance": float(self.acceptance),
            "threshold": self.threshold_,
            "parameters": {name: np.asarray(v).item() for name, v in self.parameters.items()},
            "source": self.source_,
        }
        arrays = self.learner.get_arrays() if self.entry.learns else {}
        kept: dict[str, Any] = {f"learned/{name}": array for name, array in arrays.items()}
        if hasattr(self, "calibration_"):
            kept["calibration"] = self.calibration_
        with atomic_path(pathlib.Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, detector=np.array(json.dumps(settings)), **kept)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Any:
        """Reads what `save` wrote; it scores identically. Of a folder that ood_suite.calibrate
        wrote, the serving.pixel_detector.PixelDetector.

        Raises:
            ValueError: a file that holds no detector, or not the arrays of its score.
        """
        if pathlib.Path(path).is_dir():  # needs Keras, which this module must not load
            module = importlib.import_module("ood_suite.serving.pixel_detector")
            return module.PixelDetector.load(path)
        arrays = load_npz(path, mapped=True)
        if "detector" not in arrays:
            raise ValueError(f"{path} holds no detector. Received: {sorted(arrays)}.")
        settings = _settings(path, str(arrays.pop("detector")))
        calibration = arrays.pop("calibration", None)  # version 0.1 wrote none
        learned = {name.removeprefix("learned/"): array for name, array in arrays.items()}
        with reading(path, "a whole detector"):
            detector = cls(settings["name"], settings["acceptance"], settings["parameters"])
            if detector.entry.learns:
                detector.learner.set_arrays(learned)
            elif learned:
                raise ValueError(f"{detector.name} learns nothing. Received: {sorted(learned)}.")
        detector.threshold_, detector.source_ = settings["threshold"], settings["source"]
        if calibration is not None:
            detector.calibration_ = conformal.checked(calibration)
        detector._fitted = True
        return detector


@functools.lru_cache(maxsize=8)
def _warn_once(text, *_):
    """A warning, once for the same data: an evaluation fits dozens of detectors."""
    logging.getLogger(__name__).warning(text)


def _settings(path, text):
    """What a file says of its detector, checked."""
    try:
        settings = json.loads(text)
        wrong = [n for n, kind in SETTINGS.items() if not isinstance(settings[n], kind)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} holds no detector: its description is damaged ({error})."
        ) from error
    if not wrong and not 0.0 < settings["acceptance"] <= 1.0:
        wrong = ["acceptance"]
    if wrong or not math.isfinite(settings["threshold"]):
        raise ValueError(f"{path} holds no detector: `{(wrong or ['threshold'])[0]}` is damaged.")
    return settings
