"""The scores' formulas in keras.ops: of a fitted learner, or of a pure function's parameters.

Each is function({name: tensor, or array of the head}, its parameters, its learner) -> (n,), as the
NumPy score of the same name. "features" and "logits" are symbolic, the head is arrays. Not here:
gmm and relative_mahalanobis, differences of large distances that float32 does not hold.
"""

import numpy as np
from keras import layers, ops

SMALL = 1e-12


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


def _gen(given, values, _):
    log_p = ops.log_softmax(given["logits"], axis=1)
    classes = log_p.shape[1]
    if values["top"] < classes:
        log_p = ops.top_k(log_p, int(values["top"]))[0]
    p = ops.exp(log_p)
    rest = ops.maximum(-ops.expm1(log_p), 1e-30)
    return ops.sum(ops.power(p * rest, values["gamma"]), axis=1)


def _temperature_scaling(given, values, learner):
    scaled = ops.softmax(given["logits"] / float(learner.temperature_), axis=1)
    return 1.0 - ops.max(scaled, axis=1)


def _kl_matching(given, values, learner):
    log_p = ops.log_softmax(given["logits"], axis=1)
    p = ops.exp(log_p)
    own = ops.sum(p * log_p, axis=1, keepdims=True)
    return ops.min(own - linear(p, learner.log_templates_.T), axis=1)


def _length(x):
    return ops.sqrt(ops.sum(ops.square(x), axis=1))


def _centred(features, mean):
    """features - mean, as a layer whose bias holds the mean."""
    return linear(features, np.eye(len(mean)), -mean)


def _of_predicted(given, rows):
    """(n, d): the row of each example's predicted class."""
    one_hot = ops.one_hot(ops.argmax(given["logits"], axis=1), len(rows))
    return linear(one_hot, rows)


def _nci(given, values, learner):
    features = given["features"]
    centred = _centred(features, learner.mean_)
    weights = _of_predicted(given, np.asarray(given["head_kernel"]).T)
    pull = ops.sum(weights * centred, axis=1) / ops.maximum(_length(centred), SMALL)
    return -pull - values["alpha"] * ops.sum(ops.abs(features), axis=1)


def _fdbd(given, values, learner):
    kernel, logits = np.asarray(given["head_kernel"], np.float64), given["logits"]
    squares = (kernel**2).sum(axis=0)
    between = np.sqrt(np.maximum(squares[:, None] + squares - 2.0 * kernel.T @ kernel, 0.0))
    inverse = np.divide(1.0, between, out=np.zeros_like(between), where=between >= 1e-12)
    gaps = ops.max(logits, axis=1, keepdims=True) - logits
    distances = ops.sum(gaps * _of_predicted(given, inverse), axis=1) / (len(inverse) - 1)
    away = _length(_centred(given["features"], learner.mean_))
    return -distances / ops.maximum(away, 1e-8)


def _she(given, values, learner):
    return -ops.sum(given["features"] * _of_predicted(given, learner.patterns_), axis=1)


def _cadref(given, values, learner):
    signs = _of_predicted(given, np.sign(np.asarray(given["head_kernel"])).T)
    away = (given["features"] - _of_predicted(given, learner.means_)) * signs
    size = ops.maximum(ops.sum(ops.abs(given["features"]), axis=1), SMALL)
    raising, lowering = (ops.sum(ops.relu(part), axis=1) / size for part in (away, -away))
    energies = ops.logsumexp(given["logits"], axis=1)
    return raising / energies + lowering / float(learner.mean_energy_)


def _gradnorm(given, values, _):
    logits, temperature = given["logits"], values["temperature"]
    away = ops.softmax(logits / temperature, axis=1) - 1.0 / logits.shape[1]
    lengths = ops.sum(ops.abs(given["features"]), axis=1)
    return -lengths * ops.sum(ops.abs(away), axis=1) / temperature


def _gradient_uncertainty(given, values, _):
    classes = given["logits"].shape[1]
    away = classes * ops.softmax(given["logits"], axis=1) - 1.0
    squares = ops.sum(ops.square(given["features"]), axis=1) + 1.0
    return -squares * ops.sum(ops.square(away), axis=1)


