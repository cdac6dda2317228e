"""Scores as Keras layers: a fitted detector becomes part of its network's graph, to be exported.

In float32, where NumPy computes in float64: equal within 1e-4, absolute or relative; of a fusion, a
member that nearly ties with a held-out example may count it on the other side. What stands in
score_formulas.CONVERTED can be exported; a score of the catalogue that does not is refused by name.
"""

import keras
import numpy as np
from keras import ops

from ood_suite.training.score_formulas import CONVERTED, SHAPED, linear


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
        own = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{shaper}.")}
        given = SHAPED[shaper](given, own, detector.learner.shapers[shaper])
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
