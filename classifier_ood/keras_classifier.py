"""Looks into a trained Keras model, without changing it: features, logits, inner layers."""

import functools

import keras
import numpy as np
from keras import layers, ops

from classifier_ood.bare_applications import refuse_bare
from classifier_ood.configs import INPUT_RANGES
from classifier_ood.copies import computable, has_graph, precision
from ood_suite.data.transforms import PIXEL_RANGES
from ood_suite.files import fingerprint
from ood_suite.outputs import Outputs
from ood_suite.runs.settings import known_name
from ood_suite.training import backend

SHOWN = 30  # candidates in a message
HEAD_INPUT = "input of the last layer"  # the features, unless a layer is named


class KerasClassifier:
    """A classifier as a map from pixels 0..255 to features, logits and inner layers, with the
    weights that it has at first use: make another one after more training.

    Args:
        model: functional or sequential keras.Model of one image input. Either it returns
            {"features", "logits"}, or it ends in a Dense layer, perhaps with a softmax in it or
            after it. One in bfloat16 computes in float32 on a processor that has no bfloat16.
        features_layer: name of the layer whose output are the features; default: what enters the
            last Dense layer. Maps are averaged over positions.
        inner_layers: names of further layers, whose positions are averaged.
        input_range: pixels that `model` was trained on, one of configs.INPUT_RANGES: "caffe" is BGR
            without ImageNet's mean, "torch" 0..1 with ImageNet's normalisation. If not given:
            "0..255", but a network of keras.applications without preprocessing is refused.
        image_shape: (height, width, channels), needed where the model leaves its size open.

    Attributes:
        network: keras.Model, float32 (n, *image_shape), 0..255 -> {"features", "logits",
            "layer_features/<name>"}, all float32.
        head: {"head_kernel": (d, c), "head_bias": (c,)} of the last Dense layer, empty where it
            does not make the logits of the features.
        image_shape: (height, width, channels).
        input_range: of the pixels that `model` gets.
        head_activation: of the last Dense layer, which the logits are without.
        gives_logits: whether `model` has "logits" among its outputs, and no softmax in or after
            their layer.
        dtype: what `model`, which is in bfloat16, computes in here; None of others.

    Raises:
        ValueError: a model without such a layer; an unknown layer, with the candidates; an unknown
            range, or none for a bare network of keras.applications.
    """

    def __init__(
        self, model, features_layer=None, inner_layers=(), input_range=None, image_shape=None
    ):
        self.image_shape = _image_shape(model, image_shape)
        stored = precision(model)
        self.model = model = computable(model)
        self.dtype = None if stored == "float32" else precision(model)
        head, head_input, logits, self.head_activation = _head(model)
        own = None if isinstance(model, keras.Sequential) else model.output
        self.gives_logits = isinstance(own, dict) and own["logits"] is logits
        outputs = {"logits": logits, "features": head_input}
        if features_layer is not None:
            outputs["features"] = _layer_output(model, features_layer)
        for name in inner_layers:
            outputs[f"layer_features/{name}"] = _layer_output(model, name)
        if input_range is None:
            refuse_bare(model)
        self.input_range = known_name(INPUT_RANGES, input_range or "0..255", "input_range")
        self._features = outputs["features"]
        self.network = self._of_pixels(outputs, _pooled)
        kernel, bias = (ops.convert_to_numpy(ops.cast(v, "float32")) for v in _weights(head))
        weights = [ops.convert_to_numpy(ops.cast(w, "float32")) for w in self.network.weights]
        self._source = {
            "network_fingerprint": fingerprint(*weights), "input_range": self.input_range,
            "image_shape": list(self.image_shape), "features_layer": features_layer or HEAD_INPUT,
        }  # fmt: skip
        makes_logits = self._makes_logits(kernel, bias)
        self.head = {"head_kernel": kernel, "head_bias": bias} if makes_logits else {}

    def outputs(self, images, labels=None, batch_size=100):
        """Outputs of images (n, height, width, channels) in memory, 0..255; `extract` is for more.

        Args:
            labels: integers (n,), for scores that learn from them.

        Raises:
            ValueError: images of another shape or range.
        """
        images = np.asarray(images)
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"Images must be (n, *{self.image_shape}). Received: {images.shape}.")
        least, most = images.min(initial=0), images.max(initial=0)
        if images.dtype.kind == "f" and least >= 0.0 and 0.0 < most <= 1.0:
            raise ValueError("Images must be in 0..255. Received floats in 0..1: times 255.")
        if not 0 <= least <= most <= 255:  # also NaN
            raise ValueError(f"Images must be in 0..255. Received: {least} to {most}.")
        found = self.predict(images, batch_size)
        layers_ = {name.split("/", 1)[1]: x for name, x in found.items() if "/" in name}
        return Outputs(
            labels=None if labels is None else np.asarray(labels),
            logits=found["logits"],
            features=found["features"],
            **self.head,
            layer_features=layers_ or None,
            meta=self._source | {"dataset": "images in memory"},
        )

    def predict(self, images, batch_size=100):
        """{name: float32 array} of `network`, compiled once; nothing is checked."""
        return backend.in_batches(self._forward, images, batch_size)

    @functools.cached_property
    def _forward(self):
        return backend.inference(self.network)

    def maps(self, names):
        """keras.Model: pixels -> {layer: float32 (n, ..., channels)}, nothing pooled."""
        return self._of_pixels({name: _layer_output(self.model, name) for name in names})

    def pooled_map(self):
        """keras.Model: pixels -> the map (n, ..., d) whose mean over positions are the features.

        Raises:
            ValueError: there is none, as without global average pooling before the head.
        """
        under = _under_pooling(self._features)
        if under is not None:
            network = self._of_pixels(under)
            whole = backend.once(network, self._two_images())
            mean = whole.mean(axis=tuple(range(1, whole.ndim - 1)))
            features = backend.once(self.network, self._two_images())["features"]
            if np.abs(mean - features).max() <= 0.01 * max(1e-6, np.abs(features).max()):
                return network
        raise ValueError(
            "rank_one needs a map whose mean over positions are the features, as of global average "
            f"pooling before the last Dense layer. {self.model.name} has none."
        )

    def _of_pixels(self, outputs, change=lambda y: y):
        """keras.Model: pixels -> what `change` makes of `outputs` of the model, float32."""
        inputs = keras.Input(self.image_shape, name="pixels")
        found = keras.Model(self.model.inputs, outputs)(scaled(inputs, self.input_range))
        return keras.Model(
            inputs, keras.tree.map_structure(lambda y: ops.cast(change(y), "float32"), found)
        )

    def _two_images(self):
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (2, *self.image_shape)).astype(np.float32)

    def _makes_logits(self, kernel, bias):
        found = backend.once(self.network, self._two_images())
        if found["features"].shape[1] != kernel.shape[0]:
            return False
        difference = np.abs(found["features"] @ kernel + bias - found["logits"]).max()
        return bool(difference <= 0.01 * max(1.0, np.abs(found["logits"]).max()))


