"""Scores as Keras layers: a fitted detector becomes part of its network's graph, to be exported.

In float32, where NumPy computes in float64: equal within 1e-4, absolute or relative; of a fusion, a
member that nearly ties with a held-out example may count it on the other side. What stands in
CONVERTED can be exported; a score of the catalogue that does not is refused by name.
"""

import keras
import numpy as np
from keras import layers, ops


def linear(x, kernel, bias=None):
    """x @ kernel + bias as a layer that cannot be trained."""
    kernel = np.asarray(kernel, np.float32)
    layer = layers.Dense(kernel.shape[1], use_bias=bias is not None, trainable=False)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel] + ([] if bias is None else [np.asarray(bias, np.float32)]))
    return layer(x)


def _energy(given, values, _):
    temperature = values["temperature"]
    return -temperature * ops.logsumexp(given["logits"] / temperature, axis=1)


def _entropy(given, values, _):
    return -ops.sum(
        ops.softmax(given["logits"], axis=1) * ops.log_softmax(given["logits"], axis=1), axis=1
    )


def _max_logit(given, values, _):
    return -ops.max(given["logits"], axis=1)


def _msp(given, values, _):
    return 1.0 - ops.max(ops.softmax(given["logits"], axis=1), axis=1)


def _residual(given, values, learner):
    inside = linear(given["features"], learner.residual_, -learner.origin_ @ learner.residual_)
    return ops.sqrt(ops.sum(ops.square(inside), axis=1))


def _vim(given, values, learner):
    virtual = float(learner.alpha_) * _residual(given, values, learner.space_)
    return virtual - ops.logsumexp(given["logits"], axis=1)


def _mahalanobis(given, values, learner):
    features = given["features"]
    if values["normalize"]:
        features = ops.normalize(features, axis=1)
    return ops.min(_distances(features, learner), axis=1)


def _distances(features, gaussian):
    """(n, classes), as TiedGaussian.distances."""
    origin = gaussian.means_.mean(axis=0)
    means = (gaussian.means_ - origin) @ gaussian.whitening_
    white = linear(features, gaussian.whitening_, -origin @ gaussian.whitening_)
    own = ops.sum(ops.square(white), axis=1, keepdims=True)
    return ops.relu(own + linear(white, -2.0 * means.T, (means**2).sum(axis=1)))


def _knn(given, values, learner):
    bank = np.asarray(learner.bank_ / learner.norms_[:, None], np.float32)
    units = ops.normalize(given["features"], axis=1)
    kth = ops.top_k(linear(units, bank.T), values["k"])[1][:, -1]  # in descending order
    rows = layers.Embedding(*bank.shape, trainable=False)
    rows.build()
    rows.set_weights([bank])
    return ops.norm(units - rows(kth), axis=1)  # 2 - 2 cos loses all digits near 0


def _react(given, values, learner):
    shaped = ops.minimum(given["features"], float(learner.threshold_))
    logits = linear(shaped, given["head_kernel"], given["head_bias"])
    return {**given, "features": shaped, "logits": logits}


# Score -> function({name: tensor, or array of the head}, its parameters, its learner) -> (n,).
CONVERTED = {
    "energy": _energy,
    "entropy": _entropy,
    "knn": _knn,
    "mahalanobis": _mahalanobis,
    "max_logit": _max_logit,
    "msp": _msp,
    "residual": _residual,
    "vim": _vim,
}
SHAPED = {"react": _react}


def score(detector, given):
    """The symbolic scores (n,) of a fitted Detector.

    Args:
        given: {"features", "logits": symbolic tensors, "head_kernel", "head_bias": arrays}.

    Raises:
        ValueError: a score that is not in CONVERTED, by name.
    """
    entry = detector.entry
    values = entry.parameters | detector.parameters
    if "&" in detector.name:
        return _fused(detector, given, values)
    *shapers, name = detector.name.split("+")
    unknown = [part for part in shapers if part not in SHAPED]
    if unknown or name not in CONVERTED:
        known = ", ".join([*CONVERTED, *(f"{shaper}+energy" for shaper in SHAPED)])
        raise ValueError(
            f"{detector.name} has no layers yet. Those that have: {known}; and fusions."
        )
    if not shapers:
        return CONVERTED[name](given, values, detector.learner)
    for shaper in shapers:
        given = SHAPED[shaper](given, values, detector.learner.shapers[shaper])
    own = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{name}.")}
    return CONVERTED[name](given, own, detector.learner.judge)


def _fused(detector, given, values):
    """-2 sum_j log p_j, each p_j by counting held-out scores, as scores.fusion.Fused."""
    total = 0.0
    members = zip(detector.learner.members.items(), detector.learner.ranked_, strict=True)
    for (name, member), ranked in members:
        own = {k.removeprefix(f"{name}."): v for k, v in values.items() if k.startswith(f"{name}.")}
        if name not in CONVERTED:
            raise ValueError(f"{name} of {detector.name} has no layers yet.")
        total = total - 2.0 * ops.log(p_value(CONVERTED[name](given, own, member), ranked))
    return total


def p_value(scores, held_out):
    """(1 + number of held-out scores not below) / (n + 1), symbolic (n,)."""
    # A layer of comparisons: the bias holds the scores, so that they are weights and not code.
    column = ops.expand_dims(scores, 1)
    beyond = linear(column, -np.ones((1, len(held_out))), held_out)
    return (1.0 + ops.sum(ops.cast(beyond >= 0.0, "float32"), axis=1)) / (1.0 + len(held_out))


def with_decisions(network, head, detector, held_out, threshold):
    """A keras.Model of the pixels: "logits", "score", "p_value", "is_ood" (0 or 1).

    Args:
        network, head: as of a PixelDetector. detector: fitted Detector.
        held_out: (n,) scores behind the p-values. threshold: of is_ood.
    """
    pixels = keras.Input(network.inputs[0].shape[1:], name="pixels")
    found = network(pixels)
    scores = score(detector, {**found, **head})
    return keras.Model(pixels, {
        "logits": found["logits"], "score": scores, "p_value": p_value(scores, held_out),
        "is_ood": ops.cast(scores > float(threshold), "int32"),
    })  # fmt: skip
