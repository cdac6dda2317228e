"""BatchNorm in one operation of TensorFlow, while a network is trained on a processor."""

import functools
import math

import keras

from ood_suite.training import backend


def fuse(network):
    """Lets the BatchNorm layers of a network run as TensorFlow's FusedBatchNormV3 on processors;
    on accelerators, and under JAX, whose programs XLA fuses, nothing changes.

    Keras makes of each a dozen passes over the maps, in float32. What is computed is the same, to
    rounding: y = gamma * (x - m) / sqrt(v + epsilon) + beta, in training by the batch's mean m and
    variance v (divided by the count n, as Keras has it and PyTorch's moving variance has not), and
    moving <- momentum * moving + (1 - momentum) * batch. Saved files, weights and the layers' class
    stay as they are.

    Args:
        network: keras.Model, changed in place. Layers that the operation does not know (other axes
            than the last of four, renormalised, synchronized, of other precisions than float32 and
            mixed_bfloat16) and calls with masks stay Keras's.
    """
    if keras.backend.backend() != "tensorflow" or backend.has_gpu():
        return
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and _is_known(layer):
            layer.call = functools.partial(_call, layer)


def _is_known(layer):
    ours, theirs = type(layer), keras.layers.BatchNormalization
    own = ours.call is theirs.call and ours._moments is theirs._moments
    last_of_four = layer.built and layer.input_spec.ndim == 4 and layer.axis in (-1, 3)
    types = layer.compute_dtype in ("float32", "bfloat16") and layer.variable_dtype == "float32"
    renorm = getattr(layer, "renorm", False)  # of newer Keras
    return own and last_of_four and types and not (renorm or layer.synchronized)


def _call(layer, inputs, training=None, mask=None):
    if mask is not None:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    import tensorflow as tf

    channels = layer.moving_mean.shape
    by_batch = bool(training and layer.trainable)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.cast(inputs, layer.compute_dtype),
        scale=layer.gamma if layer.scale else tf.ones(channels),
        offset=layer.beta if layer.center else tf.zeros(channels),
        mean=tf.zeros([0]) if by_batch else layer.moving_mean,
        variance=tf.zeros([0]) if by_batch else layer.moving_variance,
        epsilon=layer.epsilon,
        is_training=by_batch,
    )
    if by_batch:
        count = tf.cast(tf.size(inputs), "float32") / math.prod(channels)
        variance = variance * (count - 1.0) / count  # it comes divided by count - 1
        for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(layer.momentum * moving + (1.0 - layer.momentum) * value)
    return y