def scaled(inputs, input_range):
    """Pixels 0..255 as a model of this range wants them."""
    if input_range == "0..255":
        return inputs
    if input_range in PIXEL_RANGES:
        low, high = PIXEL_RANGES[input_range]
        return layers.Rescaling((high - low) / 255.0, low)(inputs)
    if inputs.shape[-1] != 3:
        raise ValueError(f"input_range={input_range!r} is of RGB. Received: {inputs.shape[1:]}.")
    return keras.applications.imagenet_utils.preprocess_input(inputs, mode=input_range)


def _image_shape(model, image_shape):
    if not getattr(model, "inputs", None) or len(model.inputs) != 1:
        raise ValueError(
            "The model must be functional or sequential, with one image input. Received: "
            f"{type(model).__name__} with {len(getattr(model, 'inputs', None) or ())} inputs."
        )
    shape = tuple(model.inputs[0].shape[1:])
    if len(shape) != 3:
        raise ValueError(
            f"The model must take images (height, width, channels). It takes {shape}. Images "
            "without an axis of channels: keras.Sequential([keras.Input((28, 28, 1)), "
            "keras.layers.Reshape((28, 28)), model])."
        )
    if image_shape is not None:
        fits = len(shape) == len(image_shape) and all(
            known in (None, given) for known, given in zip(shape, image_shape, strict=True)
        )
        if not fits:
            raise ValueError(f"The model takes images {shape}. Received: {tuple(image_shape)}.")
        return tuple(image_shape)
    if None in shape:
        raise ValueError(f"The model leaves its image shape open ({shape}): give --image_shape.")
    return shape


def _made_by(tensor):
    """(operation, its first input tensor) of a symbolic tensor."""
    operation, node, _ = tensor._keras_history
    inputs = operation._inbound_nodes[node].input_tensors
    return operation, inputs[0] if inputs else None