def _neco(given, values, learner):
    own = np.diag(1.0 / learner.deviation_)
    standard = linear(given["features"], own, -learner.mean_ @ own)
    inside = _length(linear(standard, learner.components_))
    scores = -inside / ops.maximum(_length(standard), SMALL)
    return scores * ops.max(given["logits"], axis=1) if values["with_logit"] else scores


def _ctm(given, values, learner):
    cosines = linear(given["features"], learner.directions_.T)
    return -ops.max(cosines, axis=1) / ops.maximum(_length(given["features"]), SMALL)


def _class_residual(given, values, learner):
    outside = [
        _length(linear(given["features"], residual, -mean @ residual))
        for mean, residual in zip(learner.means_, learner.residuals_, strict=True)
    ]
    return ops.min(ops.stack(outside, axis=1), axis=1)


def _nnguide(given, values, learner):
    scaled = learner.bank_ * (learner.energies_ / learner.norms_)[:, None]
    units = ops.normalize(given["features"], axis=1)
    guidance = ops.mean(ops.top_k(linear(units, scaled.T), int(values["k"]))[0], axis=1)
    return -ops.logsumexp(given["logits"], axis=1) * guidance


def _through_head(given, features):
    logits = linear(features, given["head_kernel"], given["head_bias"])
    return {**given, "features": features, "logits": logits}


def _react(given, values, learner):
    return _through_head(given, ops.minimum(given["features"], float(learner.threshold_)))


def _largest(features, percentile):
    """Features but for the d * percentile / 100 smallest of each row, which are 0. Ties at the edge
    are kept, where NumPy keeps the first.
    """
    width = features.shape[1]
    keep = width - int(np.round(width * percentile / 100.0))
    edge = ops.top_k(features, keep)[0][:, -1:]
    return ops.where(features >= edge, features, ops.zeros_like(features))


def _ratio(features, pruned):
    """(n, 1): sum before / sum after; 1 where that is 0."""
    before, after = (ops.sum(x, axis=1, keepdims=True) for x in (features, pruned))
    some = ops.cast(after != 0.0, "float32")
    return some * before / (after + (1.0 - some)) + (1.0 - some)


def _ash_b(given, values, _):
    features = given["features"]
    kept = ops.cast(_largest(features, values["percentile"]) > 0.0, "float32")
    value = ops.sum(features, axis=1, keepdims=True) / ops.sum(kept, axis=1, keepdims=True)
    return _through_head(given, kept * value)


def _lts(given, values, _):
    positive = ops.relu(given["features"])
    factor = ops.square(_ratio(positive, _largest(positive, values["percentile"])))
    logits = linear(given["features"], given["head_kernel"], given["head_bias"])
    return {**given, "features": given["features"] * factor, "logits": logits * factor}


def _ash_p(given, values, _):
    return _through_head(given, _largest(given["features"], values["percentile"]))


def _ash_s(given, values, _):
    features = given["features"]
    pruned = _largest(features, values["percentile"])
    return _through_head(given, pruned * ops.exp(_ratio(features, pruned)))


def _scale(given, values, _):
    features = given["features"]
    pruned = _largest(features, values["percentile"])
    return _through_head(given, features * ops.exp(_ratio(features, pruned)))


def _dice(given, values, learner):
    kernel = np.asarray(given["head_kernel"])
    contribution = learner.mean_[:, None] * kernel
    kept = contribution > np.percentile(contribution, values["percentile"])
    return _through_head({**given, "head_kernel": kernel * kept}, given["features"])


CONVERTED = {
    "cadref": _cadref,
    "class_residual": _class_residual,
    "ctm": _ctm,
    "energy": _energy,
    "entropy": _entropy,
    "fdbd": _fdbd,
    "gen": _gen,
    "gradient_uncertainty": _gradient_uncertainty,
    "gradnorm": _gradnorm,
    "kl_matching": _kl_matching,
    "knn": _knn,
    "mahalanobis": _mahalanobis,
    "max_logit": _max_logit,
    "msp": _msp,
    "nci": _nci,
    "neco": _neco,
    "nnguide": _nnguide,
    "residual": _residual,
    "she": _she,
    "temperature_scaling": _temperature_scaling,
    "vim": _vim,
}
SHAPED = {
    "ash_b": _ash_b,
    "ash_p": _ash_p,
    "ash_s": _ash_s,
    "dice": _dice,
    "lts": _lts,
    "react": _react,
    "scale": _scale,
}
