"""What calibrate chooses and says is by validation data alone."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from ood_suite import Outputs, conformal, data
from ood_suite.data import synthetic
from ood_suite.data.pixels import named_images
from ood_suite.data.transforms import to_shape
from ood_suite.evaluation import verdict
from ood_suite.serving import calibration
from ood_suite.serving.calibration import _compared, _lead, _Outputs
from ood_suite.serving.request import Calibration


def outputs(count, seed, ood_in=None):
    """Features of three classes; OOD data are far along one axis that the head does not see."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = np.column_stack([np.eye(3)[labels] * 4, np.zeros(count)])
    features += rng.normal(0, 0.3, (count, 4))
    if ood_in is not None:
        features[:, ood_in] += 6
    kernel = np.vstack([np.eye(3), np.zeros((1, 3))])
    return Outputs(
        labels=labels, features=features, logits=features @ kernel, head_kernel=kernel,
        head_bias=np.zeros(3), meta={"dataset": f"set {seed}"},
    )  # fmt: skip


def test_the_score_that_sees_the_validation_data_is_chosen_and_its_lead_is_told():
    parts = _Outputs(outputs(300, 1), outputs(300, 2), {"hidden": outputs(200, 3, ood_in=3)})
    values, rows = _compared(("energy", "msp", "vim"), parts, Calibration())
    assert rows["vim"]["hidden"]["auroc"] > 0.99 > 0.7 > rows["energy"]["hidden"]["auroc"]
    assert rows["vim"]["hidden"]["caught"] > 0.9
    low, high = (rows["energy"]["hidden"][key] for key in ("low", "high"))
    assert low < rows["energy"]["hidden"]["auroc"] < high
    assert calibration._ordered(rows)[0] == "vim"
    lead = rows["vim"]["hidden"]["caught"] - rows["energy"]["hidden"]["caught"]
    found, low, high = _lead(values["vim"], values["energy"], Calibration())
    assert found == lead and lead - 0.3 < low < lead < high <= 1.0
    assert _lead(values["vim"], values["vim"], Calibration()) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_what_catches_most_at_the_promise_asked_for_is_chosen_not_the_best_auroc(confidence):
    """A tenth of the held-out images lies beyond the OOD ones: the threshold does too."""
    held_out = outputs(300, 1)
    held_out.features[:30, 3] += 20
    wanted = Calibration(false_alarms=0.05, confidence=confidence)
    parts = _Outputs(held_out, outputs(300, 2), {"hidden": outputs(200, 3, ood_in=3)})
    values, rows = _compared(("energy", "vim"), parts, wanted)
    assert rows["vim"]["hidden"]["auroc"] > 0.85 > 0.7 > rows["energy"]["hidden"]["auroc"]
    assert calibration._ordered(rows) == ["energy", "vim"]
    for name, (own, [ood]) in values.items():
        number = 286 if confidence is None else 292  # of 300 by a binomial table
        expected = np.mean(ood > np.sort(own)[number - 1])
        assert rows[name]["hidden"]["caught"] == expected
    rows["vim"]["hidden"]["caught"] = rows["energy"]["hidden"]["caught"]
    assert calibration._ordered(rows) == ["vim", "energy"]  # as many: the better AUROC


def test_scores_that_cannot_be_fitted_are_left_out_of_several_and_refused_alone(caplog):
    held_out = dataclasses.replace(outputs(300, 1), features=None, head_kernel=None, head_bias=None)
    parts = _Outputs(held_out, None, {"hidden": outputs(200, 3)})
    values, _ = _compared(("energy", "knn"), parts, Calibration())
    assert list(values) == ["energy"]
    with pytest.raises(ValueError, match="knn learns from training data"):
        _compared(("knn",), parts, Calibration())
    with pytest.raises(ValueError, match="None of the scores can be fitted: knn, vim"):
        _compared(("knn", "vim"), parts, Calibration())


def test_what_a_detector_of_pixels_cannot_have_is_refused_at_once():
    output = {"logits": types.SimpleNamespace(shape=(None, 3))}
    classifier = types.SimpleNamespace(network=types.SimpleNamespace(output=output))
    for name in ("gram", "likelihood", "mahalanobis_layers"):
        with pytest.raises(ValueError, match=f"A detector of pixels cannot have {name}"):
            calibration._require_possible((name,), Calibration(), None, classifier)
    for classes, folders in (((), ["a", "b"]), (("a", "b"), None)):
        with pytest.raises(ValueError, match="The network has 3 classes. Received 2: a, b"):
            wanted = Calibration(classes=classes)
            calibration._require_possible(("energy",), wanted, folders, classifier)
    with pytest.raises(ValueError, match="--classes .* Received twice: crane"):
        wanted = Calibration(classes=("crane", "maillot", "crane"))
        calibration._require_possible(("energy",), wanted, None, classifier)
    calibration._require_possible(calibration.CANDIDATES, Calibration(), None, classifier)


