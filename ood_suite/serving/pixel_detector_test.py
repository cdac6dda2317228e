"""A detector of pixels decides as arrays do, promises what it says, and refuses what is not its."""

import json
import os
import shutil

import keras
import numpy as np
import pytest

from classifier_ood.keras_classifier import KerasClassifier
from ood_suite import Detector, Outputs, conformal
from ood_suite.files import RunError
from ood_suite.serving import calibration
from ood_suite.serving.pixel_detector import PixelDetector
from ood_suite.training import backend, input_gradients

SHAPE = (8, 8, 1)


def images(count, seed, brightness=0):
    rng = np.random.default_rng(seed)
    ramps = rng.integers(0, 100, (count, 1, 1, 1)) + 12 * np.arange(8)[:, None, None]
    noise = rng.integers(0, 30, (count, *SHAPE))
    return np.clip(ramps + noise + brightness, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input(SHAPE), keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3),
    ])  # fmt: skip
    return KerasClassifier(model, input_range="0..1")


@pytest.fixture(scope="module")
def parts(classifier):
    """(held-out, training, new) Outputs with labels."""
    labels = np.arange(240) % 3
    return [classifier.outputs(images(240, seed), labels) for seed in (1, 2, 3)]


def made(classifier, parts, name="energy", alarms=0.05, **more):
    detector = Detector(name, acceptance=1.0 - alarms).fit(parts[0], parts[1])
    return PixelDetector(classifier.network, classifier.head, detector, **more)


@pytest.mark.parametrize("name", ["msp", "energy", "react+energy", "vim", "knn", "energy&knn"])
def test_pixels_are_scored_as_their_outputs_are(classifier, parts, name):
    detector = made(classifier, parts, name)
    found = detector(images(240, 3))
    expected = detector.detector.score(parts[2])  # in batches of another size
    scores, atol = (found.score, expected), 2e-5
    if name == "knn":  # the root of a small difference: what rounds is its square
        scores, atol = (found.score**2, expected**2), 1e-6
    other = ~np.isclose(*scores, rtol=1e-4, atol=atol)
    assert other.mean() <= (0.01 if "&" in name else 0.0)  # a fusion counts, by steps
    held_out = np.sort(detector.detector.calibration_)
    reached = conformal.not_below(held_out, found.score, conformal.ROUNDED)
    np.testing.assert_array_equal(found.p_value, (1 + reached) / 241)
    lowered = found.score - conformal.ROUNDED * np.abs(found.score)
    np.testing.assert_array_equal(found.is_ood, lowered > detector.thresholds[0])
    np.testing.assert_array_equal(found.label, parts[2].logits.argmax(axis=1))


@pytest.mark.parametrize("moved", [-3e-7, 0.0, 3e-7])
def test_a_held_out_image_is_judged_alike_however_its_network_rounded(classifier, parts, moved):
    """A tenth of the held-out images are one frame, with the threshold among them; they were scored
    in a batch of another size, which moved their scores a little.
    """
    order = parts[0].logits.max(axis=1).argsort()[::-1]
    rows = np.concatenate([order[:216], np.repeat(order[216], 24)])
    learned = Detector("max_logit").fit(parts[0].take(rows))
    learned.calibration_ = learned.calibration_ * (1.0 + moved)
    detector = PixelDetector(classifier.network, classifier.head, learned)
    frame = images(240, 1)[order[216]][None]
    found, exported = detector(frame), detector.model()(frame)
    assert not found.is_ood[0] and found.p_value[0] == 25 / 241
    assert not exported["is_ood"][0]
    np.testing.assert_allclose(exported["p_value"], found.p_value, rtol=1e-6)


def test_odin_is_reached_from_pixels(classifier, parts):
    perturb = input_gradients.odin(classifier.network, 1000.0, (0.0014,))
    held_out = Outputs(logits_perturbed=perturb(images(240, 1)))
    detector = Detector("odin").fit(held_out)
    ours = PixelDetector(classifier.network, classifier.head, detector)
    expected = detector.score(Outputs(logits_perturbed=perturb(images(20, 3))))
    np.testing.assert_allclose(ours(images(20, 3)).score, expected, rtol=1e-6)


def test_layers_are_reached_from_pixels(classifier, parts):
    name = classifier.model.layers[0].name
    inner = KerasClassifier(classifier.model, inner_layers=(name,), input_range="0..1")
    held_out, training, new = (inner.outputs(images(240, s), np.arange(240) % 3) for s in (1, 2, 3))
    validation = inner.outputs(255 - images(240, 4))
    detector = Detector("mahalanobis_layers").fit(held_out, training, validation)
    ours = PixelDetector(inner.network, inner.head, detector)
    np.testing.assert_allclose(ours(images(240, 3)).score, detector.score(new), rtol=1e-4)


