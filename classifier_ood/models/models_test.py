"""Backbones: published parameter counts, any image, features that enter the head, normalisation."""

import keras
import numpy as np
import pytest

from classifier_ood import models

SMALL = {
    "applications": {"application": "MobileNetV2"},
    "convnet": {"width": 4},
    "densenet": {"depth": 10, "growth": 4},
    "densenet_imagenet": {"bottlenecks": (1, 2), "growth": 4},
    "resnet_cifar": {"width": 4},
    "resnet_imagenet": {"width": 4},
    "vit": {"depth": 2, "width": 12, "heads": 3, "hidden": 16, "patch": 4},
    "wide_resnet": {"depth": 10, "width": 1},
}


@pytest.mark.parametrize(
    "name, options, classes, count",
    [
        ("densenet", {}, 10, 769_162),
        ("densenet", {}, 100, 800_032),
        ("densenet", {"affine": False}, 10, 745_174),
        ("wide_resnet", {"depth": 40, "width": 4, "affine": False}, 10, 8_938_426),
        ("resnet_cifar", {}, 10, 11_173_962),
        ("resnet_cifar", {"depth": 50}, 10, 23_520_842),
        ("densenet_imagenet", {}, 1000, 7_978_856),
        ("mobilenet_v2", {}, 1000, 3_504_872),
        ("vit", {}, 1000, 86_566_888),
        ("resnet_imagenet", {"depth": 18}, 1000, 11_689_512),
        ("resnet_imagenet", {}, 1000, 25_557_032),
        ("resnet_imagenet", {"depth": 101}, 1000, 44_549_160),
    ],
)
def test_parameters(name, options, classes, count):
    size = 224 if name == "vit" else 32  # its positions are parameters
    model = models.build(name, (size, size, 3), classes, options)
    assert models.count_parameters(model) == count


@pytest.mark.parametrize("name", models.BACKBONES)
def test_every_backbone(name, tmp_path, rng):
    assert list(models.BACKBONES) == sorted(models.BACKBONES), "sort BACKBONES by name"
    shape = (32, 40, 3) if name == "applications" else (20, 28, 1 if name == "convnet" else 3)
    model = models.build(name, shape, 7, SMALL.get(name))
    images = rng.integers(0, 256, (3, *shape)).astype(np.float32)
    found = model.predict(images, verbose=0)
    assert found["logits"].shape == (3, 7) and found["features"].ndim == 2
    assert found["logits"].dtype == found["features"].dtype == np.float32
    head = model.layers[-1] if name == "applications" else model.get_layer("fc")
    again = found["features"] @ np.asarray(head.kernel) + np.asarray(head.bias)
    np.testing.assert_allclose(found["logits"], again, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0)["logits"], found["logits"])


@pytest.mark.parametrize("name", models.BACKBONES)
def test_what_a_backbone_returns_is_float32_under_every_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.build(name, (32, 32, 1 if name == "convnet" else 3), 7, SMALL.get(name))
    finally:
        keras.config.set_dtype_policy(before)
    assert {output.dtype for output in model.output.values()} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in model._flatten_layers()}


def test_the_first_layer_normalises():
    options = {"mean": (10.0, 20.0, 30.0), "std": (1.0, 2.0, 4.0)}
    model = models.build("densenet", (8, 8, 3), 2, SMALL["densenet"] | options)
    first = keras.Model(model.inputs, model.get_layer("normalisation").output)
    pixels = np.full((1, 8, 8, 3), 40.0, np.float32)
    found = first.predict(pixels, verbose=0)[0, 0, 0]
    np.testing.assert_allclose(found, [30.0, 10.0, 2.5], rtol=1e-5)


def test_options_reach_the_network():
    dropped = models.build("densenet", (8, 8, 3), 2, SMALL["densenet"] | {"dropout": 0.5})
    assert sum(isinstance(layer, keras.layers.Dropout) for layer in dropped.layers) == 8
    bare = models.build("wide_resnet", (8, 8, 3), 2, SMALL["wide_resnet"] | {"affine": False})
    assert not bare.get_layer("bn1").trainable_weights
    norm = bare.get_layer("bn1")
    assert (norm.epsilon, norm.momentum) == (1e-5, 0.9)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("vgg", {}, "Unknown backbone 'vgg'. Known: applications"),
        ("convnet", {"depth": 3}, "Unknown option 'depth' of the backbone convnet. Known: width"),
        ("densenet", {"depth": 99}, "must be 6 n"),
        ("wide_resnet", {"depth": 41}, "must be 6 n"),
        ("resnet_cifar", {"depth": 20}, r"one of \[18, 34, 50, 101\]"),
        ("vit", {"patch": 5}, r"divisible by `patch` \(5\)"),
        ("vit", {"heads": 5}, "`width` must be a multiple of `heads`. Received: 768, 5"),
        ("convnet", {"std": 0.0}, "`std` must be positive"),
        ("convnet", {"mean": (1.0, 2.0)}, "one per channel"),
        ("applications", {"application": "ResNet5"}, "Unknown application 'ResNet5'"),
        ("applications", {"application": "MobileNet"}, "not in a Dense layer"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, (32, 32, 3), 10, options)
    given = {"application": "EfficientNetB0", "weights": __file__}
    with pytest.raises(ValueError, match="Keras scales EfficientNetB0's pixels otherwise"):
        models.build("applications", (32, 32, 3), 10, given)
    with pytest.raises(FileNotFoundError, match="no weights file nowhere.h5"):
        models.build("applications", (32, 32, 3), 10, {"weights": "nowhere.h5"})
    with pytest.raises(ValueError, match="at least 2"):
        models.build("convnet", (32, 32, 3), 1)
