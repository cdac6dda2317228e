"""Copies of networks in which some layers are others."""

import keras
from absl import logging
from keras import layers

from ood_suite.training import backend


def without_dropout(network):
    """A copy of a network, weights and all, that has no dropout."""

    def replaced(layer):
        if isinstance(layer, layers.Dropout):
            return layers.Identity(name=layer.name, dtype=layer.dtype_policy)
        return copied(layer)

    def fill(source, target):
        if not isinstance(target, layers.Identity):
            target.set_weights(source.get_weights())

    return rebuilt(network, replaced, fill)


def in_precision(network, dtype):
    """A copy of a network, weights and all, that computes in `dtype`, "float32" or
    "mixed_bfloat16"; the layers that make what it returns stay float32.
    """
    ends = {id(layer) for y in network.outputs for layer in _layers_behind(y)}

    def replaced(layer):
        return copied(layer, dtype="float32" if id(layer) in ends else dtype)

    return rebuilt(network, replaced, _fill)


def _fill(source, copy):
    copy.set_weights(source.get_weights())


def has_graph(operation):
    """Whether an operation is a model that can be looked into; a subclassed one cannot."""
    return isinstance(operation, keras.Model) and bool(getattr(operation, "outputs", None))


def _layers_behind(tensor):
    """The layers of which a tensor comes, through operations and models within models."""
    operation, node, place = tensor._keras_history
    if has_graph(operation):
        yield from _layers_behind(operation.outputs[place])
    elif isinstance(operation, layers.Layer):
        yield operation
    else:
        for before in operation._inbound_nodes[node].input_tensors:
            yield from _layers_behind(before)


def precision(network):
    """mixed_bfloat16 if any layer computes in bfloat16, else float32."""
    types = {getattr(layer, "compute_dtype", None) for layer in network._flatten_layers()}
    return "mixed_bfloat16" if "bfloat16" in types else "float32"


def computable(network):
    """The network, or its copy of float32 inputs where it takes integers, which have no gradient,
    and in float32 where it computes in bfloat16 and this processor does not (oneDNN would refuse,
    or take four times as long).
    """
    if keras.backend.is_int_dtype(network.inputs[0].dtype):
        network = _of_floats(network)
    if backend.has_bfloat16() or precision(network) == "float32":
        return network
    logging.info("%s: float32 in place of bfloat16, which this processor lacks.", network.name)
    return in_precision(network, "float32")


def _of_floats(network):
    """The network's copy of float32 inputs; itself where a layer cannot be copied, so that scores
    of gradients refuse it (input_gradients).
    """
    floats = keras.tree.map_structure(
        lambda x: keras.Input(x.shape[1:], name=x.name, dtype="float32"), network.input
    )
    try:
        return rebuilt(network, copied, _fill, floats)
    except Exception as error:  # such as a Lambda's, or of a layer without a configuration
        logging.info("%s: its integer inputs stay (%s).", network.name, error)
        return network


def copied(layer, **changes):
    """A layer of the same configuration but for `changes`, those of a dtype also in the layers that
    it wraps; or an operation, which knows no changes.
    """
    config = layer.get_config()
    if isinstance(layer, layers.Layer):
        config |= changes
        if "dtype" in changes:
            config = {name: _in_dtype(part, changes["dtype"]) for name, part in config.items()}
    return layer.__class__.from_config(config)


def _in_dtype(part, dtype):
    """A part of a configuration in which serialized layers have another dtype."""
    if isinstance(part, list | tuple):
        return type(part)(_in_dtype(p, dtype) for p in part)
    if not isinstance(part, dict):
        return part
    part = {name: _in_dtype(p, dtype) for name, p in part.items()}
    if isinstance(part.get("config"), dict) and "dtype" in part["config"]:
        part["config"] = part["config"] | {"dtype": dtype}
    return part


def rebuilt(network, replaced, fill, inputs=None):
    """A network of `replaced(layer)` in place of each layer, after `fill(layer, its copy)`.

    Args:
        inputs: keras.Input in place of the network's own.
    """
    copy = keras.models.clone_model(network, inputs, clone_function=replaced, recursive=True)
    for source, target in zip(leaves(network), leaves(copy), strict=True):
        fill(source, target)
        if hasattr(target, "finalize_state"):  # Normalization: what it computes with follows
            target.finalize_state()
    return copy


def leaves(network):
    """All layers of a network, those of models within it in their place."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer
