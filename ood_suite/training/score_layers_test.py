"""A detector's graph gives NumPy's scores, and stands alone in another process."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ood_suite import scores
from ood_suite.detector import Detector
from ood_suite.files import RunError
from ood_suite.serving.pixel_detector import PixelDetector
from ood_suite.serving.pixel_detector_test import classifier, images, made, parts
from ood_suite.training import score_layers

__all__ = ["classifier", "parts"]  # fixtures
NAMES = [
    *score_layers.CONVERTED, *(f"{shaper}+energy" for shaper in score_layers.SHAPED), "react+msp",
    "react+scale+energy", "energy&vim&knn&mahalanobis",
]  # fmt: skip
PARAMETERS = {"lts+energy": {"lts.percentile": 60.0}}  # of so few features
ALONE = """
import json, sys
import numpy as np
pixels = np.load(sys.argv[1])
if sys.argv[2].endswith(".keras"):
    import keras
    found = keras.models.load_model(sys.argv[2])(pixels)
elif sys.argv[2].endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[2])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {session.get_inputs()[0].name: pixels})))
elif sys.argv[2].endswith(".tflite"):
    import tensorflow as tf
    runner = tf.lite.Interpreter(sys.argv[2]).get_signature_runner()
    [name] = runner.get_input_details()
    single = [runner(**{name: pixels[i : i + 1]}) for i in range(len(pixels))]
    found = {key: np.concatenate([one[key] for one in single]) for key in single[0]}
else:
    import tensorflow as tf
    loaded = tf.saved_model.load(sys.argv[2])
    found = loaded.serve(pixels)
assert not [name for name in sys.modules if name.startswith(("ood_suite", "classifier_ood"))]
print(json.dumps({name: np.asarray(value).tolist() for name, value in found.items()}))
"""


def of_all_classes(outputs):
    """Outputs whose first features lie along the weights of each class in turn."""
    features = outputs.features.copy()
    features[:3] = 100.0 * outputs.head_kernel.T
    logits = features @ outputs.head_kernel + outputs.head_bias
    return dataclasses.replace(outputs, features=features, logits=logits)


def labelled(outputs, is_right):
    """Outputs with labels that the network is right on where `is_right`."""
    labels = np.where(is_right, outputs.logits.argmax(axis=1), np.arange(len(outputs)) % 3)
    return dataclasses.replace(outputs, labels=labels)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_gives_the_scores_of_numpy(classifier, parts, name):
    if name == "temperature_scaling":  # needs labels that the network is mostly right on
        parts = [labelled(parts[0], np.arange(240) % 4 > 0), *parts[1:]]
    if name == "she":  # and a right one of each class
        parts = [parts[0], labelled(of_all_classes(parts[1]), np.ones(240, bool)), parts[2]]
    fitted = Detector(name, parameters=PARAMETERS.get(name)).fit(parts[0], parts[1])
    detector = PixelDetector(classifier.network, classifier.head, fitted)
    expected, found = detector(images(240, 3)), detector.model()(images(240, 3))
    spread = expected.score.std()
    off = np.abs(found["score"] - expected.score) > 1e-4 + 1e-4 * np.abs(expected.score)
    assert off.mean() <= (0.1 if "&" in name else 0.0), np.abs(
        found["score"] - expected.score
    ).max()
    near = np.abs(expected.score - detector.thresholds[0]) < 1e-3 * spread
    np.testing.assert_array_equal(found["is_ood"][~near], expected.is_ood[~near])
    np.testing.assert_allclose(found["p_value"], expected.p_value, atol=5 / 241)


@pytest.mark.parametrize("suffix", ["model.keras", "model.onnx", "model.tflite", "saved/1"])
@pytest.mark.parametrize("name", ["vim", "energy&knn"])
def test_exports_are_loaded_where_there_is_no_package(classifier, parts, name, suffix, tmp_path):
    detector, path = made(classifier, parts, name), tmp_path / suffix
    detector.export(path)
    with pytest.raises(RunError, match="there already"):
        detector.export(path)
    np.save(tmp_path / "pixels.npy", images(20, 3).astype(np.float32))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "pixels.npy"), str(path)],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), detector(images(20, 3))
    tolerance = 0.1 if "&" in name else 1e-4
    np.testing.assert_allclose(found["score"], expected.score, rtol=tolerance, atol=tolerance)
    assert set(found) == {"logits", "score", "p_value", "is_ood"}


def test_what_has_no_layers_is_refused_by_name(classifier, parts, tmp_path):
    others = [n for n in ("himplos", "relation", "ras+energy") if n not in NAMES]
    for name in others:
        with pytest.raises(ValueError, match=f"{name.replace('+', '.')} has no layers yet"):
            made(classifier, parts, name).model()
    own = np.arange(240) % 3
    with pytest.raises(ValueError, match="by class"):
        made(classifier, parts, held_out_classes=own, by_class=True).model()
    with pytest.raises(ValueError, match="must be .keras, .onnx, .tflite or a folder"):
        made(classifier, parts).export(tmp_path / "model.h5")
    assert set(score_layers.CONVERTED) <= set(scores.SCORES)
    assert set(score_layers.SHAPED) <= set(scores.SHAPERS)
