"""Networks of keras.applications are known when nothing treats the pixels before them."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from classifier_ood.bare_applications import refuse_bare
from classifier_ood.keras_classifier import KerasClassifier
from classifier_ood.models import build
from ood_suite.data.npz import write_images
from ood_suite.runs.run import Run
from tests.support import command

SHAPE = {"input_shape": (32, 32, 3), "weights": None, "classes": 5}
applications = keras.applications


@pytest.fixture(scope="module")
def made():
    """Real ones, of random weights."""
    return {
        "mobilenet_v2": applications.MobileNetV2(**SHAPE, alpha=0.35),
        "densenet": applications.DenseNet121(**SHAPE),
        "resnet": applications.ResNet50(**SHAPE),
        "vgg": applications.VGG16(**SHAPE),
    }


def test_bare_networks_are_refused_by_their_family(made):
    ranges = {"mobilenet_v2": "-1..1", "densenet": "torch", "resnet": "caffe", "vgg": "caffe"}
    flips = keras.Sequential([
        layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomContrast(0.2),
        layers.RandomBrightness(0.2), layers.GaussianNoise(0.1),
    ])  # fmt: skip
    for family, model in made.items():
        message = f"looks like keras.applications' {family}, .* --input_range={ranges[family]} "
        with pytest.raises(ValueError, match=message):
            refuse_bare(model)
        inputs = keras.Input((32, 32, 3))
        for within in (model(inputs), model(flips(inputs))):
            with pytest.raises(ValueError, match=message):
                refuse_bare(keras.Model(inputs, within))
        top = keras.Sequential([keras.Input((32, 32, 3)), layers.RandomFlip(), model])
        with pytest.raises(ValueError, match=message):
            KerasClassifier(top)


def test_with_preprocessing_they_are_taken(made):
    inputs = keras.Input((32, 32, 3))
    for family, module in (("densenet", applications.densenet), ("resnet", applications.resnet)):
        treated = module.preprocess_input(inputs)
        refuse_bare(keras.Model(inputs, made[family](treated)))
    refuse_bare(keras.Sequential([inputs, layers.Rescaling(1 / 255), made["vgg"]]))
    KerasClassifier(made["vgg"], input_range="0..255")  # what is said is taken at its word
    refuse_bare(applications.EfficientNetB0(**SHAPE))
    refuse_bare(applications.MobileNetV3Small(**SHAPE))
    refuse_bare(build("resnet_cifar", (32, 32, 3), 5))
    own = [layers.Conv2D(4, 3, name="conv1_conv"), layers.BatchNormalization(name="conv1_bn")]
    refuse_bare(keras.Sequential([inputs, *own, layers.Flatten(), layers.Dense(2)]))


@pytest.mark.parametrize("family", ("densenet", "mobilenet_v2", "resnet", "vgg"))
def test_a_named_range_is_what_preprocess_input_makes(family, rng, tmp_path):
    network = keras.Sequential([
        keras.Input((32, 32, 3)), layers.Conv2D(8, 3, 2, activation="relu"), layers.Flatten(),
        layers.Dense(5, activation="softmax"),
    ])  # fmt: skip
    module = getattr(applications, {"vgg": "vgg16"}.get(family, family))
    input_range = {"densenet": "torch", "mobilenet_v2": "-1..1"}.get(family, "caffe")
    images = rng.integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    classifier = KerasClassifier(network, input_range=input_range)
    found = classifier.outputs(images).logits
    raw = KerasClassifier(network, input_range="0..255")
    treated = module.preprocess_input(images.copy())
    expected = raw.network.predict(treated, verbose=0)["logits"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)
    assert np.abs(raw.outputs(images).logits - expected).max() > 0.01 * scale
    classifier.network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras", compile=False)
    np.testing.assert_allclose(
        again.predict(images, verbose=0)["logits"], found, rtol=1e-5, atol=1e-5 * scale
    )


def test_ranges_that_there_are_not(made):
    with pytest.raises(ValueError, match="Unknown input_range 'cafe'. Did you mean caffe"):
        KerasClassifier(made["vgg"], input_range="cafe")
    grey = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(ValueError, match="input_range='caffe' is of RGB"):
        KerasClassifier(grey, input_range="caffe")


def test_the_binary(made, rng, tmp_path):
    made["mobilenet_v2"].save(tmp_path / "m.keras")
    for name in ("val", "test"):
        images = rng.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
        write_images(tmp_path / f"{name}.npz", images, np.arange(10) % 5)
    arguments = [f"--model={tmp_path}/m.keras", f"--out_dir={tmp_path}/run"]
    arguments += [f"--id_{name}={tmp_path}/{name}.npz" for name in ("val", "test")]
    refused = command("classifier_ood.own_model", *arguments)
    assert refused.returncode == 1 and "keras.applications' mobilenet_v2" in refused.stderr
    assert not (tmp_path / "run").exists()
    taken = command("classifier_ood.own_model", *arguments, "--input_range=-1..1")
    assert taken.returncode == 0, taken.stderr
    assert Run.load(tmp_path / "run").settings["input_range"] == "-1..1"


def test_a_range_in_which_the_labels_are_likelier_is_told(tmp_path):
    """Class 1 is brighter than the middle, which is 0 in -1..1 alone: log(1 + exp(-1.2)) there."""
    inputs = keras.Input((4, 4, 1))
    head = layers.Dense(2)
    model = keras.Model(inputs, head(layers.GlobalAveragePooling2D()(inputs)))
    head.set_weights([np.float32([[-1.0, 1.0]]), np.zeros(2, np.float32)])
    model.save(tmp_path / "m.keras")
    images = np.full((10, 4, 4, 1), 51, np.uint8)
    images[5:] = 204
    write_images(tmp_path / "val.npz", images, np.arange(10) // 5)
    told = {}
    for own in ("0..255", "-1..1"):
        done = command(
            "classifier_ood.own_model", f"--model={tmp_path}/m.keras", f"--input_range={own}",
            f"--id_val={tmp_path}/val.npz", f"--id_test={tmp_path}/val.npz",
            f"--out_dir={tmp_path}/{own}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told[own] = re.findall(r"With --input_range=.* it is [\d.]+", done.stderr)
    assert told == {
        "0..255": ["With --input_range=-1..1 the loss on held-out images would be 0.263, and with "
                   "0..255 it is 51"], "-1..1": [],
    }  # fmt: skip


def test_means_in_0_to_1_are_not_taken_for_pixels():
    with pytest.raises(ValueError, match=r"mean=\[125.307, 122.961, 113.8575\]"):
        build("resnet_cifar", (32, 32, 3), 5, {
            "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010),
        })  # fmt: skip
    build("convnet", (8, 8, 1), 5, {"mean": 0.0, "std": 1.0})
