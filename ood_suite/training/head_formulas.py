"""Formulas of the shapers, and of the scores that mask features or weights; see score_formulas.

A shaper is function(given, its parameters, its learner) -> given, with new features and logits.
"""

import numpy as np
from keras import ops

from ood_suite.scores.coverage import interval_edges
from ood_suite.scores.weiper import FEATURE_FLOOR, LOGIT_FLOOR
from ood_suite.training.graph_parts import (
    SMALL,
    constant,
    float32_from_above,
    largest,
    length,
    linear,
    of_class,
    of_predicted,
    rows_of,
)


def through_head(given, features):
    """`given` with these features and the logits that the head makes of them."""
    kernel, bias = given["head_kernel"], given["head_bias"]
    if "bias_factor" not in given:  # (n, 1), see lts
        logits = linear(features, kernel, bias)
    else:
        logits = linear(features, kernel) + linear(given["bias_factor"], np.asarray(bias)[None])
    return {**given, "features": features, "logits": logits}


def react(given, values, learner):
    return through_head(given, ops.minimum(given["features"], float(learner.threshold_)))


def _kept(features, percentile):
    """float32 (n, d): 0 for the d * percentile / 100 smallest of each row, of equal ones the last,
    and 1 for the others; and the number of these.
    """
    width = features.shape[1]
    keep = width - int(np.round(width * percentile / 100.0))
    edge = ops.top_k(features, keep)[0][:, -1:]
    above, equal = (ops.cast(f(features, edge), "float32") for f in (ops.greater, ops.equal))
    wanted = keep - ops.sum(above, axis=1, keepdims=True)
    first = ops.cast(ops.cumsum(equal, axis=1) <= wanted, "float32")
    return above + equal * first, keep


def _largest(features, percentile):
    """Features but for the smallest of each row, which are 0."""
    return features * _kept(features, percentile)[0]


def _ratio(features, pruned):
    """(n, 1): sum before / sum after; 1 where that is 0."""
    before, after = (ops.sum(x, axis=1, keepdims=True) for x in (features, pruned))
    some = ops.cast(after != 0.0, "float32")
    return some * before / (after + (1.0 - some)) + (1.0 - some)


def ash_b(given, values, _):
    features = given["features"]
    kept, count = _kept(features, values["percentile"])
    return through_head(given, kept * (ops.sum(features, axis=1, keepdims=True) / count))


def ash_p(given, values, _):
    return through_head(given, _largest(given["features"], values["percentile"]))


def ash_s(given, values, _):
    features = given["features"]
    pruned = _largest(features, values["percentile"])
    return through_head(given, pruned * ops.exp(_ratio(features, pruned)))


def scale(given, values, _):
    features = given["features"]
    pruned = _largest(features, values["percentile"])
    return through_head(given, features * ops.exp(_ratio(features, pruned)))


def lts(given, values, _):
    positive = ops.relu(given["features"])
    factor = ops.square(_ratio(positive, _largest(positive, values["percentile"])))
    scaled = {**given, "bias_factor": factor * given.get("bias_factor", 1.0)}
    return through_head(scaled, given["features"] * factor)


def dice(given, values, learner):
    kernel = np.asarray(given["head_kernel"])
    contribution = learner.mean_[:, None] * kernel
    kept = contribution > np.percentile(contribution, values["percentile"])
    return through_head({**given, "head_kernel": kernel * kept}, given["features"])


def vra(given, values, learner):
    features = given["features"]
    reaches = features >= constant(features, float32_from_above(learner.low_))
    kept = ops.where(reaches, features, ops.zeros_like(features))
    return through_head(given, ops.minimum(kept, constant(features, learner.high_)))


def ras(given, values, learner):
    features = given["features"]
    width = features.shape[1]
    order = ops.top_k(-features, width)[1]  # ascending; of equal ones the first
    places = ops.top_k(-ops.cast(order, "float32"), width)[1]
    return through_head(given, rows_of(learner.profile_[:, None], places)[:, :, 0])


def optfs(given, values, learner):
    features = given["features"]
    edges = constant(features, float32_from_above(learner.edges_)[None])
    places = ops.sum(ops.cast(ops.expand_dims(features, 2) >= edges, "int32"), axis=2)
    theta = np.concatenate([[0.0], learner.weights_, [0.0]])[:, None]
    return through_head(given, features * rows_of(theta, places)[:, :, 0])


def himplos(given, values, learner):
    kernel, features = np.asarray(given["head_kernel"], np.float64), given["features"]
    mask = kernel >= np.percentile(kernel, values["mask_percentile"], axis=0)
    shaped = features * of_predicted(given, mask.T)
    if np.isfinite(learner.clip_):
        shaped = ops.minimum(shaped, float(learner.clip_))
    logits = linear(shaped, kernel, given["head_bias"])
    if values["smooth"]:
        norms = np.maximum(np.linalg.norm(learner.prototypes_, axis=1, keepdims=True), SMALL)
        cosines = ops.sum(of_predicted(given, learner.prototypes_ / norms) * features, axis=1)
        cosines = cosines / ops.maximum(length(features), SMALL)
        logits = logits * ops.expand_dims(cosines, 1)
    return -ops.logsumexp(logits, axis=1)


