"""Any network of `keras.applications`, for images of ImageNet's size."""

import importlib
import pathlib

import keras


def build(input_shape, num_classes, application="ResNet50", weights=None):
    """A network of keras.applications behind its own preprocessing, as {"features", "logits"}.

    Args:
        input_shape: (height, width, channels); pixels 0..255, RGB.
        application: its name there, such as "ResNet50" or "MobileNetV2".
        weights: path of a weights file of the network with its head, or None for random ones.
            Nothing is downloaded here: `keras.applications` documents where its files are.
    """
    known = [n for n in dir(keras.applications) if n[0].isupper()]
    if application not in known:
        raise ValueError(f"Unknown application {application!r}. Known: {', '.join(known)}.")
    if weights is not None and not pathlib.Path(weights).exists():
        raise FileNotFoundError(
            f"There is no weights file {weights}. Fetch the one of keras.applications."
            f"{application} with its head, or leave `weights` out for random weights."
        )
    if weights is not None and application.startswith("EfficientNetB"):
        raise ValueError(
            f"Keras scales {application}'s pixels otherwise when it loads the weights: save "
            f"keras.applications.{application}() as .keras and give it to classifier_ood.own_model."
        )
    constructor = getattr(keras.applications, application)
    network = constructor(
        input_shape=input_shape, weights=weights, classes=num_classes, classifier_activation=None
    )
    inputs = keras.Input(input_shape, name="images")
    # The module of the constructor has its preprocessing: caffe, torch or tf scaling, or none.
    preprocess = importlib.import_module(constructor.__module__).preprocess_input
    head = network.layers[-1]
    if not isinstance(head, keras.layers.Dense):
        raise ValueError(
            f"{application} ends in {head.name} ({type(head).__name__}), not in a Dense layer: its "
            "logits are no linear function of features."
        )
    body = keras.Model(network.inputs, head.input)
    features = body(preprocess(inputs))
    return keras.Model(inputs, {"features": features, "logits": head(features)}, name=application)