def test_one_image_and_floats_of_the_declared_range_say_the_same(classifier, parts):
    as_bytes, as_floats = made(classifier, parts), made(classifier, parts, pixel_range="-1..1")
    batch = images(4, 3)
    single = as_bytes(batch[2])
    assert single.is_ood.shape == () and single.score == pytest.approx(as_bytes(batch).score[2])
    scaled = batch.astype(np.float32) / 127.5 - 1.0
    np.testing.assert_allclose(as_floats(scaled).score, as_bytes(batch).score, rtol=1e-5)
    assert len(as_bytes(np.zeros((0, *SHAPE), np.uint8)).score) == 0


@pytest.mark.parametrize("name", ["energy", "react+energy", "vim", "energy&knn"])
@pytest.mark.parametrize("by_class", [False, True])
def test_a_folder_decides_identically(classifier, parts, name, by_class, tmp_path):
    own = parts[0].logits.argmax(axis=1)
    if by_class and len(np.unique(own)) < 3:
        own = np.arange(240) % 3
    more = {"held_out_classes": own, "by_class": True} if by_class else {"confidence": 0.9}
    detector = made(classifier, parts, name, classes=["a", "b", "c"], card="# Card", **more)
    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    for ours, theirs in zip(loaded(images(50, 3)), detector(images(50, 3)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.classes == ["a", "b", "c"] and loaded.card == "# Card"
    assert loaded.promise == detector.promise
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("by_class", [False, True])
def test_what_a_card_says_is_caught_is_what_the_detector_calls_ood(classifier, parts, by_class):
    more = {"confidence": 0.9}
    if by_class:  # whatever a network that was not trained predicts
        more |= {"by_class": True, "held_out_classes": np.arange(240) % 3}
    detector = made(classifier, parts, alarms=0.3, **more)
    pixels = np.clip(images(60, 4) + 25, 0, 255).astype(np.uint8)
    found = calibration._caught(detector, {"brighter": classifier.outputs(pixels)})
    assert found == {"brighter": pytest.approx(detector(pixels).is_ood.mean(), abs=0.02)}
    row = {"auroc": 0.8, "low": 0.7, "high": 0.9, "caught": 0.5}
    own = {"b": row | {"caught": 0.4}}
    detector.about = {"run": "x", "score": "energy", "false_alarms": 0.3, "validation": own}
    outputs = calibration._Outputs(parts[0], parts[1], {"b": parts[2]})
    card = " ".join(calibration.model_card(detector, outputs, {"energy": {"b": row}}, []).split())
    assert "with 90% confidence" in card and "This detector catches: 40% of b." in card
    kind = "one threshold for all classes" if by_class else "a threshold"
    assert f'"caught" is the share above {kind} of what is asked for' in card
    assert "| energy | 0.800 [0.700, 0.900], 50% | 0.8000, 50.0% |" in card


def test_thresholds_of_classes_are_those_of_their_own_examples(classifier, parts):
    own = np.arange(240) % 3
    detector = made(classifier, parts, "energy", held_out_classes=own, by_class=True)
    values = detector.detector.calibration_
    for label in range(3):
        expected = conformal.threshold(values[own == label], 0.05)
        assert detector.thresholds[label] == expected
    with pytest.raises(ValueError, match=r"predicted as one of \[2\]"):
        made(classifier, parts, "energy", held_out_classes=own % 2, by_class=True)


@pytest.mark.parametrize(
    "pixels,text",
    [
        (np.zeros((1, 8, 8, 3), np.uint8), r"shape \(n, 8, 8, 1\). Received: \(1, 8, 8, 3\)"),
        (np.zeros((8, 8), np.uint8), "must have shape"),
        (np.zeros((1, *SHAPE), np.int64), "uint8, or floats in 0..255. Received: int64"),
        (np.full((1, *SHAPE), 0.7), "looks like 0..1: multiply them by 255"),
        (np.full((1, *SHAPE), np.nan), "must lie in 0..255 .*calibrate.*nan"),
        (np.full((1, *SHAPE), -20.0), "Received: -20 to -20"),
        (np.full((1, *SHAPE), 300.0), "Received: 300 to 300"),
    ],
)
def test_other_pixels_than_it_was_fitted_to_are_refused(classifier, parts, pixels, text):
    with pytest.raises(ValueError, match=text):
        made(classifier, parts)(pixels)


def test_pixels_of_0_to_255_are_refused_where_0_to_1_was_declared(classifier, parts):
    detector = made(classifier, parts, pixel_range="0..1")
    with pytest.raises(ValueError, match="must lie in 0..1 .*calibrate.*48 to 178"):
        detector(images(3, 1).astype(np.float32))
    assert detector(images(3, 1)).score.shape == (3,)  # bytes are 0..255, always


def test_too_few_held_out_examples_and_unknown_ranges_are_refused(classifier, parts):
    with pytest.raises(ValueError, match="240 held-out .* at least 999 are needed"):
        made(classifier, parts, alarms=0.001)
    with pytest.raises(ValueError, match="`pixel_range` must be one of 0..255, 0..1"):
        made(classifier, parts, pixel_range="0..2")
    with pytest.raises(ValueError, match="3 classes. Received: 2"):
        made(classifier, parts, classes=["a", "b"])


def test_a_network_in_bfloat16_is_refused_where_there_is_none(
    classifier, parts, tmp_path, monkeypatch
):
    half = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, dtype="mixed_bfloat16")])
    assert backend.is_bfloat16(half) and not backend.is_bfloat16(classifier.network)
    made(classifier, parts).save(tmp_path / "d")
    monkeypatch.setattr(backend, "has_bfloat16", lambda: False)
    PixelDetector.load(tmp_path / "d")
    monkeypatch.setattr(backend, "is_bfloat16", lambda network: True)
    with pytest.raises(RunError, match="computes in bfloat16, which this processor does not"):
        PixelDetector.load(tmp_path / "d")


