"""Activation shapers: they change the features (or the head) before the logits are made anew, and
any score of logits judges the result: "react+energy", "ash_s+max_logit", "dice+react+energy".

A shaper is a function `(features, head_kernel, head_bias, **options) -> (features, head_kernel,
head_bias)` on float64 rows, or, if it learns, a class with a method `shape` of that kind and a
`fit` that takes those of the three that it names. All act on pooled features, the input of the
last Dense layer; some papers shape the maps before pooling.
"""

import copy
from inspect import signature
from typing import Self

import numpy as np

from ood_suite.scores import checks
from ood_suite.scores.learner import Array, Learner


def _kept(features, percentile):
    """bool (n, d): the d - round(d * percentile / 100) largest of each row; of equal ones the
    first.
    """
    width = features.shape[1]
    checks.within("percentile", percentile, 0.0, 100.0)
    keep = width - int(np.round(width * percentile / 100.0))
    if keep == 0:
        raise ValueError(f"`percentile` {percentile} leaves none of {width} features.")
    last = np.partition(features, width - keep, axis=1)[:, width - keep, None]
    kept = features >= last
    tied = np.flatnonzero(kept.sum(axis=1) > keep)
    if tied.size:
        above, equal = features[tied] > last[tied], features[tied] == last[tied]
        wanted = keep - above.sum(axis=1, keepdims=True)
        kept[tied] = above | (equal & (np.cumsum(equal, axis=1) <= wanted))
    return kept


def ash_p(features: Array, head_kernel: Array, head_bias: Array, percentile: float = 90.0) -> tuple:
    """Sets the smallest `percentile` percent of each example's features to zero.

    Defaults: 90, OpenOOD's; the authors' lie between 60 and 95, by data set; pytorch-ood has 65.

    Fails: on dense features, as of networks without ReLU, where small ones tell classes apart.

    Reference: Djurisic et al., "Extremely Simple Activation Shaping for Out-of-Distribution
        Detection", ICLR 2023, algorithm 1 (ASH-P).
    """
    return features * _kept(features, percentile), head_kernel, head_bias


def ash_b(features: Array, head_kernel: Array, head_bias: Array, percentile: float = 90.0) -> tuple:
    """As ash_p, then sets all that is left to (sum before) / (number left).

    Defaults: as of ash_p.

    Fails: as ash_p, and loses which features were large.

    Reference: Djurisic et al., ICLR 2023, algorithm 2 (ASH-B).
    """
    kept = _kept(features, percentile)
    value = features.sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True)
    return np.where(kept, value, 0.0), head_kernel, head_bias


def ash_s(features: Array, head_kernel: Array, head_bias: Array, percentile: float = 90.0) -> tuple:
    """As ash_p, then multiplies by exp((sum before) / (sum after)).

    Defaults: as of ash_p; the authors take 95 for a DenseNet on CIFAR, see the presets.

    Fails: where features are not rectified: the ratio of sums then has no meaning.

    Reference: Djurisic et al., ICLR 2023, algorithm 3 (ASH-S).
    """
    pruned = features * _kept(features, percentile)
    return pruned * np.exp(_ratio(features, pruned)), head_kernel, head_bias


def scale(features: Array, head_kernel: Array, head_bias: Array, percentile: float = 85.0) -> tuple:
    """Multiplies all features by exp((sum of all) / (sum of the largest)), pruning none.

    Defaults: 85, the authors' for a ResNet-50 on ImageNet.

    Fails: where features are not rectified, as ash_s.

    Reference: Xu et al., "Scaling for Training Time and Post-hoc Out-of-distribution Detection
        Enhancement", ICLR 2024, equation 5.
    """
    pruned = features * _kept(features, percentile)
    return features * np.exp(_ratio(features, pruned)), head_kernel, head_bias


def lts(features: Array, head_kernel: Array, head_bias: Array, percentile: float = 95.0) -> tuple:
    """Multiplies the logits, bias included, by ((sum of all) / (sum of the largest))^2 of the
    features above zero.

    Defaults: 95, the top 5% of the features, which the authors keep for all networks.

    Fails: on networks without ReLU, whose features below zero it cannot see.

    Reference: Djurisic, Liu, Nikolic, "Logit Scaling for Out-of-Distribution Detection", 2024,
        equation 1 (arXiv 2409.01175). The authors' code does the same.
    """
    positive = np.maximum(features, 0.0)
    pruned = positive * _kept(positive, percentile)
    factor = _ratio(positive, pruned) ** 2
    return features * factor, head_kernel, head_bias * factor  # a bias of each example


def _ratio(features, pruned):
    """(n, 1): sum before / sum after; 1 where both are zero."""
    before, after = features.sum(axis=1, keepdims=True), pruned.sum(axis=1, keepdims=True)
    return np.divide(before, after, out=np.ones_like(before), where=after != 0.0)


