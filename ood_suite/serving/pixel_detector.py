"""PixelDetector: all that a decision on raw pixels needs, in one folder.

    detector = Detector.load("detector/")        # or PixelDetector.load
    decisions = detector(pixels)                 # one image, or a batch
    decisions.is_ood, decisions.p_value, decisions.score, decisions.label

The folder holds network.keras (pixels -> features and logits), detector.npz (the score and what it
learned), decision.npz (head, thresholds), detector.json and card.md.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ood_suite import conformal
from ood_suite.data import framing
from ood_suite.data.transforms import PIXEL_RANGES
from ood_suite.detector import Detector
from ood_suite.files import (
    RunError,
    atomic_path,
    fingerprint,
    load_npz,
    make_folder,
    read_json,
    reading,
    write_bytes,
    write_json,
    write_text,
)
from ood_suite.runs.run import versions
from ood_suite.training import backend, input_gradients, score_layers
from ood_suite.training.stored_model import read_keras

FORMAT = 1
SLACK = 0.01  # of the range, that a float pixel may lie beyond it
FILES = ("network.keras", "detector.npz", "decision.npz", "detector.json", "card.md")
ADVICE = "Copy the folder again, or make it anew with ood_suite.calibrate."


class Decisions(NamedTuple):
    """What is said of n images; of a single image every field is one value.

    Attributes:
        score: float64 (n,), higher = more OOD. p_value: float64 (n,), see conformal.p_values.
        is_ood: bool (n,). label: int64 (n,), the predicted class.
    """

    score: Any
    p_value: Any
    is_ood: Any
    label: Any


@dataclasses.dataclass
class PixelDetector:
    """A network, a fitted detector of its outputs, and how pixels reach it.

    Args:
        network: keras.Model, float32 pixels 0..255 (n, *image_shape) -> {"features", "logits",
            perhaps "layer_features/<name>"}, as KerasClassifier.network is. Weights that change
            later are not seen, and can be neither saved nor exported.
        head: {"head_kernel", "head_bias"}, as KerasClassifier.head; may be empty.
        detector: fitted Detector, of held-out outputs of this network.
        classes: distinct names of the classes; default: their numbers.
        pixel_range: of float pixels, a key of data.transforms.PIXEL_RANGES. uint8 is 0..255.
        confidence: of the threshold, see conformal.rank_for; None for the average.
        held_out_classes: integers (n,), classes predicted of the held-out examples; for ood_suite.
            monitor, and for `by_class`: thresholds and p-values of each predicted class by itself.
        about: JSON values for detector.json. card: text for card.md.
        transform: of data.framing.TRANSFORMS, that brought the held-out images of files to the
            network's shape, and brings those that are screened.

    Raises:
        ValueError: too few held-out examples, in all or of a class, for what the detector's
            acceptance promises; a score of parts that the network does not give; another network,
            or other weights, than the detector was fitted to; names of classes that are not one for
            each.
    """

    network: Any
    head: dict
    detector: Detector
    classes: list | None = None
    pixel_range: str = "0..255"
    confidence: float | None = None
    held_out_classes: np.ndarray | None = None
    by_class: bool = False
    about: dict = dataclasses.field(default_factory=dict)
    card: str = ""
    transform: str = framing.COVER

    def __post_init__(self):
        if self.pixel_range not in PIXEL_RANGES:
            known = ", ".join(PIXEL_RANGES)
            raise ValueError(f"`pixel_range` must be one of {known}. Received: {self.pixel_range}.")
        if self.transform not in framing.TRANSFORMS:
            known = ", ".join(framing.TRANSFORMS)
            raise ValueError(f"`transform` must be one of {known}. Received: {self.transform}.")
        self.image_shape = tuple(self.network.inputs[0].shape[1:])
        count = self.network.output["logits"].shape[1]
        self.classes = self.classes or [str(number) for number in range(count)]
        if len(self.classes) != count:
            raise ValueError(f"The network has {count} classes. Received: {len(self.classes)}.")
        if twice := repeated(self.classes):
            raise ValueError(f"Each class must have a name of its own. Received twice: {twice}.")
        self._weights = _weights_fingerprint(self.network)
        if self.detector.source_.get("network_fingerprint", self._weights) != self._weights:
            raise ValueError(
                "The detector was fitted to outputs of a network with other weights: was it "
                "trained in between? Make a KerasClassifier after the training, and give its "
                "network and a detector that was fitted to its outputs."
            )
        held_out, alarms = self.detector.calibration_, 1.0 - self.detector.acceptance
        own = self.held_out_classes
        if own is not None and len(own) != len(held_out):
            raise ValueError(f"There are {len(held_out)} held-out scores and {len(own)} classes.")
        if not self.by_class:
            self._held_out = [np.sort(held_out)]
            self.thresholds = np.array([conformal.threshold(held_out, alarms, self.confidence)])
        else:
            if own is None:
                raise ValueError("Thresholds by class need `held_out_classes`.")
            missing = sorted(set(range(count)) - set(own.tolist()))
            if missing:
                raise ValueError(f"No held-out example is predicted as one of {missing[:10]}.")
            self._held_out = [np.sort(held_out[own == label]) for label in range(count)]
            by_class = conformal.class_thresholds(held_out, own, alarms, self.confidence)
            self.thresholds = np.array([by_class[label] for label in range(count)])
        self._predict = backend.inference(self.network)
        self._perturb = self._perturbation()

    def _perturbation(self):
        """function(pixels) -> {"logits_perturbed": ...}, None where the score needs none."""
        needs = self.detector.entry.needs
        known = {"features", "logits", "layer_features", "logits_perturbed", *self.head}
        if unknown := set(needs) - known:
            raise ValueError(f"A detector of pixels cannot have {self.detector.name}: {unknown}.")
        if "logits_perturbed" not in needs:
            return None
        given = self.detector.entry.parameters | self.detector.parameters
        # Of a fused score they are called "odin.epsilon", or "odin(epsilon=0.004).epsilon".
        starts = [k.removesuffix("epsilon") for k in given if k.endswith("epsilon")]
        moves = [
            input_gradients.odin(self.network, given[f"{s}temperature"], (given[f"{s}epsilon"],))
            for s in starts if s == "" or s.startswith("odin")
        ]  # fmt: skip
        return lambda pixels: {k: v for move in moves for k, v in move(pixels).items()}

    def __call__(self, pixels) -> Decisions:
        """Decisions on one image (height, width, channels) or a batch of them.

        Args:
            pixels: uint8, or floats in `pixel_range`.

        Raises:
            ValueError: another shape, dtype or range; NaN.
        """
        pixels = np.asarray(pixels)
        is_single = pixels.ndim == len(self.image_shape)
        batch = self.as_float(pixels[None] if is_single else pixels)
        if not len(batch):
            return Decisions(*(np.zeros(0, kind) for kind in (float, float, bool, np.int64)))
        found = self._predict(batch)
        scores = self._scores(found, batch)
        labels = found["logits"].argmax(axis=1)
        p_values = self.p_values(scores, labels)
        decided = Decisions(scores, p_values, self.is_ood(scores, labels), labels)
        return Decisions(*(values[0] for values in decided)) if is_single else decided

    def is_ood(self, scores, labels):
        """bool (n,): which scores (n,), of examples predicted as `labels`, are above it."""
        limits = self.thresholds[labels if self.by_class else 0]
        return conformal.beyond(scores, limits, conformal.ROUNDED)

    def p_values(self, scores, labels):
        """float64 (n,): of scores (n,), of examples predicted as `labels` (n,)."""
        groups = labels if self.by_class else np.zeros(len(scores), np.int64)
        found = np.empty(len(scores))
        for group in np.unique(groups):
            rows, ordered = groups == group, self._held_out[group]
            reached = conformal.not_below(ordered, scores[rows], conformal.ROUNDED)
            found[rows] = (1.0 + reached) / (1.0 + len(ordered))
        return found

    def _scores(self, found, batch):
        inner = {k.partition("/")[2]: v for k, v in found.items() if k.startswith("layer_features")}
        given = found | self.head | {"layer_features": inner}
        if self._perturb:
            given["logits_perturbed"] = self._perturb(batch)
        arrays = [given[name] for name in self.detector.entry.needs]
        learner = self.detector.learner
        return np.asarray(getattr(learner, "score", learner)(*arrays), np.float64)

    def as_float(self, pixels):
        """Pixels as the network takes them, float32 0..255; refuses what it was not fitted on."""
        wanted = f"(n, {', '.join(map(str, self.image_shape))})"
        if pixels.shape[1:] != self.image_shape:
            raise ValueError(f"Images must have shape {wanted}. Received: {pixels.shape}.")
        if pixels.dtype == np.uint8 or not len(pixels):
            return pixels.astype(np.float32)
        if pixels.dtype.kind != "f":
            raise ValueError(
                f"Images must be uint8, or floats in {self.pixel_range}. Received: {pixels.dtype}."
            )
        low, high = PIXEL_RANGES[self.pixel_range]
        least, most = float(pixels.min()), float(pixels.max())
        slack = SLACK * (high - low)
        if not (low - slack <= least and most <= high + slack):  # also NaN
            raise ValueError(
                f"Float pixels must lie in {self.pixel_range} (--pixel_range of calibrate). "
                f"Received: {least:g} to {most:g}."
            )
        if high > 1.0 and 0.0 < most <= 1.0:
            raise ValueError(
                f"Float pixels must lie in {self.pixel_range}. Received: {least:g} to {most:g}, "
                "which looks like 0..1: multiply them by 255."
            )
        return ((pixels - low) * (255.0 / (high - low))).astype(np.float32)

    def model(self):
        """A keras.Model, pixels 0..255 -> "logits", "score", "p_value", "is_ood", in float32.

        Raises:
            ValueError: a score without layers (training.score_layers); weights that have changed.
        """
        self._require_same_weights()
        if self._perturb:
            raise ValueError(
                f"{self.detector.name} cannot be exported: it needs the gradient of the network by "
                "its input, which Keras has no layer for."
            )
        return score_layers.with_decisions(
            self.network, self.head, self.detector, self._held_out, self.thresholds
        )

    def _require_same_weights(self):
        if _weights_fingerprint(self.network) != self._weights:
            raise ValueError(
                "The network's weights have changed since the detector was made, and its score and "
                "threshold are of the old ones. Save and export it before training goes on, or fit "
                "another to outputs of the network as it is now."
            )

    def export(self, path):
        """Writes `model`, which needs no part of this package: a .keras, .onnx or .tflite file
        (LiteRT), or the folder of a SavedModel (its endpoint "serve"), which TensorFlow Serving
        takes at NAME/VERSION. RunError if there is something at `path`. The metadata of an ONNX
        file are those of detector.json: classes, thresholds, promise, score and shape.
        """
        path, made = pathlib.Path(path), self.model()
        if path.exists():
            raise RunError(f"{path} is there already. Delete it, or choose another place.")
        if path.suffix == ".keras":
            with atomic_path(path) as temporary:
                made.save(temporary)
        elif path.suffix == ".tflite":
            if score_layers.in_double(self.detector):
                raise ValueError(f"{self.detector.name} needs float64, which LiteRT does not have.")
            write_bytes(path, backend.litert(made))
        elif path.suffix == ".onnx":
            about = self._described() | {"score": self.detector.name, "pixel_range": "0..255"}
            with atomic_path(path) as temporary:
                backend.write_onnx(made, temporary, {k: _as_text(v) for k, v in about.items()})
        elif path.suffix:
            raise ValueError(
                f"`path` must be .keras, .onnx, .tflite or a folder. Received: {path}."
            )
        else:
            made.export(path, verbose=False)

    def save(self, folder, overwrite=False):
        """Writes the folder, which is there only when whole.

        Raises:
            RunError: `folder` is not empty, unless it is a detector and `overwrite` is set.
            ValueError: the network's weights have changed since the detector was made.
        """
        self._require_same_weights()
        folder = pathlib.Path(folder)
        require_place(folder, overwrite)
        partial = folder.with_name(f".partial-{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        self.network.save(partial / "network.keras")
        self.detector.save(partial / "detector.npz")
        own = {} if self.held_out_classes is None else {"held_out_classes": self.held_out_classes}
        with atomic_path(partial / "decision.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **self.head, **own)
        write_text(partial / "card.md", self.card)
        described = {
            "format": FORMAT,
            "network": _fingerprint(partial / "network.keras"),
            "versions": versions(),
            "about": self.about,
        }
        write_json(partial / "detector.json", self._described() | described)
        earlier = folder.with_name(f".earlier-{folder.name}")
        shutil.rmtree(earlier, ignore_errors=True)
        if folder.exists():
            folder.rename(earlier)
        partial.rename(folder)
        shutil.rmtree(earlier, ignore_errors=True)

    def _described(self):
        """{name: JSON value}: what it takes, knows and promises."""
        return {
            "classes": self.classes,
            "pixel_range": self.pixel_range,
            "transform": self.transform,
            "image_shape": self.image_shape,
            "confidence": self.confidence,
            "by_class": self.by_class,
            "thresholds": self.thresholds.tolist(),
            "promise": str(self.promise),
        }

    @property
    def promise(self):
        """The conformal.Promise of the threshold; with one a class, of the worst off."""
        return max((conformal.Promise.of(*pair) for pair in self.ranks), key=lambda p: p.high)

    @property
    def ranks(self):
        """[(number of held-out scores, rank of the threshold among them)], one or one a class."""
        pairs = zip(self._held_out, self.thresholds, strict=True)
        return [(len(own), int(np.searchsorted(own, value, "right"))) for own, value in pairs]

    @classmethod
    def load(cls, folder):
        """Reads what `save` wrote; it decides identically.

        Raises:
            RunError: no such folder, a missing or damaged file, a link in its place, another
                network than it was fitted to.
        """
        folder = pathlib.Path(folder)
        for name in FILES:
            path = folder / name
            if not path.exists():
                raise RunError(f"{folder} is no detector: it has no {name}. {ADVICE}")
            if path.is_symlink() or not path.is_file():  # it may lead to anything, or never end
                raise RunError(f"{path} must be a regular file, not a link. Copy with cp -rL.")
        known = read_json(folder / "detector.json")
        with reading(folder / "detector.json", "a detector", f" {ADVICE}", RunError):
            if known["format"] != FORMAT:
                raise ValueError(f"it is of format {known['format']}, and {FORMAT} is known")
            if known["network"] != _fingerprint(folder / "network.keras"):
                raise ValueError("network.keras is another network than it was fitted to")
            network = read_keras(folder / "network.keras", ADVICE)
            if not backend.has_bfloat16() and backend.is_bfloat16(network):
                raise ValueError(
                    "its network computes in bfloat16, which this processor does not: in float32 "
                    "the scores would be others than those that set the threshold. Calibrate anew "
                    "here"
                )
            arrays = load_npz(folder / "decision.npz")
            own, names = arrays.pop("held_out_classes", None), known["classes"]
            twice = repeated(names)  # version 0.2 took them
            made = cls(
                network=network,
                head=arrays,
                detector=Detector.load(folder / "detector.npz"),
                classes=[str(number) for number in range(len(names))] if twice else names,
                pixel_range=known["pixel_range"],
                transform=known.get("transform", framing.COVER),  # version 0.2 wrote none
                confidence=known["confidence"],
                held_out_classes=own,
                by_class=known["by_class"],
                about=known["about"],
                card=(folder / "card.md").read_text(encoding="utf-8"),
            )
            said = made.thresholds.tolist(), str(made.promise), list(made.image_shape)
            if said != (known["thresholds"], known["promise"], known["image_shape"]):
                raise ValueError("its thresholds, promise or shape are not those of its parts")
        if twice:
            logging.warning("%s has several classes of one name, which decisions do not tell "
                            "apart: %s. Make it anew with --classes.", folder, twice)  # fmt: skip
            made.classes = names
        return made


def require_place(folder, overwrite=False):
    """Refuses a folder that is not empty (RunError), unless it is a detector to overwrite."""
    folder = pathlib.Path(folder)
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if found and not (overwrite and "detector.json" in found):
        raise RunError(f"{folder} is there already. Choose another, or --overwrite a detector.")
    if others := sorted(found - set(FILES)):
        raise RunError(f"{folder} holds more than a detector, which would be lost: {others[:5]}.")


def repeated(names):
    """Those that occur more than once, as text; "" if none does. ValueError: no list of texts."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"Names of classes must be a list of texts. Received: {names!r:.200}.")
    return ", ".join(name for name, count in collections.Counter(names).items() if count > 1)


def _as_text(value):
    return value if isinstance(value, str) else json.dumps(value)


def _weights_fingerprint(network):
    """As KerasClassifier takes it, of the values alone: the same in every copy that is loaded."""
    return fingerprint(*(weight.numpy().astype(np.float32) for weight in network.weights))


def _fingerprint(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
