"""A score that asks how far a single example could pull the classifier's last layer."""

from typing import Self

import numpy as np
from scipy.special import log_softmax

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner


class PNML(Learner):
    """log(sum_c g_c) / log(classes), g_c = p_c / (p_c + (1 - p_c) * p_c^k): the regret of the
    predictive normalized maximum likelihood learner of the last layer, in [0, 1].

    g_c is the probability of class c after the last layer has seen x once, with c as its label.
    Of features scaled to length 1, u = x / |x|, and U those of the training data, one a row:

        p = softmax(W^T u + b)
        s = u^T pinv(U^T U) u    large where training data did not go
        k = s / (1 + s)

    Attributes:
        precision_: float64 (d, d), pinv(U^T U).

    Defaults: none, it has no parameters.

    Fails: outside the span of the training features, where pinv is zero and such a feature counts
        as known; on features scaled to length 1 p is nearly uniform for all if |W| is small.

    Reference: Bibas, Feder and Hassner, "Single Layer Predictive Normalized Maximum Likelihood for
        Out-of-Distribution Detection", NeurIPS 2021. The authors' code does the same; pytorch-ood
        clamps p to 1e-12 .. 1 - 1e-12, where ours takes the limit.
    """

    LEARNED = {"precision_": 2}

    def fit(self, features: Array) -> Self:
        """Learns from training features (n, d), in one pass."""
        units = checks.UnitRows("features", features)
        if not len(units):
            raise ValueError("A second moment cannot be fitted to no examples.")
        moment = checks.second_moment("features", units, lambda _, rows: rows)
        cutoff = len(moment) * np.finfo(np.float64).eps
        self.precision_ = np.linalg.pinv(moment, rcond=cutoff, hermitian=True)
        return self

    def score(self, features: Array, head_kernel: Array, head_bias: Array) -> Array:
        """float64 (n,), in [0, 1]."""
        checks.matrix("features", features, len(self.precision_), "features")
        units = checks.UnitRows("features", features)
        kernel, bias = checks.head(units, head_kernel, head_bias)
        classes = kernel.shape[1]
        if classes < 2:
            raise ValueError(f"A regret needs two classes. The head has {classes}.")
        scores = np.empty(len(units))
        for part, rows in checks.chunks("features", units, beside=classes):
            unusual = np.maximum(np.vecdot(rows @ self.precision_, rows), 0.0)
            log_p = log_softmax(rows @ kernel + bias, axis=1)
            power = np.exp(log_p / (1.0 + unusual[:, None]))  # p^(1 - k), by which g was divided
            learned = power / (power - np.expm1(log_p))
            scores[part] = np.log(learned.sum(axis=1)) / np.log(classes)
        return scores