def test_other_weights_than_those_of_the_score_are_refused(parts, tmp_path):
    model = keras.Sequential([
        keras.Input(SHAPE), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3),
    ])  # fmt: skip
    before = KerasClassifier(model)
    detector = made(before, [before.outputs(images(240, seed)) for seed in (1, 2)])
    expected = detector(images(9, 3))
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 2.0)  # as if trained further
    for write in (detector.save, detector.export):
        with pytest.raises(ValueError, match="weights have changed .* Save and export it before"):
            write(tmp_path / "d")
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(detector(images(9, 3)).score, expected.score)
    for network in (before.network, KerasClassifier(model).network):
        with pytest.raises(ValueError, match="fitted to outputs of a network with other weights"):
            PixelDetector(network, before.head, detector.detector)
    model.layers[-1].kernel.assign(model.layers[-1].kernel / 2.0)
    detector.save(tmp_path / "d")
    assert Detector.load(tmp_path / "d").detector.source_ == detector.detector.source_


def test_names_of_classes_are_distinct_but_for_those_of_earlier_versions(
    classifier, parts, tmp_path, caplog
):
    with pytest.raises(ValueError, match="a name of its own. Received twice: crane"):
        made(classifier, parts, classes=["crane", "maillot", "crane"])
    with pytest.raises(ValueError, match=r"must be a list of texts. Received: \[0, 1, 2\]"):
        made(classifier, parts, classes=[0, 1, 2])
    made(classifier, parts, classes=["crane", "maillot", "x"]).save(tmp_path / "d")
    path = tmp_path / "d" / "detector.json"
    path.write_text(path.read_text().replace('"x"', '"crane"'))
    assert Detector.load(tmp_path / "d").classes == ["crane", "maillot", "crane"]
    assert "has several classes of one name" in caplog.text


def test_damaged_folders_and_foreign_networks_are_refused(classifier, parts, tmp_path):
    folder = tmp_path / "d"
    made(classifier, parts).save(folder)
    with pytest.raises(RunError, match="there already"):
        made(classifier, parts).save(folder)
    made(classifier, parts).save(folder, overwrite=True)
    (folder / "decisions.tsv").write_text("mine")
    with pytest.raises(RunError, match=r"more than a detector, which would be lost: .*decisions"):
        made(classifier, parts).save(folder, overwrite=True)
    (folder / "decisions.tsv").unlink()
    with pytest.raises(RunError, match="is no detector: it has no network.keras"):
        PixelDetector.load(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    keras.models.clone_model(classifier.network).save(other / "network.keras")
    with pytest.raises(RunError, match="another network than it was fitted to"):
        Detector.load(other)
    described = json.loads((folder / "detector.json").read_text())
    changes = {"promise": "none"}, {"image_shape": [9, 9, 1]}
    for change in (
        *changes,
        {"thresholds": [0.0]},
        {"format": 2},
        {"classes": 3},
        {"classes": [0, 1, 2]},
        {"classes": {"a": 0, "b": 1, "c": 2}},
        {"pixel_range": []},
    ):
        (folder / "detector.json").write_text(json.dumps(described | change))
        with pytest.raises(RunError, match="cannot be read as a detector"):
            Detector.load(folder)
    (folder / "detector.json").write_text("{")
    with pytest.raises(RunError, match="JSON"):
        Detector.load(folder)


@pytest.mark.parametrize("name", ["card.md", "network.keras", "detector.json"])
def test_what_is_no_file_of_its_own_is_refused(classifier, parts, tmp_path, name):
    """A link showed a file of the server as the card; a pipe was waited for."""
    path = tmp_path / "d" / name
    made(classifier, parts).save(tmp_path / "d")
    path.rename(tmp_path / "whole")
    path.symlink_to(tmp_path / "whole")
    with pytest.raises(RunError, match=f"{name} must be a regular file, not a link"):
        Detector.load(tmp_path / "d")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match=f"{name} must be a regular file"):
        Detector.load(tmp_path / "d")
