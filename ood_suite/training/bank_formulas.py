"""Formulas of the scores that compare with single training examples; see score_formulas."""

import numpy as np
from keras import ops

from ood_suite.scores.reverse_neighbors import neighborhoods
from ood_suite.training.graph_parts import constant, largest, length, linear, rows_of, unit_rows


def knn(given, values, learner):
    bank = learner.bank_ / learner.norms_[:, None]
    units = ops.normalize(given["features"], axis=1)
    kth = ops.top_k(linear(units, bank.T), values["k"])[1][:, -1]  # in descending order
    return ops.norm(units - rows_of(bank, kth), axis=1)  # 2 - 2 cos loses all digits near 0


def nnguide(given, values, learner):
    scaled = learner.bank_ * (learner.energies_ / learner.norms_)[:, None]
    units = ops.normalize(given["features"], axis=1)
    guidance = ops.mean(ops.top_k(linear(units, scaled.T), int(values["k"]))[0], axis=1)
    return -ops.logsumexp(given["logits"], axis=1) * guidance


def relation(given, values, learner):
    bank = learner.bank_ / learner.norms_[:, None]
    similar = ops.relu(linear(ops.normalize(given["features"], axis=1), bank.T))
    shared = linear(ops.softmax(given["logits"], axis=1), learner.probabilities_.T)
    related = similar * shared  # (n, examples of the bank)
    counted = ops.where(related > values["least"], related, ops.zeros_like(related))
    return -ops.sum(ops.power(counted, values["power"]), axis=1)


def grood(given, values, learner):
    correct = learner.sizes_ >= 0.0
    away = learner.bank_[correct] - learner.prototypes_[-1]
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    known = learner.sizes_[correct, None] * away  # gradients of the bank
    features = given["features"]
    between = ops.expand_dims(features, 1) - constant(features, learner.prototypes_)
    size = ops.softmax(-length(between), axis=1)[:, -1:]  # (n, 1)
    gradient = size * ops.normalize(between[:, -1], axis=1)
    nearness = linear(gradient, 2.0 * known.T, -(known**2).sum(axis=1))
    return length(gradient - rows_of(known, largest(nearness)))


def cfood(given, values, learner):
    references, count = learner.references_, len(learner.references_)
    shares = np.append(neighborhoods(count)[0], 1.0)
    enough = int(np.searchsorted(np.arange(1, count + 1) / count, values["share"])) + 1
    units = unit_rows(ops.cast(given["features"], "float64"))
    sizes = np.sum(np.square(references), axis=1)  # 1, or 0
    squared = linear(units, -2.0 * references.T, sizes, dtype="float64")  # (n, references)
    squared = squared + ops.sum(ops.square(units), axis=1, keepdims=True)
    # In how large a neighbourhood of each reference example x lies, as a number.
    smallest = sum(
        ops.cast(squared > constant(squared, known, "float64"), "float32")
        for known in learner.distances_.T
    )
    place = -ops.top_k(-smallest, enough)[0][:, -1]
    return rows_of(shares[:, None], ops.cast(place, "int32"))[:, 0]


FORMULAS = {
    "cfood": cfood,
    "grood": grood,
    "knn": knn,
    "nnguide": nnguide,
    "relation": relation,
}
