"""The usual inner layers: the ends of stages, and the definition: nothing passes beside them."""

import keras
import pytest
from keras import layers

from classifier_ood import models
from classifier_ood.keras_classifier import KerasClassifier
from classifier_ood.usual_layers import usual_layers

STAGES = {
    "convnet": ({"width": 4}, ("stage1_bn2_relu", "stage2_bn2_relu", "stage3_bn2_relu")),
    "densenet": ({"depth": 10, "growth": 4}, ("trans1_conv1", "trans2_conv1", "bn1_relu")),
    "densenet_imagenet": (
        {"bottlenecks": (1, 2), "growth": 4}, ("bn0_relu", "trans1_conv1", "bn1_relu"),
    ),
    "mobilenet_v2": ({}, (
        "features_2_conv_0_1_relu", "features_4_conv_0_1_relu", "features_7_conv_0_1_relu",
        "features_14_conv_0_1_relu", "features_18_1_relu",
    )),
    "resnet_cifar": (
        {"width": 4}, ("layer1_1_relu", "layer2_1_relu", "layer3_1_relu", "layer4_1_relu"),
    ),
    # Of bottlenecks, whose first convolution keeps the size of the stage before.
    "resnet_imagenet": ({"width": 4}, (
        "bn1_relu", "layer1_2_relu", "layer2_3_relu", "layer3_5_relu", "layer4_2_relu",
    )),
    "vit": (
        {"depth": 2, "width": 12, "heads": 3, "hidden": 16, "patch": 8}, ("patches", "encoder_ln"),
    ),
    "wide_resnet": (
        {"depth": 10, "width": 1},
        ("block2_layer_0_bn1_relu", "block3_layer_0_bn1_relu", "bn1_relu"),
    ),
}  # fmt: skip


@pytest.mark.jax
@pytest.mark.parametrize("backbone", STAGES)
def test_they_are_the_ends_of_the_stages(backbone):
    options, expected = STAGES[backbone]
    model = models.build(backbone, (64, 64, 3), 5, options)
    assert usual_layers(model) == expected
    for name in expected:  # Keras refuses a model that more than this tensor enters
        keras.Model(model.get_layer(name).output, model.output["logits"])
    features = KerasClassifier(model, inner_layers=expected).network.output
    assert set(features) == {"features", "logits", *(f"layer_features/{n}" for n in expected)}


def test_a_layer_that_others_pass_beside_is_none():
    model = models.build("resnet_imagenet", (64, 64, 3), 5, {"width": 4})
    squeezed = model.get_layer("layer2_0_bn1_relu")  # the last in order of its size
    assert squeezed.output.shape[1:3] == model.get_layer("layer1_2_relu").output.shape[1:3]
    with pytest.raises(ValueError, match="not connected|disconnected"):
        keras.Model(squeezed.output, model.output["logits"])


def test_those_of_a_model_within_the_model():
    model = models.build("applications", (64, 64, 3), 5, {"application": "MobileNetV2"})
    found = usual_layers(model)
    ends = ["block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu"]
    ends += ["block_13_expand_relu", "out_relu"]
    assert [name.split("/")[1] for name in found] == ends
    assert KerasClassifier(model, inner_layers=found).head["head_kernel"].shape == (1280, 5)


def test_nothing_before_the_first_kernel_and_no_single_positions():
    model = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Resizing(6, 6), layers.Normalization(), layers.ReLU(),
        layers.Conv2D(4, 3, name="conv"), layers.ZeroPadding2D(1), layers.Conv2D(4, 6, name="all"),
        layers.Flatten(), layers.Dense(2),
    ])  # fmt: skip
    assert usual_layers(model) == ("conv",)
    plain = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(ValueError, match="shows no maps of a known size: name layers"):
        usual_layers(plain)
    with pytest.raises(ValueError, match="shows no maps of a known size"):
        usual_layers(keras.applications.MobileNetV3Small(weights=None, classes=3))
