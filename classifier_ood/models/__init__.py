"""BACKBONES: the catalogue of classifiers. Adding one is one file and one line here; from outside,
an entry point (see ood_suite.plugins).

`build(input_shape, num_classes, **options) -> keras.Model` takes pixels 0..255 (any size, any
number of channels), normalises them in its first layer, and returns {"features": (n, d), "logits":
(n, num_classes)}, where the features are exactly the input of the last Dense layer "fc". Both are
float32: under another policy of Keras `models.build` sees to it.
Layers carry the names of the PyTorch modules that a checkpoint can fill ("." written as "_").
"""

import inspect
import math

import keras

from classifier_ood.copies import in_precision
from classifier_ood.models import (
    applications,
    convnet,
    densenet,
    densenet_imagenet,
    mobilenet_v2,
    resnet_cifar,
    resnet_imagenet,
    vit,
    wide_resnet,
)
from ood_suite.plugins import added, installed

GROUP = "ood_suite.backbones"  # of entry points
BACKBONES = {
    "applications": applications.build,
    "convnet": convnet.build,
    "densenet": densenet.build,
    "densenet_imagenet": densenet_imagenet.build,
    "mobilenet_v2": mobilenet_v2.build,
    "resnet_cifar": resnet_cifar.build,
    "resnet_imagenet": resnet_imagenet.build,
    "vit": vit.build,
    "wide_resnet": wide_resnet.build,
}


def build(name, input_shape, num_classes, options=None):
    """The backbone of that name; ValueError lists the known names, or the known options of one."""
    make = BACKBONES.get(name) or added(GROUP, name)
    if make is None:
        known = ", ".join([*BACKBONES, *installed(GROUP)])
        raise ValueError(f"Unknown backbone {name!r}. Known: {known}.")
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: {num_classes}.")
    known = list(inspect.signature(make).parameters)[2:]
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise ValueError(
            f"Unknown option {unknown[0]!r} of the backbone {name}. Known: {', '.join(known)}."
        )
    try:
        made = make(tuple(input_shape), num_classes, **(options or {}))
    except TypeError as error:
        raise ValueError(f"The options {options} do not fit {name}: {error}.") from error
    is_float32 = all(output.dtype == "float32" for output in made.outputs)
    return made if is_float32 else in_precision(made, keras.config.dtype_policy().name)


def count_parameters(model):
    """Number of trainable parameters."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
