"""A detector's graph gives NumPy's scores, and stands alone in another process."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from classifier_ood.keras_classifier import KerasClassifier
from ood_suite import Outputs, scores
from ood_suite.detector import Detector
from ood_suite.files import RunError
from ood_suite.scores import activations
from ood_suite.serving.pixel_detector import PixelDetector
from ood_suite.serving.pixel_detector_test import SHAPE, classifier, images, made, parts
from ood_suite.training import head_formulas, score_layers

onnxruntime = pytest.importorskip("onnxruntime")  # not in the environment of JAX
__all__ = ["classifier", "parts"]  # fixtures
NAMES = [
    *(name for name in score_layers.CONVERTED if name != "mahalanobis_layers"),
    *(f"{shaper}+energy" for shaper in score_layers.SHAPED), "react+msp", "react+scale+energy",
    "energy&vim&knn&mahalanobis", "vim(dimension=3) & react (percentile=80) + energy",
    "gen(gamma=0.5)",
]  # fmt: skip
PARAMETERS = {"lts+energy": {"lts.percentile": 60.0}}  # of so few features
# What counts may count one that nearly ties on the other side: share of examples.
COUNTED = {"&": 0.1, "nac": 0.02, "weiper": 0.02}
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


def fitted(classifier, parts, name):
    """A PixelDetector; of data with labels that the score can learn from."""
    if name == "temperature_scaling":  # needs labels that the network is mostly right on
        parts = [labelled(parts[0], np.arange(240) % 4 > 0), *parts[1:]]
    if name in ("she", "openmax"):  # and right ones of each class
        parts = [parts[0], labelled(of_all_classes(parts[1]), np.ones(240, bool)), parts[2]]
    detector = Detector(name, parameters=PARAMETERS.get(name)).fit(parts[0], parts[1])
    return PixelDetector(classifier.network, classifier.head, detector)


def allowed(name):
    return max((share for key, share in COUNTED.items() if key in name), default=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_gives_the_scores_of_numpy(classifier, parts, name):
    detector = fitted(classifier, parts, name)
    expected, found = detector(images(240, 3)), detector.model()(images(240, 3))
    spread = expected.score.std()
    off = np.abs(found["score"] - expected.score) > 1e-4 + 1e-4 * np.abs(expected.score)
    assert off.mean() <= allowed(name), np.abs(found["score"] - expected.score).max()
    near = np.abs(expected.score - detector.thresholds[0]) < 1e-3 * spread
    np.testing.assert_array_equal(found["is_ood"][~near], expected.is_ood[~near])
    np.testing.assert_allclose(found["p_value"], expected.p_value, atol=5 / 241)


@pytest.mark.parametrize("name", ["ash_b", "ash_p"])
def test_features_that_are_zero_tied_or_negative_are_pruned_as_by_numpy(name):
    features = np.array(
        [[3, 1, 0, 0, 0], [0, 0, 0, 0, 0], [2, 2, 2, 2, 1], [-1, -3, -2, -3, -5]], np.float32
    )
    kernel, bias = np.eye(5, dtype=np.float32), np.zeros(5, np.float32)
    expected, *_ = getattr(activations, name)(features, kernel, bias, percentile=40.0)
    given = {"features": features, "head_kernel": kernel, "head_bias": bias}
    found = getattr(head_formulas, name)(given, {"percentile": 40.0}, None)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-6)


def test_scaled_logits_take_their_bias_through_the_next_shaper():
    rng = np.random.default_rng(2)
    features = rng.uniform(0, 3, (6, 5)).astype(np.float32)
    kernel, bias = rng.normal(size=(5, 4)).astype(np.float32), np.full(4, 3.0, np.float32)
    *scaled, factor_times_bias = activations.lts(features, kernel, bias, percentile=40.0)
    shaped, *head = activations.ash_p(*scaled, factor_times_bias, percentile=60.0)
    expected = shaped @ head[0] + head[1]
    given = {"features": features, "head_kernel": kernel, "head_bias": bias}
    given = head_formulas.lts(given, {"percentile": 40.0}, None)
    found = head_formulas.ash_p(given, {"percentile": 60.0}, None)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["msp", "entropy", "gen", "temperature_scaling"])
def test_sure_networks_are_told_apart_in_float32_too(name):
    rng = np.random.default_rng(4)
    raw = rng.normal(size=(300, 10)).astype(np.float32)
    raw[np.arange(300), rng.integers(0, 10, 300)] += np.linspace(5, 40, 300, dtype=np.float32)
    held_out = Outputs(logits=raw, labels=np.where(np.arange(300) % 9, raw.argmax(1), 0))
    detector = Detector(name).fit(held_out)
    values = detector.entry.parameters
    found = score_layers.CONVERTED[name]({"logits": raw}, values, detector.learner)
    expected, found = detector.score(held_out), np.asarray(found, np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 if name == "gen" else 0.0)


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 300.0, 3000.0])
@pytest.mark.parametrize("gamma, top", [(0.01, 10), (0.1, 100), (0.1, 3), (0.9, 10)])
def test_powers_of_probabilities_that_float32_has_not(spread, gamma, top):
    raw = (spread * np.random.default_rng(5).normal(size=(300, 10))).astype(np.float32)
    raw[::5, 1] = raw[::5, 0] = raw[::5].max(axis=1)  # ties
    expected = scores.get("gen").fn(raw, gamma=gamma, top=top)
    found = score_layers.CONVERTED["gen"]({"logits": raw}, {"gamma": gamma, "top": top}, None)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-30)


def test_copies_of_a_class_have_no_boundary_in_an_export(rng):
    """The rounding of products was taken for their distance, and scores were thousands."""
    features, apart = rng.normal(size=(60, 512)), np.where(np.arange(100) % 2, 0.05, 0.0)
    kernel = np.repeat(rng.normal(size=(512, 50)).astype(np.float32), 2, axis=1)
    given = {"features": features, "logits": features @ kernel + apart, "head_kernel": kernel}
    learner = scores.get("fdbd").make().fit(features)
    expected = learner.score(*(given[name] for name in scores.get("fdbd").needs))
    given = {name: np.float32(array) for name, array in given.items()}
    found = np.asarray(score_layers.CONVERTED["fdbd"](given, {}, learner))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


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


def test_an_onnx_file_says_what_it_is(classifier, parts, tmp_path):
    detector = made(classifier, parts, classes=["cat", "dög", "emu"])
    detector.export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["cat", "dög", "emu"]
    assert json.loads(about["thresholds"]) == detector.thresholds.tolist()
    assert about["score"] == "energy" and about["promise"] == str(detector.promise)
    assert about["pixel_range"] == "0..255"  # of what the file takes
    values = (*session.get_inputs(), *session.get_outputs())
    assert {value.shape[0] for value in values} == {"batch"}


def run_as_onnx(path, pixels, output="score"):
    session = onnxruntime.InferenceSession(str(path))
    [found] = session.run([output], {session.get_inputs()[0].name: pixels})
    return found


def run_as_litert(path, pixels, output="score"):
    import tensorflow as tf

    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    [name] = runner.get_input_details()
    single = [runner(**{name: pixels[i : i + 1]})[output] for i in range(len(pixels))]
    return np.concatenate(single)


# Two names always, of many operations; the others under --run_large.
@pytest.mark.parametrize("name", [
    name if name in ("himplos", "ras+energy") else pytest.param(name, marks=pytest.mark.large)
    for name in NAMES
])  # fmt: skip
def test_other_formats_give_the_scores_of_numpy(classifier, parts, name, tmp_path):
    detector, pixels = fitted(classifier, parts, name), images(20, 3)
    expected, runs = detector(pixels).score, {"model.onnx": run_as_onnx}
    if not score_layers.in_double(detector.detector):
        runs["model.tflite"] = run_as_litert
    for file, run in runs.items():
        detector.export(tmp_path / file)
        found = run(tmp_path / file, pixels.astype(np.float32))
        off = np.abs(found - expected) > 1e-4 + 1e-4 * np.abs(expected)
        assert off.mean() <= allowed(name), (file, np.abs(found - expected).max())


@pytest.mark.parametrize("name", ["energy", "msp"])  # -infinity or NaN where logits overflow
def test_what_overflows_is_ood_in_every_format(name, tmp_path):
    inputs = keras.Input(SHAPE)
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    above = keras.layers.ReLU()(keras.layers.Rescaling(1e4, -254e4)(mean))
    features = keras.layers.Add()([mean, keras.layers.Activation("exponential")(above)])
    own = KerasClassifier(keras.Model(inputs, keras.layers.Dense(3)(features)))
    detector = made(own, [own.outputs(images(240, seed)) for seed in (1, 2)], name)
    pixels = np.concatenate([images(5, 3), np.full((2, *SHAPE), 255)]).astype(np.float32)
    with pytest.raises(ValueError, match="NaN or infinite"):
        detector(pixels)
    exported = [detector.model()(pixels)]
    for file, run in {"model.onnx": run_as_onnx, "model.tflite": run_as_litert}.items():
        detector.export(tmp_path / file)
        exported.append({key: run(tmp_path / file, pixels, key) for key in ("is_ood", "p_value")})
    for found in exported:
        np.testing.assert_array_equal(found["is_ood"][:5], detector(pixels[:5]).is_ood)
        np.testing.assert_array_equal(found["is_ood"][5:], 1)
        np.testing.assert_allclose(found["p_value"][5:], 1 / 241, rtol=1e-6)


def test_thresholds_by_class_are_part_of_the_graph(classifier, parts):
    spread = [of_all_classes(part) for part in parts]
    learned = Detector("energy", acceptance=0.9).fit(spread[0], spread[1])
    own = np.arange(240) % 3  # as if these were the predicted classes
    detector = PixelDetector(
        classifier.network, classifier.head, learned, held_out_classes=own, by_class=True
    )
    pixels = np.concatenate([images(100, 3), images(100, 4, brightness=60)])
    expected, found = detector(pixels), detector.model()(pixels)
    np.testing.assert_allclose(found["p_value"], expected.p_value, atol=3 / 80)
    limits = detector.thresholds[expected.label]
    clear = np.abs(expected.score - limits) > 1e-4
    assert len(set(detector.thresholds)) == 3 and clear.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(found["is_ood"])[clear], expected.is_ood[clear])


def test_inner_layers_are_part_of_the_graph():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input(SHAPE), keras.layers.Conv2D(4, 3, activation="relu", name="early"),
        keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
    ])  # fmt: skip
    own = KerasClassifier(model, input_range="0..1", inner_layers=("early",))
    labels = np.arange(240) % 3
    held_out, training = (own.outputs(images(240, seed), labels) for seed in (1, 2))
    bright = own.outputs(images(240, 5, brightness=90), labels)
    learned = Detector("mahalanobis_layers").fit(held_out, training, bright)
    detector = PixelDetector(own.network, own.head, learned)
    expected, found = detector(images(240, 3)), detector.model()(images(240, 3))
    np.testing.assert_allclose(found["score"], expected.score, rtol=1e-3, atol=1e-3)


def test_every_score_of_a_classifier_has_layers_or_a_reason(classifier, parts, tmp_path):
    held = {"features", "logits", "head_kernel", "head_bias", "layer_features"}
    of_pixels = {name for name, entry in scores.SCORES.items() if set(entry.needs) <= held}
    assert of_pixels == set(score_layers.CONVERTED)
    assert set(score_layers.SHAPED) == set(scores.SHAPERS)
    needs = ("logits_perturbed",)
    odin = made(classifier, parts)
    odin._perturb = lambda pixels: {needs[0]: pixels}
    with pytest.raises(ValueError, match="energy cannot be exported: it needs the gradient"):
        odin.model()
    with pytest.raises(ValueError, match="must be .keras, .onnx, .tflite or a folder"):
        made(classifier, parts).export(tmp_path / "model.h5")
    with pytest.raises(ValueError, match="gmm needs float64, which LiteRT does not have"):
        made(classifier, parts, "gmm").export(tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
