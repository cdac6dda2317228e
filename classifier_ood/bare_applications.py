"""Networks of keras.applications without their preprocessing, which are not to be fed 0..255.

Most of them want what their own `preprocess_input` makes of pixels, and only some (EfficientNet,
MobileNetV3, ConvNeXt, RegNet) have that inside. They are known by the names of their layers.
"""

import keras
from keras import layers

# Family -> (how preprocess_input treats pixels, a layer that it alone has). In order: of two that
# fit the first counts.
FAMILIES = {
    "resnet_v2": ("tf", "post_bn"),
    "xception": ("tf", "block1_conv1_bn"),
    "inception_resnet_v2": ("tf", "conv_7b"),
    "inception_v3": ("tf", "mixed10"),
    "nasnet": ("tf", "stem_bn1"),
    "mobilenet_v2": ("tf", "expanded_conv_depthwise"),
    "mobilenet": ("tf", "conv_dw_1"),
    "densenet": ("torch", "pool2_conv"),
    "resnet": ("caffe", "conv1_bn"),
    "vgg": ("caffe", "block1_pool"),
}
WANTED = {
    "tf": "pixels in -1..1",
    "torch": "pixels in 0..1, normalised with ImageNet's mean and deviation",
    "caffe": "BGR pixels without ImageNet's mean",
}
RAW = (layers.Conv2D, layers.ZeroPadding2D)  # what first meets the image of such a network


def refuse_bare(model, input_range="0..255"):
    """Refuses (ValueError) a model that begins with such a network, without preprocessing before
    it, unless pixels in `input_range` are what it wants.
    """
    family = _family(model)
    if family is None:
        return
    mode = FAMILIES[family][0]
    if mode == "tf" and input_range == "-1..1":
        return
    advice = "Say --input_range=-1..1." if mode == "tf" else (
        "Put that in front of it: x = keras.applications.NAME.preprocess_input(inputs), "
        "keras.Model(inputs, model(x))."
    )  # fmt: skip
    raise ValueError(
        f"{model.name} looks like keras.applications' {family}, which wants {WANTED[mode]} and has "
        f"no preprocessing inside. Received: pixels in {input_range}. {advice}"
    )


def _family(model):
    """A key of FAMILIES if the input goes into such a network as it is, else None."""
    if not hasattr(model, "_flatten_layers") or not model.inputs:
        return None
    first = [
        layer for layer in model.layers
        if not isinstance(layer, layers.InputLayer) and _reads(layer, model.inputs[0])
    ]  # fmt: skip
    if len(first) == 1 and isinstance(first[0], keras.Model):
        return _family(first[0])
    if not first or not all(isinstance(layer, RAW) for layer in first):
        return None
    names = {layer.name for layer in model.layers}
    return next((family for family, (_, own) in FAMILIES.items() if own in names), None)


def _reads(layer, tensor):
    """Whether a layer takes this tensor in one of its calls."""
    nodes = getattr(layer, "_inbound_nodes", ())
    return any(tensor is given for node in nodes for given in node.input_tensors)
