"""Masks on the weights of a trained network: random ones, to estimate a loss constraint, and ones
that are learned (UMAP).

The KEPT share of each layer is what is given, as in Unleashing Mask's code and unlike in most
pruning libraries. Each layer of MASKED_LAYERS is masked on its own, the first and the last too;
biases and BatchNorm never are. Kernels of other layers stay whole, with a warning.
"""

import keras
import numpy as np
from absl import logging
from keras import layers, ops

from classifier_ood.copies import copied, leaves, rebuilt

MASKED_LAYERS = (
    layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense, layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)  # fmt: skip


def dropped_count(size, kept):
    """How many of `size` weights are set to 0: int((1 - kept) * size).

    >>> dropped_count(1000, 0.965), dropped_count(10, 1.0)
    (35, 0)
    """
    return int((1.0 - kept) * size + 1e-9)  # (1 - 0.8) * 10 is 1.9999999999999996


def check_kept(kept):
    if not 0.0 < kept <= 1.0:
        raise ValueError(f"The kept share of the weights must lie in (0, 1]. Received: {kept}.")


def kernels(network):
    """[(layer name, kernel)] of all maskable layers, those of models within `network` too."""
    found = [
        (layer.name, layer.kernel) for layer in leaves(network) if isinstance(layer, MASKED_LAYERS)
    ]
    if not found:
        raise ValueError(f"{network.name} has no convolution and no Dense layer to mask.")
    whole = [
        layer.name
        for layer in leaves(network)
        if not isinstance(layer, MASKED_LAYERS) and any(len(w.shape) > 1 for w in layer.weights)
    ]
    if whole:
        logging.warning("No masks for the kernels of %s.", ", ".join(whole))
    return found


def mask_at_random(network, kept, rng):
    """Sets a random (1 - kept) of each kernel to 0, in place; gives {layer: number kept}.

    The released code draws scores from a uniform distribution and drops the smallest: the same.
    """
    check_kept(kept)
    counts = {}
    for name, kernel in kernels(network):
        values = ops.convert_to_numpy(kernel).copy()
        dropped = dropped_count(values.size, kept)
        values.reshape(-1)[rng.permutation(values.size)[:dropped]] = 0.0
        kernel.assign(values)
        counts[name] = values.size - dropped
    return counts


def top_share(scores, kept):
    """1 where |scores| is among the largest `kept`, else 0; exactly as many as asked for, also
    with ties.

    The gradient passes straight through to |scores|.
    """
    size = int(np.prod(scores.shape))
    importance = ops.reshape(ops.abs(scores), (-1,))
    dropped = dropped_count(size, kept)
    kept_places = ops.argsort(importance)[dropped:]
    ones = ops.ones((size - dropped,), importance.dtype)
    mask = ops.scatter(ops.expand_dims(kept_places, 1), ones, (size,))
    through = mask + (importance - ops.stop_gradient(importance))  # the bracket is exactly 0
    return ops.reshape(through, scores.shape)


@keras.saving.register_keras_serializable("ood_suite")
class Masked(layers.Layer):
    """A convolution or Dense layer with frozen weights, of which only the kept share acts.

    kernel * [|scores| among the largest `kept`]; the scores are what is trained. They start uniform
    on +-1 / sqrt(fan_in), so that the first mask is random.

    Args:
        layer: the layer, whose weights stay as they are. kept: share, in (0, 1]. seed: of scores.

    Reference: Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?", CVPR 2020
        (edge-popup), which Zhu et al., ICML 2023, train with their loss (UMAP).
    """

    def __init__(self, layer, kept, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.layer, self.kept, self.seed = layer, kept, seed

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)
        self.layer.trainable = False
        uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", self.seed)
        self.scores = self.add_weight(
            shape=self.layer.kernel.shape, initializer=uniform, name="scores", autocast=False
        )  # in bfloat16 others would be the largest

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def masked_kernel(self):
        kernel = self.layer.kernel
        return kernel * ops.cast(top_share(self.scores, self.kept), kernel.dtype)

    def call(self, inputs):
        values = [
            self.masked_kernel() if variable is self.layer.kernel else variable
            for variable in self.layer.non_trainable_variables
        ]
        return self.layer.stateless_call([], values, inputs)[0]

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return super().get_config() | {"layer": layer, "kept": self.kept, "seed": self.seed}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)