class ReAct(Learner):
    """Clips features from above: min(x, threshold).

    Args:
        percentile: of all training features, which is the threshold.
        threshold: a constant in its place; 0 for the percentile.

    Attributes:
        threshold_: float64.

    Defaults: the paper's 90 is that of a ResNet-50 on ImageNet, where its code clips at 1.0. For a
        DenseNet on CIFAR HIMPLoS clips at 1.6, the 98th percentile of our CIFAR-10 network's
        features: there 90 gives .782 (Tiny ImageNet) and 99 gives .913, see benchmarks/RESULTS.md.
        No rule that looks at ID data alone is known to us that finds both.

    Fails: at 90 on networks whose features are sparse, a DenseNet on CIFAR among them: the clip
        then cuts what tells classes apart. Use --preset, or --tune.

    Reference: Sun, Guo, Li, "ReAct: Out-of-distribution Detection With Rectified Activations",
        NeurIPS 2021, equation 1.
    """

    LEARNED = {"threshold_": 0}

    def __init__(self, percentile: float = 90.0, threshold: float = 0.0) -> None:
        self.percentile = percentile
        self.threshold = threshold

    def fit(self, features: Array, head_kernel: Array) -> Self:
        """Learns from training features (n, d)."""
        share = checks.within("percentile", self.percentile, 0.0, 100.0) / 100.0
        if self.threshold < 0.0:
            raise ValueError(f"`threshold` must be 0 or more. Received: {self.threshold}.")
        self.threshold_ = np.float64(self.threshold or checks.quantile(features, share))
        return self

    def shape(self, features: Array, head_kernel: Array, head_bias: Array) -> tuple:
        return np.minimum(features, self.threshold_), head_kernel, head_bias


class VRA(Learner):
    """Sets features below one quantile to zero, and clips them above another.

    Args:
        low_percentile, high_percentile: of the training features.
        per_feature: quantiles of each feature, as the authors' code takes them on CIFAR; False for
            one pair for all features, their ImageNet setting (there as constants).

    Attributes:
        low_, high_: float64 (d,), equal values unless `per_feature`.

    Defaults: those of the authors' code for CIFAR-10, 60 and 90; it has 60 and 95 for CIFAR-100.

    Fails: features that are mostly zero have a low quantile of zero, and nothing is cut. OpenOOD
        lifts what is below the low bound to that bound, another method under the same name.

    Reference: Xu et al., "VRA: Variational Rectified Activation for Out-of-distribution Detection",
        NeurIPS 2023, equation 9 (VRA-P).
    """

    LEARNED = {"low_": 1, "high_": 1}

    def __init__(
        self,
        low_percentile: float = 60.0,
        high_percentile: float = 90.0,
        per_feature: bool = True,
    ) -> None:
        self.low_percentile = low_percentile
        self.high_percentile = high_percentile
        self.per_feature = per_feature

    def fit(self, features: Array, head_kernel: Array) -> Self:
        """Learns from training features (n, d)."""
        low, high = (
            checks.within(name, getattr(self, name), 0.0, 100.0)
            for name in ("low_percentile", "high_percentile")
        )
        if low > high:
            raise ValueError(f"`low_percentile` {low} is above `high_percentile` {high}.")
        quantiles = checks.column_quantiles if self.per_feature else checks.quantile
        width = features.shape[1]
        self.low_, self.high_ = (
            np.broadcast_to(quantiles(features, share / 100.0), width).astype(np.float64)
            for share in (low, high)
        )
        return self

    def shape(self, features: Array, head_kernel: Array, head_bias: Array) -> tuple:
        kept = np.where(features < self.low_, 0.0, features)
        return np.minimum(kept, self.high_), head_kernel, head_bias


class RAS(Learner):
    """Gives the k-th smallest feature of an example the mean k-th smallest of training features:
    the order of the features stays, their sizes are those of the training data.

    Equal features keep the order of their positions.

    Attributes:
        profile_: float64 (d,), ascending.

    Defaults: none, it has no parameters.

    Fails: on sparse features, where the order among many zeros is arbitrary.

    Reference: Guglielmo, Masana, "Ranked Activation Shift for Post-Hoc Out-of-Distribution
        Detection", 2026 (arXiv 2604.08572). The authors' code does the same.
    """

    LEARNED = {"profile_": 1}

    def fit(self, features: Array, head_kernel: Array) -> Self:
        """Learns from training features (n, d)."""
        if not len(features):
            raise ValueError("A profile of no examples is not defined.")
        total = sum(
            np.sort(rows, axis=1).sum(axis=0) for _, rows in checks.chunks("features", features)
        )
        self.profile_ = total / len(features)
        return self

    def shape(self, features: Array, head_kernel: Array, head_bias: Array) -> tuple:
        shifted = np.empty_like(features)
        order = np.argsort(features, axis=1, kind="stable")
        np.put_along_axis(shifted, order, self.profile_[None, :], axis=1)
        return shifted, head_kernel, head_bias