def line(given, values, learner):
    kernel = np.asarray(given["head_kernel"], np.float64)
    neurons, thresholds = _important(kernel, values, learner.contributions_)
    features = given["features"]
    if np.isfinite(learner.clip_):
        features = ops.minimum(features, float(learner.clip_))
    predicted = largest(linear(features, kernel, given["head_bias"]))
    sizes = ops.expand_dims(of_class(predicted, np.abs(learner.contributions_)), 2)
    whole = constant(features, kernel)  # (n, d, classes)
    counts = sizes * whole > ops.expand_dims(of_class(predicted, thresholds), 2)
    weights = ops.where(counts, whole, ops.zeros_like(whole))
    kept = features * of_class(predicted, neurons)
    masked = ops.sum(ops.expand_dims(kept, 2) * weights, axis=1)
    return -ops.logsumexp(masked + constant(features, given["head_bias"]), axis=1)


def _important(kernel, values, contributions):
    """(which neurons count (classes, d), bounds of weights (classes, 1)); a bound lies in the
    middle between the weights that count and those that do not, where float32 finds it.
    """
    neurons, bounds = [], []
    for own in contributions:
        neurons.append(own > np.percentile(own, values["activation_percentile"]))
        weighted = np.sort((np.abs(own)[:, None] * kernel).ravel())
        percentile = np.percentile(weighted, values["weight_percentile"])
        place = np.searchsorted(weighted, percentile, "right")
        bounds.append(weighted[max(place - 1, 0) : place + 1].mean())
    return np.array(neurons), np.array(bounds)[:, None]


def nac(given, values, learner):
    features, kernel = given["features"], np.asarray(given["head_kernel"])
    width, intervals = learner.coverage_.shape
    away = ops.softmax(given["logits"], axis=1) - 1.0 / kernel.shape[1]
    gradient = linear(away, kernel.T)
    states = ops.sigmoid(values["steepness"] * features * gradient)
    edges = constant(features, interval_edges(values["edges"])[None, 1:])  # none lies below 0
    places = ops.sum(ops.cast(ops.expand_dims(states, 2) >= edges, "float32"), axis=2)
    flat = ops.cast(places + constant(features, np.arange(width) * intervals), "int32")
    return -ops.mean(rows_of(learner.coverage_.reshape(-1, 1), flat)[:, :, 0], axis=1)


def weiper(given, values, learner):
    features, repeats = given["features"], values["repeats"]
    logits = linear(features, learner.kernel_, learner.bias_)
    of_features = _divergence(
        learner.feature_density_,
        _histogram(features, learner.feature_range_, values["bins"]),
        values["smoothing"],
        FEATURE_FLOOR,
    )
    of_logits = _divergence(
        learner.logit_density_,
        _histogram(logits, learner.logit_range_, values["bins"]),
        values["smoothing"],
        LOGIT_FLOOR,
    )
    heads = ops.reshape(logits, (-1, repeats, len(learner.bias_) // repeats))
    sure = ops.mean(ops.max(ops.softmax(heads, axis=2), axis=2), axis=1)
    return of_features + values["logits_weight"] * of_logits - values["msp_weight"] * sure


def _histogram(x, span, bins):
    """(n, bins): the share of each row's values in each bin of equal width."""
    edges = span[0] + max(span[1] - span[0], 1e-12) / bins * np.arange(bins + 1)
    above = [ops.mean(ops.cast(x >= float(e), "float32"), axis=1) for e in edges[:-1]]
    above.append(ops.mean(ops.cast(x > float(np.float32(span[1])), "float32"), axis=1))
    above = ops.stack(above, axis=1)
    return above[:, :-1] - above[:, 1:]


def _divergence(mean, own, smoothing, floor):
    """As weiper._divergence; the moving average is a product with a band of ones."""
    bins, before = len(mean), (smoothing - 1) // 2
    band = np.zeros((bins, bins))
    for place in range(bins):
        for near in range(place - before, place - before + smoothing):
            band[min(max(near, 0), bins - 1), place] += 1.0 / smoothing
    p = (mean + floor) / (mean + floor).sum()
    q = linear(own, band, np.full(bins, floor))
    q = q / ops.sum(q, axis=1, keepdims=True)
    p = constant(own, p)
    return ops.sum((p - q) * (ops.log(p) - ops.log(q)), axis=1)


SHAPED = {
    "ash_b": ash_b,
    "ash_p": ash_p,
    "ash_s": ash_s,
    "dice": dice,
    "lts": lts,
    "optfs": optfs,
    "ras": ras,
    "react": react,
    "scale": scale,
    "vra": vra,
}
FORMULAS = {"himplos": himplos, "line": line, "nac": nac, "weiper": weiper}