def test_files_are_framed_as_held_out_arrays_were(tmp_path, rng):
    shape, wide = (8, 8, 1), rng.integers(0, 256, (3, 16, 40, 1), dtype=np.uint8)
    folder = tmp_path / "wide"
    folder.mkdir()
    for number, image in enumerate(wide):
        Image.fromarray(image[..., 0]).save(folder / f"{number}.png")
    transform = calibration._transform("mine", wide.shape, shape)
    files = np.stack([load() for *_, load in named_images([folder], shape, transform)])
    np.testing.assert_array_equal(files, to_shape(wide, shape)[0])
    given = data.load(str(folder), "val", None, shape).images  # files: they cover the shape
    assert calibration._transform(str(folder), given.shape, shape) == "cover"
    assert calibration._transform("mine", (3, 16, 16, 1), shape) == "cover"
    assert calibration._transform("mine:imagenet", (3, *shape), shape) == "imagenet"


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (9, 11, 3), (3, 3, 1)])
def test_generated_images_are_ood_images_of_the_same_shape(shape):
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    for generate in calibration.GENERATED.values():
        made = generate(images)
        assert made.shape == images.shape and made.dtype == np.uint8
        np.testing.assert_array_equal(generate(images), made)  # the same every time


def test_a_jigsaw_keeps_the_pixels_and_a_mixture_is_the_mean():
    images = np.arange(2 * 8 * 8).reshape(2, 8, 8, 1).astype(np.uint8)
    shuffled = synthetic.jigsaw(images)
    assert not np.array_equal(shuffled, images)
    np.testing.assert_array_equal(np.sort(shuffled.ravel()), np.sort(images.ravel()))
    patches = {
        images[0, i : i + 2, j : j + 2].tobytes() for i in (0, 2, 4, 6) for j in (0, 2, 4, 6)
    }
    assert all(
        shuffled[0, i : i + 2, j : j + 2].tobytes() in patches for i in (0, 2) for j in (0, 6)
    )
    mean = synthetic.mixed(images)
    np.testing.assert_array_equal(mean[0], (images[0].astype(int) + images[1] + 1) // 2)


def test_what_chooses_the_score_does_not_set_the_threshold():
    """Of many scores that see nothing, the best on these examples would seem to alarm less."""
    generator, alarms, naive = np.random.default_rng(0), [], []
    for _ in range(400):
        held_out, ood = generator.normal(size=(40, 60)), generator.normal(size=(40, 30))
        new = generator.normal(size=40)
        halves = held_out[:, :30], held_out[:, 30:]

        def best(own, ood=ood):
            return int(np.argmax((own[:, :, None] < ood[:, None]).mean(axis=(1, 2))))

        one, other = best(halves[0]), best(held_out)
        alarms.append(new[one] > conformal.threshold(halves[1][one], 0.1))
        naive.append(new[other] > conformal.threshold(held_out[other], 0.1))
    assert np.sum(alarms) <= stats.binom(400, 0.1).ppf(1 - 1e-6)
    assert np.mean(naive) > np.mean(alarms)
    first, second = calibration._parted(_Outputs(outputs(31, 1), None, {}))
    assert (len(first.held_out), len(second.held_out)) == (15, 16)
    both = np.concatenate([first.held_out.features, second.held_out.features])
    expected = outputs(31, 1).features
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(expected, axis=0))


@pytest.mark.parametrize("is_chosen", [False, True])
def test_generated_images_are_of_all_held_out_classes_and_of_those_that_choose(
    is_chosen, monkeypatch
):
    seen = {}
    monkeypatch.setattr(calibration, "GENERATED", {"seen": lambda x: seen.setdefault("x", x)})
    images = np.repeat(np.arange(200, dtype=np.uint8), 20)[:, None, None, None]  # sorted by class
    source = data.ImageSet("own", "val", images, images[:, 0, 0, 0].astype(np.int32))
    classifier = types.SimpleNamespace(
        image_shape=(1, 1, 1), outputs=lambda x: Outputs(logits=np.zeros((len(x), 2)))
    )
    found = calibration._generated(classifier, source, [], is_chosen)
    assert list(found) == ["seen"] and found["seen"].logits_perturbed is None
    shown = seen["x"].ravel()
    assert len(shown) == calibration.COUNT and len(np.unique(shown)) > 190
    kept = verdict.halves(4000)[0] if is_chosen else np.arange(4000)
    counts = np.bincount(images.ravel()[kept], minlength=200)
    assert (np.bincount(shown, minlength=200) <= counts).all()


@pytest.mark.parametrize("titles", [("same", "same"), ("jigsaw",)])
def test_validation_sets_of_one_name_are_refused(titles, monkeypatch):
    made = iter([Outputs(logits=np.zeros((2, 2)), meta={"dataset": title}) for title in titles])
    extractor = types.SimpleNamespace(extract=lambda *arguments, **more: next(made))
    monkeypatch.setattr(calibration, "extractor_of", lambda run: extractor)
    with pytest.raises(ValueError, match=f"validation OOD data are called {titles[0]}: rename"):
        calibration._extracted(types.SimpleNamespace(roles={}), [], titles, None)
