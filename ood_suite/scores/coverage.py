"""A score that asks which states of each feature the training data have been in."""

from typing import Self

import numpy as np
from scipy.special import expit, softmax

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner


def interval_edges(count):
    """float64 (count,), ascending from 0 to 1.2: log_1000 of evenly spaced numbers from 1 to
    1000^(1/2), and the same mirrored at 1/2, so that intervals are narrow around 1/2; and two edges
    above 1.
    """
    low = np.log(np.linspace(1.0, np.sqrt(1000.0), count // 2)) / np.log(1000.0)
    edges = np.concatenate([low[:-1], [0.5], (1.0 - low[:-1])[::-1], [1.2]])
    edges[-2] += 0.01
    return edges


class NAC(Learner):
    """-mean_d min(share_d(s_d) / full, 1): how little of the training data had each feature in the
    state that this example has it in.

    The state of a feature is its part in the gradient of the divergence KL(uniform | softmax(z)):

        s = sigmoid(steepness * x * g), g = W (softmax(z) - 1/classes), one number of each feature

    and share_d is the share of the training examples whose s_d lies in the same interval.

    Args:
        edges: of the intervals, even, at least 4; one more than there are intervals.
        full: the share of the training examples that counts as full coverage, in (0, 1].
        steepness: of the sigmoid, positive.

    Attributes:
        coverage_: float64 (d, edges - 1), min(share / full, 1) of each interval of each feature.

    Defaults: the authors' for the layer before the head of a ResNet-18 on CIFAR-10: M = 50, 50 of
        1000 training examples, 100. They take 50, 50 of 1000, 50 on CIFAR-100, and 50, 10 of 1000,
        3000 on ImageNet.

    Fails: where the steepness does not fit the size of x * g, as on another network, and all states
        are near 1/2 or at 0 and 1; on this one layer alone: the authors add earlier ones.

    Reference: Liu et al., "Neuron Activation Coverage: Rethinking Out-of-distribution Detection and
        Generalization", ICLR 2024, NAC-UE. The authors' code does the same, with a count in place
        of a share, of 1000 training examples; ours takes all. pytorch-ood has other intervals.
    """

    LEARNED = {"coverage_": 2}

    def __init__(self, edges: int = 50, full: float = 0.05, steepness: float = 100.0) -> None:
        self.edges = edges
        self.full = full
        self.steepness = steepness

    def fit(self, features: Array, logits: Array, head_kernel: Array) -> Self:
        """Learns from training features (n, d), logits (n, classes) and the head, in one pass."""
        if self.edges < 4 or self.edges % 2:
            raise ValueError(f"`edges` must be even and at least 4. Received: {self.edges}.")
        checks.within("full", self.full, 0.0, 1.0, "(]")
        checks.above("steepness", self.steepness, 0.0)
        features = checks.matrix("features", features, what="features")
        if not len(features):
            raise ValueError("Coverage cannot be counted of no examples.")
        width, intervals = features.shape[1], self.edges - 1
        counts = np.zeros(width * intervals, np.int64)
        for _, found in self._intervals(features, logits, head_kernel):
            flat = found + intervals * np.arange(width)
            counts += np.bincount(flat.ravel(), minlength=len(counts))
        shares = counts.reshape(width, intervals) / len(features)
        self.coverage_ = np.minimum(shares / self.full, 1.0)
        return self

    def score(self, features: Array, logits: Array, head_kernel: Array) -> Array:
        """float64 (n,), in [-1, 0]."""
        features = checks.matrix("features", features, len(self.coverage_), "features")
        scores, columns = np.empty(len(features)), np.arange(features.shape[1])
        for part, found in self._intervals(features, logits, head_kernel):
            scores[part] = -self.coverage_[columns, found].mean(axis=1)
        return scores

    def _intervals(self, features, logits, head_kernel):
        """Yields (slice, int64 (n, d)): in which interval each state lies."""
        logits = checks.raw_logits(logits)
        kernel, _ = checks.head(features, head_kernel)
        checks.same_classes(logits, kernel)
        checks.same_length(features, logits)
        edges = interval_edges(self.edges)
        for part, rows in checks.chunks("features", features, beside=logits.shape[1]):
            z = checks.rows_of("logits", logits, part)
            gradient = (softmax(z, axis=1) - 1.0 / kernel.shape[1]) @ kernel.T
            states = expit(self.steepness * rows * gradient)
            yield part, np.searchsorted(edges, states, "right") - 1
