"""Scores as Keras layers: a fitted detector becomes part of its network's graph, to be exported.

In float32, where NumPy computes in float64: equal within 1e-4, absolute or relative, on a processor
or a GPU without TF32 (TensorFlow multiplies matrices there in its 10 bits, unless
tf.config.experimental.enable_tensor_float_32_execution(False) was called). What counts (a fusion
the held-out examples, nac and weiper the values in an interval) may count one that nearly ties on
the other side. What makes logits or a score NaN or infinite, where NumPy's raise, is called OOD.
"""

import keras
import numpy as np
from keras import ops

from ood_suite.conformal import ROUNDED
from ood_suite.scores import named
from ood_suite.training.graph_parts import largest, linear, of_class
from ood_suite.training.head_formulas import SHAPED
from ood_suite.training.score_formulas import CONVERTED, DOUBLE

TIED = 1.2e-7  # of a number: its last digit in float32
LARGEST = float(np.finfo(np.float32).max)


def score(detector, given):
    """The symbolic scores (n,) of a fitted Detector.

    Args:
        given: {"features", "logits": symbolic tensors, "head_kernel", "head_bias": arrays}, and
            "layer_features/<name>" as far as there are.

    Raises:
        ValueError: a score that is not in CONVERTED, by name.
    """
    values = detector.entry.parameters | detector.parameters
    if detector.entry.parts and len(named.outside(detector.name, "&")) > 1:
        return _fused(detector.learner, given, values)
    return _one(detector.name, detector.learner, given, values)


def in_double(detector):
    """Whether a part of the score is computed in float64."""
    parts = named.outside(named.bare(detector.name).replace("&", "+"), "+")
    return not set(DOUBLE).isdisjoint(parts)


def _one(name, learner, given, values):
    """Of one score, with the shapers before it."""
    *shapers, judge = named.outside(named.bare(name), "+")
    if judge not in CONVERTED or any(shaper not in SHAPED for shaper in shapers):
        raise ValueError(f"{name} has no layers. Those that have: {', '.join(CONVERTED)}.")
    if judge in DOUBLE and keras.backend.backend() != "tensorflow":
        raise ValueError(f"{name} needs float64, which {keras.backend.backend()} does not have.")
    if not shapers:
        return CONVERTED[judge](given, values, learner)
    for shaper in shapers:
        given = SHAPED[shaper](given, _own(values, shaper), learner.shapers[shaper])
    return CONVERTED[judge](given, _own(values, judge), learner.judge)


def _own(values, part):
    """The parameters of a part, of those of the whole."""
    start = f"{part}."
    return {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}


def _fused(learner, given, values):
    """-2 sum_j log p_j, each p_j by counting held-out scores, as scores.fusion.Fused."""
    total = 0.0
    for (name, member), ranked in zip(learner.members.items(), learner.ranked_, strict=True):
        scores = _one(name, member, given, _own(values, name))
        total = total - 2.0 * ops.log(p_value(scores, ranked))
    return total


def _is_finite(x):
    """float32 (n,), 1 where all of (n, d) is finite, 0 elsewhere. (Keras's isfinite is not in all
    formats; and ONNX multiplies what `where` leaves out by 0.)
    """
    return ops.min(ops.cast(ops.abs(x) < LARGEST, "float32"), axis=1)


def p_value(scores, held_out, tied=TIED, is_known=1.0):
    """(1 + number of held-out scores not below) / (n + 1), symbolic (n,); none is of what is not
    known.
    """
    # A layer of comparisons: the bias holds the scores, so that they are weights and not code.
    column = ops.expand_dims(scores, 1)
    beyond = linear(column, -np.ones((1, len(held_out))), held_out)
    not_below = ops.cast(beyond >= -tied * ops.abs(column), "float32")
    return (1.0 + is_known * ops.sum(not_below, axis=1)) / (1.0 + len(held_out))


def with_decisions(network, head, detector, held_out, thresholds):
    """A keras.Model of the pixels: "logits", "score", "p_value", "is_ood" (0 or 1).

    Args:
        network, head: as of a PixelDetector. detector: fitted Detector.
        held_out: arrays of scores behind the p-values: one, or one for each predicted class.
        thresholds: (1,) or (classes,), of is_ood.
    """
    pixels = keras.Input(network.inputs[0].shape[1:], name="pixels")
    found = network(pixels)
    scores = score(detector, {**found, **head})
    is_known = _is_finite(found["logits"]) * _is_finite(scores[:, None])
    p_values = [p_value(scores, own, ROUNDED, is_known) for own in held_out]
    p_values = ops.stack(p_values, axis=1)
    label = largest(found["logits"]) if len(held_out) > 1 else None
    limits = float(thresholds[0])
    if label is not None:
        p_values = p_values * ops.one_hot(label, len(held_out))
        limits = of_class(label, np.asarray(thresholds)[:, None])[:, 0]
    is_id = ops.cast(scores - ROUNDED * ops.abs(scores) <= limits, "float32") * is_known
    return keras.Model(pixels, {
        "logits": found["logits"], "score": scores, "p_value": ops.sum(p_values, axis=1),
        "is_ood": 1 - ops.cast(is_id, "int32"),
    })  # fmt: skip
