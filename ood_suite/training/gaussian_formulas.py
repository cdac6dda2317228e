"""Formulas of distances, densities and subspaces of features; see score_formulas.

Differences of large distances are taken in float64, which LiteRT and JAX do not have.
"""

import numpy as np
from keras import ops

from ood_suite.scores import flows
from ood_suite.training.graph_parts import constant, length, linear, unit_rows


def in_double(given):
    """The features in float64."""
    return ops.cast(given["features"], "float64")


def _units(features, normalize):
    return unit_rows(features) if normalize else features


def distances(features, gaussian, dtype="float32"):
    """(n, classes), as TiedGaussian.distances."""
    origin = gaussian.means_.mean(axis=0)
    means = (gaussian.means_ - origin) @ gaussian.whitening_
    white = linear(features, gaussian.whitening_, -origin @ gaussian.whitening_, dtype)
    own = ops.sum(ops.square(white), axis=1, keepdims=True)
    return ops.relu(own + linear(white, -2.0 * means.T, (means**2).sum(axis=1), dtype))


def mahalanobis(given, values, learner):
    return ops.min(distances(_units(given["features"], values["normalize"]), learner), axis=1)


def mahalanobis_layers(given, values, learner):
    if values["epsilon"]:
        raise ValueError("mahalanobis_layers can only be exported with epsilon 0.")
    columns = [
        ops.min(distances(given[f"layer_features/{name}"], gaussian), axis=1)
        for name, gaussian in learner.gaussians_.items()
    ]
    weights = learner.weights_ / learner.spread_
    rest = np.array([learner.intercept_ - learner.centre_ @ weights])
    return linear(ops.stack(columns, axis=1), weights[:, None], rest)[:, 0]


def gmm(given, values, learner):
    away = distances(_units(in_double(given), values["normalize"]), learner, "float64")
    shares = constant(away, learner.log_shares_, "float64")
    return ops.cast(-ops.logsumexp(shares - away / 2.0, axis=1), "float32")


def relative_mahalanobis(given, values, learner):
    features = _units(in_double(given), values["normalize"])
    nearest = ops.min(distances(features, learner.classes_, "float64"), axis=1)
    white = linear(
        features, learner.whitening_, -learner.mean_ @ learner.whitening_, dtype="float64"
    )
    return ops.cast(nearest - ops.sum(ops.square(white), axis=1), "float32")


def flow(given, values, learner):
    features = _units(in_double(given), values["normalize"])
    u = linear(features, learner.whitening_, -learner.mean_ @ learner.whitening_, dtype="float64")
    width = learner.knots_.shape[2]
    inside, rest = u[:, :width], u[:, width:]
    total = float(np.log(np.linalg.norm(learner.whitening_, axis=0)).sum())
    layers = zip(learner.knots_, learner.slopes_, learner.rotations_, strict=True)
    for knots, slopes, rotation in layers:
        inside, log_slopes = _gaussianized(inside, knots, slopes)
        inside, total = linear(inside, rotation, dtype="float64"), total + log_slopes
    squares = ops.sum(ops.square(inside), axis=1) + ops.sum(ops.square(rest), axis=1)
    normal = -0.5 * (squares + float(u.shape[1] * np.log(2.0 * np.pi)))
    return ops.cast(-(normal + total), "float32")


def _gaussianized(u, knots, slopes):
    """As flows.gaussianized: each of the ten pieces is mapped where it starts and ends."""
    step = float(flows.KNOTS[1] - flows.KNOTS[0])
    knots_of, slopes_of = constant(u, knots, "float64"), constant(u, slopes, "float64")
    column = ops.expand_dims(u, 1)
    start, slope, end_slope = knots_of[:, :-1], slopes_of[:, :-1], slopes_of[:, 1:]
    width = knots_of[:, 1:] - start
    secant, inside = step / width, ops.clip((column - start) / width, 0.0, 1.0)
    mixed = inside * (1.0 - inside)
    below = secant + (slope + end_slope - 2.0 * secant) * mixed
    rise = end_slope * inside**2 + 2.0 * secant * mixed + slope * (1.0 - inside) ** 2
    pieces = step * (secant * inside**2 + slope * mixed) / below  # whole, partly or not passed
    out = float(flows.KNOTS[0]) + ops.sum(pieces, axis=1)
    out = out + slopes_of[:, 0] * ops.minimum(u - knots_of[:, 0], 0.0)
    out = out + slopes_of[:, -1] * ops.relu(u - knots_of[:, -1])
    # Which piece's slope counts: the one that u lies in; the first and the last beyond.
    at_or_above = ops.cast(column >= knots_of[:, 1:-1], "float64")
    first, last = ops.ones_like(column), ops.zeros_like(column)
    own = ops.concatenate([first, at_or_above], 1) - ops.concatenate([at_or_above, last], 1)
    log_slopes = own * (2.0 * ops.log(secant / below) + ops.log(rise))
    return out, ops.sum(log_slopes, axis=(1, 2))


def residual(given, values, learner):
    inside = linear(given["features"], learner.residual_, -learner.origin_ @ learner.residual_)
    return length(inside)


def vim(given, values, learner):
    virtual = float(learner.alpha_) * residual(given, values, learner.space_)
    return virtual - ops.logsumexp(given["logits"], axis=1)


def class_residual(given, values, learner):
    outside = [
        length(linear(given["features"], basis, -mean @ basis))
        for mean, basis in zip(learner.means_, learner.residuals_, strict=True)
    ]
    return ops.min(ops.stack(outside, axis=1), axis=1)


def cop(given, values, learner):
    return _outside(ops.normalize(given["features"], axis=1), learner)


def corp(given, values, learner):
    units = ops.normalize(given["features"], axis=1)
    angles = linear(units, learner.frequencies_.T, learner.phases_)
    return _outside(float(np.sqrt(2.0 / len(learner.phases_))) * ops.cos(angles), learner)


def _outside(mapped, learner):
    return length(linear(mapped, learner.outside_, -learner.mean_ @ learner.outside_))


FORMULAS = {
    "class_residual": class_residual,
    "cop": cop,
    "corp": corp,
    "flow": flow,
    "gmm": gmm,
    "mahalanobis": mahalanobis,
    "mahalanobis_layers": mahalanobis_layers,
    "relative_mahalanobis": relative_mahalanobis,
    "residual": residual,
    "vim": vim,
}