def _under_pooling(features):
    """The last tensor before `features` that has positions and as many channels, or None."""
    tensor = features
    while True:
        positions = tensor.shape[1:-1]
        if tensor.shape[-1] == features.shape[-1] and set(positions) - {1}:
            return tensor
        operation, node, index = tensor._keras_history
        inputs = operation._inbound_nodes[node].input_tensors
        if has_graph(operation):
            inner = _under_pooling(operation.outputs[index])
            if inner is not None:
                return keras.Model(operation.inputs, inner)(inputs[0])
        if not inputs:
            return None
        tensor = inputs[0]


def _head(model):
    """(last Dense layer, its input, the logits, its activation, which they are without)."""
    structure = None if isinstance(model, keras.Sequential) else model.output
    if isinstance(structure, dict) and "logits" not in structure:
        raise ValueError(f"The model's outputs must have 'logits'. Received: {sorted(structure)}.")
    if not isinstance(structure, dict) and len(model.outputs) > 1:
        raise ValueError(
            f"The model has {len(model.outputs)} outputs ({', '.join(model.output_names)}). Say "
            "which are the logits: keras.Model(model.input, {'logits': model.outputs[0]})."
        )
    return _head_of(structure["logits"] if isinstance(structure, dict) else model.outputs[0])


def _head_of(output):
    """The same of the tensor of logits or probabilities."""
    operation, before = _made_by(output)
    while _is_softmax(operation) or _is_linear(operation):
        output = before
        operation, before = _made_by(output)
    if has_graph(operation):
        index = output._keras_history.tensor_index
        inner, inner_before, inner_logits, activation = _head_of(operation.outputs[index])
        through = keras.Model(operation.inputs, [inner_before, inner_logits])
        return inner, *through(before), activation
    if not isinstance(operation, layers.Dense):
        raise ValueError(
            f"The model must end in a Dense layer, perhaps with a softmax after it. It ends in "
            f"{operation.name} ({type(operation).__name__})."
        )
    if operation.units < 2:
        raise ValueError(
            "The last Dense layer must have one unit per class, at least 2. It has 1: make a "
            "two-class head of [0, logit] first."
        )
    if operation.activation in (None, keras.activations.linear):
        return operation, before, output, "linear"
    # The activation stands between it and the logits: a twin without.
    config = operation.get_config() | {"activation": None, "name": f"{operation.name}_logits"}
    linear = operation.__class__.from_config(config)
    logits = linear(before)
    linear.set_weights(operation.get_weights())
    return linear, before, logits, keras.activations.serialize(operation.activation)


def _is_softmax(operation):
    """A Softmax layer, a softmax Activation, or keras.ops.softmax."""
    activation = getattr(operation, "activation", None)
    named = type(operation).__name__ == "Softmax"
    is_layer = isinstance(operation, layers.Activation)
    return named or (is_layer and activation is keras.activations.softmax)


def _is_linear(operation):
    """A cast, or an Activation that changes at most the dtype, as mixed precision has it."""
    is_layer = isinstance(operation, layers.Activation)
    is_cast = type(operation).__name__ == "Cast"
    return is_cast or is_layer and operation.activation is keras.activations.linear


def _weights(dense):
    bias = dense.bias if dense.use_bias else ops.zeros((dense.units,), dense.kernel.dtype)
    return dense.kernel, bias


def _layer_output(model, name):
    """Output of a layer in the model's graph; "outer/inner" is a layer of a model within it."""
    graph = getattr(model, "_functional", None) or model  # a Sequential holds one
    nodes = {id(node) for depth in graph._nodes_by_depth.values() for node in depth}
    outer, _, inner = name.partition("/")
    layer = next((layer for layer in model.layers if layer.name == outer), None)
    if layer is None or (inner and not isinstance(layer, keras.Model)):
        usable = list(_candidates(model))
        earlier = f" (and {len(usable) - SHOWN} before them)" if len(usable) > SHOWN else ""
        raise ValueError(
            f"The model has no layer {name!r}. Candidates: {', '.join(usable[-SHOWN:])}{earlier}."
        )
    node = next(node for node in layer._inbound_nodes if id(node) in nodes)
    if inner:
        through = keras.Model(layer.inputs, _layer_output(layer, inner))
        return through(node.input_tensors[0])
    return node.output_tensors[0]


def _candidates(model, prefix=""):
    """Names and shapes of the layers that have features, those within models too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _candidates(layer, f"{prefix}{layer.name}/")
        elif len(getattr(layer.output, "shape", ())) >= 2:
            yield f"{prefix}{layer.name} {tuple(layer.output.shape[1:])}"


def _pooled(y):
    """(n, ..., d) -> (n, d), the mean over all positions in between."""
    return ops.mean(y, axis=tuple(range(1, len(y.shape) - 1))) if len(y.shape) > 2 else y