class DICE(Learner):
    """Keeps only the head's weights with the largest mean contribution: V = mean feature * W, kept
    where V > the `percentile`-th percentile of the whole matrix.

    Args:
        percentile: share of the weights that go, in percent, below 100.

    Defaults: 90, the authors' demo for CIFAR-10 and CIFAR-100; it has 70 for a ResNet-50 on
        ImageNet.

    Fails: on heads whose weights all count, as of narrow networks.

    Attributes:
        mean_: float64 (d,), of the training features.

    Reference: Sun, Li, "DICE: Leveraging Sparsification for Out-of-Distribution Detection", ECCV
        2022, equation 3.
    """

    LEARNED = {"mean_": 1}

    def __init__(self, percentile: float = 90.0) -> None:
        self.percentile = percentile

    def fit(self, features: Array, head_kernel: Array) -> Self:
        """Learns from training features (n, d)."""
        self.mean_ = checks.column_means(features)
        return self

    def shape(self, features: Array, head_kernel: Array, head_bias: Array) -> tuple:
        checks.within("percentile", self.percentile, 0.0, 100.0, "[)")
        contribution = self.mean_[:, None] * head_kernel
        kept = contribution > np.percentile(contribution, self.percentile)
        return features, head_kernel * kept, head_bias


class Shaped(Learner):
    """A score of the logits that shaped features give: "react+energy".

    Shapers act in their order; each learns from training features as the shapers before it leave
    them, and from the head as it was: optfs behind dice predicts classes by the whole head.

    Args:
        shapers: {name: function of rows, or object that learns}.
        judge: function of logits, or object that learns from shaped logits.
        judge_needs: names of what `judge` learns from, of "logits" and "labels".
        judge_on: "training" or "held_out", the data that it learns from.
    """

    LEARNED = {"width_": 0}

    def __init__(self, shapers, judge, judge_needs=(), judge_on="training") -> None:
        self.shapers = shapers
        self.judge = judge
        self.judge_needs = judge_needs
        self.judge_on = judge_on

    def parts(self):
        """The shapers and the judge, as far as they learn."""
        named = self.shapers | {"judge": self.judge}
        return {name: part for name, part in named.items() if isinstance(part, Learner)}

    def fit(self, features: Array, head_kernel: Array, head_bias: Array) -> Self:
        """The shapers learn from training features (n, d) and the head."""
        features = checks.matrix("features", features, what="features")
        kernel, bias = checks.head(features, head_kernel, head_bias)
        self.width_ = np.int64(features.shape[1])
        for position, shaper in enumerate(self.shapers.values()):
            if hasattr(shaper, "fit"):
                before = list(self.shapers.values())[:position]
                shaped = _Lazily(features, before, kernel, bias)
                known = {"features": shaped, "head_kernel": kernel, "head_bias": bias}
                shaper.fit(**{name: known[name] for name in signature(shaper.fit).parameters})
        return self

    def fit_judge(
        self, features: Array, head_kernel: Array, head_bias: Array, labels: Array | None = None
    ) -> Self:
        """The judge learns from the shaped logits of its data, and labels (n,) if it needs them."""
        kernel, bias = checks.head(features, head_kernel, head_bias)
        logits = np.concatenate([
            _logits(self.shapers.values(), rows, kernel, bias)
            for _, rows in checks.chunks("features", features, beside=kernel.shape[1])
        ])  # fmt: skip
        arrays = {"logits": logits, "labels": labels}
        self.judge = copy.copy(self.judge).fit(*(arrays[name] for name in self.judge_needs))
        return self

    def score(self, features: Array, head_kernel: Array, head_bias: Array) -> Array:
        """float64 (n,)."""
        width = getattr(self, "width_", None)
        features = checks.matrix("features", features, width, "features")
        judge = getattr(self.judge, "score", self.judge)
        head = checks.head(features, head_kernel, head_bias)

        def score(_, rows):
            return judge(_logits(self.shapers.values(), rows, *head))

        return checks.each("features", features, score, beside=head[0].shape[1])


def _logits(shapers, features, kernel, bias):
    features, kernel, bias = _through(shapers, features, kernel, bias)
    return features @ kernel + bias


def _through(shapers, features, kernel, bias):
    for shaper in shapers:
        features, kernel, bias = getattr(shaper, "shape", shaper)(features, kernel, bias)
    return features, kernel, bias


class _Lazily:
    """Features as shapers leave them, made when rows are asked for, so that nothing is copied."""

    def __init__(self, features, shapers, kernel, bias):
        self.features, self.shapers, self.kernel, self.bias = features, shapers, kernel, bias
        self.shape, self.size = features.shape, features.size

    def __len__(self):
        return len(self.features)

    def __getitem__(self, rows):
        part = np.asarray(self.features[rows], np.float64)
        return _through(self.shapers, part, self.kernel, self.bias)[0]