@keras.saving.register_keras_serializable("ood_suite")
class TwoModeBatchNormalization(layers.BatchNormalization):
    """BatchNorm of a masked network: its statistics move with the masks, and those of the network
    without masks are kept beside them. Its gamma and beta are frozen.
    """

    def build(self, input_shape):
        super().build(input_shape)
        for variable in (self.gamma, self.beta):
            if variable is not None:
                variable.trainable = False  # not the layer's: that would stop its statistics
        shape = self.moving_mean.shape
        self.unmasked_mean = self.add_weight(shape, name="unmasked_mean", trainable=False)
        self.unmasked_variance = self.add_weight(shape, name="unmasked_variance", trainable=False)


def masked(network, kept, seed=0):
    """A copy of a trained network whose weights are frozen and whose masks can be trained.

    Args:
        network: functional keras.Model; not changed.
        kept: share of each kernel that acts, in (0, 1].
    """
    check_kept(kept)
    rng = np.random.default_rng(seed)

    def replaced(layer):
        if isinstance(layer, MASKED_LAYERS):
            dtype, score_seed = layer.dtype_policy, int(rng.integers(2**31))
            return Masked(copied(layer), kept, score_seed, name=layer.name, dtype=dtype)
        if isinstance(layer, layers.BatchNormalization):
            return TwoModeBatchNormalization.from_config(layer.get_config())
        return copied(layer)

    def fill(source, target):
        if isinstance(target, Masked):
            target.layer.set_weights(source.get_weights())
        elif isinstance(target, TwoModeBatchNormalization):
            _fill_norm(target, source, source.moving_mean, source.moving_variance)
            _assign(target.unmasked_mean, source.moving_mean)
            _assign(target.unmasked_variance, source.moving_variance)
        else:
            target.set_weights(source.get_weights())
            target.trainable = False

    kernels(network)
    return rebuilt(network, replaced, fill)


def applied(network):
    """The plain network that a masked one is: kernels with zeros, the masks' BatchNorm
    statistics.
    """

    def fill_kernel(source, target):
        target.kernel.assign(source.masked_kernel())

    return _plain(network, fill_kernel, "moving")


def unmask(network):
    """The plain network that a masked one was made of, to the last bit, BatchNorm too.

    The released code has no way back: its statistics move while the masks are trained.
    """
    return _plain(network, lambda source, target: None, "unmasked")


def kept_counts(network):
    """{layer: (number of weights that act, number of weights)} of a masked network."""
    found = {}
    for layer in leaves(network):
        if isinstance(layer, Masked):
            mask = ops.convert_to_numpy(top_share(layer.scores, layer.kept))
            found[layer.name] = int(mask.sum()), int(mask.size)
    return found


def _plain(network, fill_kernel, statistics):
    def replaced(layer):
        if isinstance(layer, Masked):
            return copied(layer.layer, trainable=True)
        if isinstance(layer, TwoModeBatchNormalization):
            return layers.BatchNormalization.from_config(layer.get_config())
        return copied(layer, trainable=True)

    def fill(source, target):
        if isinstance(source, Masked):
            target.set_weights(source.layer.get_weights())
            fill_kernel(source, target)
        elif isinstance(source, TwoModeBatchNormalization):
            names = f"{statistics}_mean", f"{statistics}_variance"
            _fill_norm(target, source, *(getattr(source, name) for name in names))
        else:
            target.set_weights(source.get_weights())

    return rebuilt(network, replaced, fill)


def _fill_norm(target, source, mean, variance):
    if source.scale:
        _assign(target.gamma, source.gamma)
    if source.center:
        _assign(target.beta, source.beta)
    _assign(target.moving_mean, mean)
    _assign(target.moving_variance, variance)


def _assign(variable, value):
    """A copy: under JAX two variables must not share their memory."""
    variable.assign(ops.convert_to_numpy(value).copy())
