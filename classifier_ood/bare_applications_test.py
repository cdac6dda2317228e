"""Networks of keras.applications are known when nothing treats the pixels before them."""

import keras
import pytest

from classifier_ood.bare_applications import refuse_bare
from classifier_ood.models import build

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
    for family, model in made.items():
        with pytest.raises(ValueError, match=f"looks like keras.applications' {family}, which"):
            refuse_bare(model)
        inputs = keras.Input((32, 32, 3))
        with pytest.raises(ValueError, match=family):  # as a layer of another model
            refuse_bare(keras.Model(inputs, model(inputs)))
    refuse_bare(made["mobilenet_v2"], "-1..1")
    with pytest.raises(ValueError, match="BGR pixels without ImageNet's mean"):
        refuse_bare(made["resnet"], "-1..1")


def test_with_preprocessing_they_are_taken(made):
    inputs = keras.Input((32, 32, 3))
    for family, module in (("densenet", applications.densenet), ("resnet", applications.resnet)):
        treated = module.preprocess_input(inputs)
        refuse_bare(keras.Model(inputs, made[family](treated)))
    refuse_bare(applications.EfficientNetB0(**SHAPE))
    refuse_bare(build("resnet_cifar", (32, 32, 3), 5))


def test_means_in_0_to_1_are_not_taken_for_pixels():
    with pytest.raises(ValueError, match=r"mean=\[125.307, 122.961, 113.8575\]"):
        build("resnet_cifar", (32, 32, 3), 5, {
            "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010),
        })  # fmt: skip
    build("convnet", (8, 8, 1), 5, {"mean": 0.0, "std": 1.0})
