"""Several scores as one: "energy&vim&knn&mahalanobis"."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ood_suite.conformal import not_below
from ood_suite.scores.learner import Array, Learner


class Fused(Learner):
    """-2 sum_j log p_j: Fisher's sum of the conformal p-values of several scores.

    p_j(x) = (1 + number of held-out ID examples with a score s_j of at least s_j(x)) / (m + 1)

    of m held-out examples. A p-value has no unit, so that scores need no scaling. The sum is
    chi-squared with 2 J degrees of freedom only for independent scores, which these are not: the
    threshold comes from the sums of held-out examples, each against the others.

    Args:
        members: {name: function of arrays, or object that learns from training data}.
        member_needs: {name: fields that its `score` takes}.
        member_fits: {name: fields that its `fit` takes}, of those that learn.
        needs, fit_needs: the fields that `score` and `fit` take, in order.

    Attributes:
        ranked_: float64 (J, m), each member's scores of the held-out examples, ascending.
        unseen_: float64 (m,), the fused score of each held-out example against the others.

    Defaults: those of the members; their parameters are called "knn.k". The four names are ours, a
        score of each kind: logits, subspace, neighbours, class means.

    Fails: beyond the last held-out example p is 1 / (m + 1) whatever the score, so that few of them
        make ties; and one member that fails on a data set costs the others' power.

    Reference: Fisher, "Statistical Methods for Research Workers", 1932, section 21.1; Bates et al.,
        "Testing for Outliers with Conformal p-values", Annals of Statistics 2023, equation 3.
    """

    LEARNED = {"ranked_": 2}

    def __init__(
        self,
        members: Mapping[str, Any],
        member_needs: Mapping[str, tuple],
        member_fits: Mapping[str, tuple],
        needs: tuple,
        fit_needs: tuple,
    ) -> None:
        self.members = members
        self.member_needs = member_needs
        self.member_fits = member_fits
        self.needs = needs
        self.fit_needs = fit_needs

    def parts(self):
        """The members that learn."""
        return {name: self.members[name] for name in self.member_fits}

    def fit(self, *arrays: Array) -> Self:
        """Members learn from the training arrays `fit_needs`."""
        given = dict(zip(self.fit_needs, arrays, strict=bool(self.fit_needs)))
        for name, fields in self.member_fits.items():
            member, own = self.members[name], [given[field] for field in fields]
            member.fit(*own)
            if getattr(member, "judge_needs", ()):  # of shapers and a judge that learns, see Shaped
                member.fit_judge(*own, given.get("labels"))
        return self

    def set_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """As of every learner; files of version 0.2 have the spaces of "energy & knn" in names."""
        plain = ("/".join(map(str.strip, name.split("/"))) for name in arrays)
        return super().set_arrays(dict(zip(plain, arrays.values(), strict=True)))

    def fit_held_out(self, *arrays: Array) -> Self:
        """Learns the members' scores of held-out ID examples, from the arrays `needs`."""
        values = self._member_scores(arrays)
        count = values.shape[1]
        if not count:
            raise ValueError("Scores cannot be fused on no held-out examples.")
        self.ranked_ = np.sort(values, axis=1)
        above = np.stack([not_below(*pair) for pair in zip(self.ranked_, values, strict=True)])
        self.unseen_ = -2.0 * np.log(above / count).sum(axis=0)  # itself is the 1 of 1 + number
        return self

    def _member_scores(self, arrays):
        """float64 (J, n)."""
        given = dict(zip(self.needs, arrays, strict=True))
        rows = [
            getattr(member, "score", member)(*(given[field] for field in self.member_needs[name]))
            for name, member in self.members.items()
        ]
        return np.stack(rows)

    def score(self, *arrays: Array) -> Array:
        """float64 (n,), in [0, 2 J log(m + 1)]."""
        pairs = zip(self.ranked_, self._member_scores(arrays), strict=True)
        above = np.stack([not_below(ranked, values) for ranked, values in pairs])
        p_values = (1.0 + above) / (1.0 + self.ranked_.shape[1])
        return -2.0 * np.log(p_values).sum(axis=0)
