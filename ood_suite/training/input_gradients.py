"""Outputs at perturbed inputs: ODIN's, that of the Mahalanobis papers, and AdaSCALE's.

Epsilons are in pixels / 255, the same for all channels. (Code that perturbs normalised inputs moves
each channel by epsilon times its standard deviation: its epsilons are not comparable.) Nothing is
clipped.
"""

import keras
import numpy as np
from keras import ops

from ood_suite.scores.ensembles import RULES
from ood_suite.scores.gradients import odin_key
from ood_suite.training import backend

BATCH = 100


def odin(network, temperature, epsilons, rule="cross_entropy", scale=255.0):
    """Logits of x - epsilon * sign(gradient), the gradient of the cross entropy of softmax(z / T)
    to its arg max, or of the entropy of softmax(z / T) (rule "entropy": leave-out classifiers).

    A gradient of 0 counts as positive, as in the authors' code. At T = 1 the gradient of very sure
    outputs (a margin of 25 and more between logits) is below float32's resolution, and its signs
    are partly chance.

    Args:
        network: images float32 0..255 -> {"logits"}.
        epsilons: in units of `scale`, by default pixels / 255.
        rule: one of RULES.

    Returns:
        function of images (n, height, width, channels) -> {odin_key: float32 (n, classes)}. It
        holds a compiled gradient and the weights of now: keep it for all the images, and make
        another one after more training.

    Reference: Liang, Li, Srikant, "Enhancing The Reliability of Out-of-distribution Image Detection
        in Neural Networks", ICLR 2018, equation 2.
    """

    wrong = [x for x in epsilons if not 0.0 <= x < float("inf")]
    if wrong or not 0.0 < temperature < float("inf"):
        raise ValueError(
            "`temperature` must be positive and `epsilons` 0 or more, all finite. Received: "
            f"temperature={temperature}, epsilons={list(epsilons)}."
        )
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join(RULES)}. Received: {rule!r}.")

    def loss(batch):
        scaled = network(batch, training=False)["logits"] / temperature
        if rule == "entropy":
            return -ops.sum(ops.softmax(scaled) * ops.log_softmax(scaled), axis=-1)
        return ops.logsumexp(scaled, axis=-1) - ops.max(scaled, axis=-1)

    gradient, forward = _gradient(loss, network), backend.inference(network)

    def outputs(images):
        found = {odin_key(temperature, epsilon): [] for epsilon in epsilons}
        for batch, step in _perturbed(gradient, images):
            for epsilon in epsilons:
                logits = forward(batch - scale * epsilon * step)["logits"]
                found[odin_key(temperature, epsilon)].append(logits)
        return {key: np.concatenate(parts) for key, parts in found.items()}

    return outputs


def mahalanobis(network, gaussians, epsilons):
    """Layer features of x - epsilon * sign(gradient of the layer's Mahalanobis distance), each
    layer with its own perturbation.

    Args:
        network: images -> {"layer_features/<name>"}.
        gaussians: {name: (means (classes, d), whitening (d, rank))}, see TiedGaussian.

    Returns:
        function of images (n, height, width, channels) -> {"<name>,epsilon=<epsilon>": float32
        (n, d)}, to be kept for all the images.

    Reference: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", NeurIPS 2018, equation 4.
    """
    gradients = {}
    for name, arrays in gaussians.items():
        means, white = (np.asarray(array, np.float64) for array in arrays)
        origin = means.mean(axis=0)
        centres = ((means - origin) @ white).astype(np.float32)  # (classes, rank)
        origin, white = origin.astype(np.float32), white.astype(np.float32)

        def distance(batch, name=name, centres=centres, origin=origin, white=white):
            features = network(batch, training=False)[f"layer_features/{name}"]
            x = ops.matmul(features - origin, white)
            cross = ops.matmul(x, ops.transpose(centres))  # (batch, classes)
            squares = ops.sum(x * x, axis=-1, keepdims=True) + (centres * centres).sum(axis=-1)
            return ops.min(squares - 2.0 * cross, axis=-1)

        gradients[name] = _gradient(distance, network)

    def outputs(images):
        found = {}
        for name, gradient in gradients.items():
            for batch, step in _perturbed(gradient, images):
                for epsilon in epsilons:
                    moved = network.predict_on_batch(batch - 255.0 * epsilon * step)
                    key = f"{name},epsilon={epsilon:g}"
                    found.setdefault(key, []).append(moved[f"layer_features/{name}"])
        return {key: np.concatenate(parts) for key, parts in found.items()}

    return outputs


def least_salient(network, share=0.05, epsilon=0.125):
    """Features of x + epsilon * sign(gradient of the largest logit), for the `share` of the values
    (pixels times channels) of each image whose gradient is smallest; the others stay.

    A gradient of 0 moves nothing, and the first of equal ones count.

    Args:
        network: images float32 0..255 -> {"features", "logits"}.
        epsilon: in pixels / 255. The authors' 0.5 is in units of each channel's standard deviation,
            about 0.25 of the range in photographs.

    Returns:
        function of images (n, height, width, channels) -> float32 (n, d), to be kept for all the
        images.

    Reference: Regmi, "AdaSCALE: Adaptive Scaling for OOD Detection", 2025 (arXiv 2503.08023), the
        image perturbation, with the README's o = 5% and epsilon = 0.5.
    """
    gradient = _gradient(
        lambda batch: ops.max(network(batch, training=False)["logits"], axis=-1), network
    )

    def step(found):
        flat = found.reshape(len(found), -1)
        count = int(flat.shape[1] * share)
        chosen = np.argsort(np.abs(flat), axis=1, kind="stable")[:, :count]
        moved = np.zeros(flat.shape, np.float32)
        np.put_along_axis(moved, chosen, np.sign(np.take_along_axis(flat, chosen, 1)), 1)
        return moved.reshape(found.shape)

    def outputs(images):
        parts = [
            network.predict_on_batch(batch + 255.0 * epsilon * moved)["features"]
            for batch, moved in _perturbed(gradient, images, step)
        ]
        return np.concatenate(parts)

    return outputs


def _signs(gradient):
    return np.where(gradient >= 0.0, 1.0, -1.0).astype(np.float32)


def _gradient(function, network):
    """The compiled gradient of sum(function(images)); ValueError if the network takes integers,
    through which TensorFlow has none and JAX one of zeros.
    """
    inputs = (x for x in network._flatten_layers() if isinstance(x, keras.layers.InputLayer))
    if any(keras.backend.is_int_dtype(layer.dtype) for layer in inputs):
        raise ValueError(
            f"{network.name} takes integers, within it or at its input, and has no gradient by "
            "its pixels. Save it with inputs of float32, or leave out scores of perturbed inputs."
        )
    return backend.input_gradient(function)


def _perturbed(gradient, images, step=_signs):
    """Yields (batch float32, the step that its gradient makes)."""
    for start in range(0, len(images), BATCH):
        batch = np.asarray(images[start : start + BATCH], np.float32)
        yield batch, step(gradient(batch))
