"""Networks of keras.applications without their preprocessing, which are not to be fed 0..255.

Most of them want what their own `preprocess_input` makes of pixels, and only some (EfficientNet,
MobileNetV3, ConvNeXt, RegNet) have that inside. They are known by the names of their layers.
"""

from keras import layers

from classifier_ood.copies import has_graph

# Family -> (how preprocess_input treats pixels, a layer that it alone has). In order: of two that
# fit the first counts.
FAMILIES = {
    "resnet_v2": ("tf", "conv2_block1_preact_bn"),
    "xception": ("tf", "block2_sepconv1"),
    "inception_resnet_v2": ("tf", "conv_7b"),
    "inception_v3": ("tf", "mixed10"),
    "nasnet": ("tf", "reduction_conv_1_stem_1"),
    "mobilenet_v2": ("tf", "expanded_conv_depthwise"),
    "mobilenet": ("tf", "conv_dw_1"),
    "densenet": ("torch", "pool2_conv"),
    "resnet": ("caffe", "conv2_block1_1_bn"),
    "vgg": ("caffe", "block3_conv3"),
}
WANTED = {
    "tf": "pixels in -1..1",
    "torch": "pixels in 0..1, normalised with ImageNet's mean and deviation",
    "caffe": "BGR pixels without ImageNet's mean",
}
RANGES = {"tf": "-1..1", "torch": "torch", "caffe": "caffe"}
RAW = (layers.Conv2D, layers.ZeroPadding2D)  # what first meets the image of such a network
# What leaves values of pixels as they are, as augmentation within a model does.
PASSING = (
    layers.AugMix, layers.CenterCrop, layers.Dropout, layers.GaussianNoise, layers.Identity,
    layers.InputLayer, layers.RandAugment, layers.Resizing,
    *(getattr(layers, name) for name in dir(layers) if name.startswith("Random")),
)  # fmt: skip


def refuse_bare(model):
    """Refuses (ValueError) a model that begins with such a network where nothing treats the pixels
    before it, and says which `input_range` it wants.

    It is recognised by a layer that its family alone has and by what first meets the image: a
    convolution or its padding, behind layers that leave values alone, in the model or in models
    within it. So it is not where a Rescaling, a Normalization or preprocess_input stands before.
    """
    family = _family(model)
    if family is None:
        return
    mode = FAMILIES[family][0]
    raise ValueError(
        f"{model.name} looks like keras.applications' {family}, which was published for "
        f"{WANTED[mode]} and has no preprocessing inside. Expected: the pixels that it was trained "
        f"on. Say --input_range={RANGES[mode]} (input_range={RANGES[mode]!r} of KerasClassifier) "
        "for the published weights, or 0..255, 0..1 or another one if it was trained so."
    )


def _family(model):
    """A key of FAMILIES if the input goes into such a network as it is, else None."""
    tensor = model.inputs[0]
    while True:
        readers = _readers(model, tensor)
        if len(readers) != 1 or not _passes(readers[0][0]):
            break
        tensor = readers[0][1]
    if len(readers) == 1 and has_graph(readers[0][0]):
        return _family(readers[0][0])
    if not readers or not all(isinstance(layer, RAW) for layer, _ in readers):
        return None
    names = {layer.name for layer in model.layers}
    return next((family for family, (_, own) in FAMILIES.items() if own in names), None)


def _passes(layer):
    """Whether a layer, or each one of a model, leaves the values of pixels as they are."""
    if has_graph(layer):
        return all(_passes(inner) for inner in layer.layers)
    return isinstance(layer, PASSING)


def _readers(model, tensor):
    """[(operation, its output)] of what takes this tensor in the model."""
    graph = getattr(model, "_functional", None) or model  # a Sequential holds one
    return [
        (node.operation, node.output_tensors[0])
        for nodes in graph._nodes_by_depth.values()
        for node in nodes
        if any(tensor is given for given in node.input_tensors)
    ]
