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
    "mixed_bfloat16"; what it returns stays float32.
    """
    ends = {id(y._keras_history.operation) for y in network.outputs}

    def replaced(layer):
        return copied(layer, dtype="float32" if id(layer) in ends else dtype)

    return rebuilt(network, replaced, lambda source, copy: copy.set_weights(source.get_weights()))


def computable(network):
    """The network, or its copy in float32 where it computes in bfloat16 and this processor does
    not (oneDNN would refuse, or take four times as long).
    """
    if backend.has_bfloat16() or all(
        getattr(layer, "compute_dtype", None) != "bfloat16" for layer in leaves(network)
    ):
        return network
    logging.info("%s: float32 in place of bfloat16, which this processor lacks.", network.name)
    return in_precision(network, "float32")


def copied(layer, **changes):
    """A layer of the same configuration; or an operation, which knows no changes."""
    changes = changes if isinstance(layer, layers.Layer) else {}
    return layer.__class__.from_config(layer.get_config() | changes)


def rebuilt(network, replaced, fill):
    """A network of `replaced(layer)` in place of each layer, after `fill(layer, its copy)`."""
    copy = keras.models.clone_model(network, clone_function=replaced, recursive=True)
    for source, target in zip(leaves(network), leaves(copy), strict=True):
        fill(source, target)
    return copy


def leaves(network):
    """All layers of a network, those of models within it in their place."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer
