"""The scores' formulas in keras.ops: of a fitted learner, or of a pure function's parameters.

Each is function({name: tensor, or array of the head}, its parameters, its learner) -> (n,), as the
NumPy score of the same name. "features" and "logits" are symbolic, the head is arrays.
"""

import numpy as np
from keras import ops

from ood_suite.scores.logits import WEIBULL_SHIFT
from ood_suite.scores.prototypes import inverse_distances
from ood_suite.training import bank_formulas, gaussian_formulas, head_formulas
from ood_suite.training.graph_parts import (
    SMALL,
    below_largest,
    expm1,
    largest,
    length,
    linear,
    log1p,
    of_class,
    of_predicted,
)

NEVER = 1e30  # less than any logit, in a sum of exponentials


def energy(given, values, _):
    temperature = values["temperature"]
    return -temperature * ops.logsumexp(given["logits"] / temperature, axis=1)


def entropy(given, values, _):
    below, size, others = below_largest(given["logits"])
    mean = ops.sum(size * below, axis=1) / (1.0 + others[:, 0])
    return log1p(others[:, 0]) - mean


def max_logit(given, values, _):
    return -ops.max(given["logits"], axis=1)


def msp(given, values, _):
    return _one_minus_largest(given["logits"])


def _one_minus_largest(logits):
    """1 - max softmax(z), (n,)."""
    others = below_largest(logits)[2][:, 0]
    return others / (1.0 + others)


def gen(given, values, _):
    logits, gamma = given["logits"], values["gamma"]
    classes = logits.shape[1]
    below, _, others = below_largest(logits)
    log_all = log1p(others)  # logarithms throughout: powers count of what is 0 in float32
    but_largest = below - NEVER * ops.one_hot(largest(logits), classes)
    first = ops.exp(gamma * (ops.logsumexp(but_largest, axis=1) - 2.0 * log_all[:, 0]))
    log_p = ops.top_k(below - log_all, min(int(values["top"]), classes))[0][:, 1:]
    rest = ops.exp(gamma * (log_p + log1p(-ops.exp(log_p))))
    return first + ops.sum(rest, axis=1)


def temperature_scaling(given, values, learner):
    return _one_minus_largest(given["logits"] / float(learner.temperature_))


def kl_matching(given, values, learner):
    log_p = ops.log_softmax(given["logits"], axis=1)
    p = ops.exp(log_p)
    own = ops.sum(p * log_p, axis=1, keepdims=True)
    return ops.min(own - linear(p, learner.log_templates_.T), axis=1)


def _centred(features, mean):
    """features - mean, as a layer whose bias holds the mean."""
    return linear(features, np.eye(len(mean)), -mean)


def nci(given, values, learner):
    features = given["features"]
    centred = _centred(features, learner.mean_)
    weights = of_predicted(given, np.asarray(given["head_kernel"]).T)
    pull = ops.sum(weights * centred, axis=1) / ops.maximum(length(centred), SMALL)
    return -pull - values["alpha"] * ops.sum(ops.abs(features), axis=1)


def fdbd(given, values, learner):
    kernel, logits = np.asarray(given["head_kernel"], np.float64), given["logits"]
    inverse = inverse_distances(kernel, (kernel**2).sum(axis=0), slice(None))
    gaps = ops.max(logits, axis=1, keepdims=True) - logits
    distances = ops.sum(gaps * of_predicted(given, inverse), axis=1) / (len(inverse) - 1)
    away = length(_centred(given["features"], learner.mean_))
    return -distances / ops.maximum(away, 1e-8)


def she(given, values, learner):
    return -ops.sum(given["features"] * of_predicted(given, learner.patterns_), axis=1)


def cadref(given, values, learner):
    signs = of_predicted(given, np.sign(np.asarray(given["head_kernel"])).T)
    away = (given["features"] - of_predicted(given, learner.means_)) * signs
    size = ops.maximum(ops.sum(ops.abs(given["features"]), axis=1), SMALL)
    raising, lowering = (ops.sum(ops.relu(part), axis=1) / size for part in (away, -away))
    energies = ops.logsumexp(given["logits"], axis=1)
    return raising / energies + lowering / float(learner.mean_energy_)


def gradnorm(given, values, _):
    logits, temperature = given["logits"], values["temperature"]
    away = ops.softmax(logits / temperature, axis=1) - 1.0 / logits.shape[1]
    lengths = ops.sum(ops.abs(given["features"]), axis=1)
    return -lengths * ops.sum(ops.abs(away), axis=1) / temperature


def gradient_uncertainty(given, values, _):
    classes = given["logits"].shape[1]
    away = classes * ops.softmax(given["logits"], axis=1) - 1.0
    squares = ops.sum(ops.square(given["features"]), axis=1) + 1.0
    return -squares * ops.sum(ops.square(away), axis=1)


def neco(given, values, learner):
    own = np.diag(1.0 / learner.deviation_)
    standard = linear(given["features"], own, -learner.mean_ @ own)
    inside = length(linear(standard, learner.components_))
    scores = -inside / ops.maximum(length(standard), SMALL)
    return scores * ops.max(given["logits"], axis=1) if values["with_logit"] else scores


def ctm(given, values, learner):
    cosines = linear(given["features"], learner.directions_.T)
    return -ops.max(cosines, axis=1) / ops.maximum(length(given["features"]), SMALL)


def openmax(given, values, learner):
    logits, classes = given["logits"], len(learner.means_)
    alpha = min(int(values["alpha"]), classes)
    largest, places = ops.top_k(logits, alpha)
    lost = []
    for rank in range(alpha):
        away = length(logits - of_class(places[:, rank], learner.means_))
        # Of (away - start + shift) / scale all but a few digits are those of the shift.
        offset = (WEIBULL_SHIFT - learner.starts_ - learner.scales_) / learner.scales_
        of_own = np.stack([1.0 / learner.scales_, offset, learner.shapes_], axis=1)
        per_unit, moved, shape = ops.split(of_class(places[:, rank], of_own), 3, axis=1)
        beyond = ops.expand_dims(away, 1) * per_unit + moved
        log_power = shape * log1p(ops.maximum(beyond, -1.0 + 1e-6))
        share = -expm1(-ops.exp(ops.minimum(log_power, 50.0))) * ((alpha - rank) / alpha)
        lost.append(share * largest[:, rank : rank + 1] * ops.one_hot(places[:, rank], classes))
    lost = sum(lost)
    return ops.sum(lost, axis=1) - ops.logsumexp(logits - lost, axis=1)


def pnml(given, values, learner):
    units = ops.normalize(given["features"], axis=1)
    squares, vectors = np.linalg.eigh(learner.precision_)
    factor = vectors * np.sqrt(np.maximum(squares, 0.0))
    unusual = ops.sum(ops.square(linear(units, factor)), axis=1, keepdims=True)
    log_p = ops.log_softmax(linear(units, given["head_kernel"], given["head_bias"]), axis=1)
    power = ops.exp(log_p / (1.0 + unusual))
    learned = power / (power - expm1(log_p))
    return ops.log(ops.sum(learned, axis=1)) / float(np.log(log_p.shape[1]))


DOUBLE = ("cfood", "flow", "gmm", "relative_mahalanobis")  # small differences, in float64
CONVERTED = {
    "cadref": cadref,
    "ctm": ctm,
    "energy": energy,
    "entropy": entropy,
    "fdbd": fdbd,
    "gen": gen,
    "gradient_uncertainty": gradient_uncertainty,
    "gradnorm": gradnorm,
    "kl_matching": kl_matching,
    "max_logit": max_logit,
    "msp": msp,
    "nci": nci,
    "neco": neco,
    "openmax": openmax,
    "pnml": pnml,
    "she": she,
    "temperature_scaling": temperature_scaling,
    **bank_formulas.FORMULAS,
    **gaussian_formulas.FORMULAS,
    **head_formulas.FORMULAS,
}
