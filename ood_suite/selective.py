"""How much is wrong among what is accepted: risk against coverage, of a classifier's mistakes on ID
data alone and of mistakes and accepted OOD examples together.

A score is HIGHER = MORE OOD, so the lowest scores are accepted first. An error is an ID example
that is classified wrongly, or an OOD example, which no class of the classifier fits: each that is
accepted is a failure (selective classification with OOD, SCOD: Xia & Bouganis, ACCV 2022; Jaeger et
al., ICLR 2023). The AUROC asks whether OOD data are told apart; this asks what a user gets who
believes what is accepted.

Ties are one step: a point of the curve for each distinct score, straight lines between, so that the
order of the input changes nothing.

>>> found = curve([1.0, 2.0, 3.0], [False, True, False])
>>> found.risk.round(4)
array([0.    , 0.    , 0.5   , 0.3333])
>>> round(aurc(found), 4), round(augrc(found), 4)
(0.2222, 0.1667)
"""

from typing import NamedTuple

import numpy as np
from scipy.special import xlogy


class Curve(NamedTuple):
    """Risk against coverage, by rising coverage, from nothing accepted to everything.

    Attributes:
        coverage: float64 (k + 1,) share of the examples that is accepted, from 0 to 1.
        risk: float64 (k + 1,) share of errors among the accepted; at coverage 0 that of the first
            step. joint: float64 (k + 1,) share of all examples that are accepted and errors, the
            generalized risk.
    """

    coverage: np.ndarray
    risk: np.ndarray
    joint: np.ndarray


def curve(scores, errors, weights=None) -> Curve:
    """The Curve of accepting by rising score.

    Args:
        scores: (n,), higher = more OOD. errors: bool (n,), whether an example is a failure if it is
            accepted. weights: (n,) positive, what each example counts; default: the same.

    Raises:
        ValueError: no examples, another shape, NaN, or errors that are neither true nor false.
    """
    scores, errors, weights = _checked(scores, errors, weights)
    values, place = np.unique(scores, return_inverse=True)
    accepted = np.cumsum(np.bincount(place, weights, values.size))
    failed = np.cumsum(np.bincount(place, weights * errors, values.size))
    risk = failed / accepted
    return Curve(
        np.append(0.0, accepted / accepted[-1]),
        np.append(risk[0], risk),
        np.append(0.0, failed / accepted[-1]),
    )


def _checked(scores, errors, weights):
    scores, errors = np.asarray(scores), np.asarray(errors)
    weights = np.ones(scores.shape) if weights is None else np.asarray(weights, np.float64)
    for name, array in (("scores", scores), ("errors", errors), ("weights", weights)):
        if array.shape != (scores.size,):
            raise ValueError(
                f"`{name}` must have shape (n,), as the scores. Received: shape={array.shape} "
                f"beside scores of {scores.shape}."
            )
    if not scores.size:
        raise ValueError("`scores` is empty: a curve needs at least one example.")
    if np.isnan(scores).any():
        raise ValueError(f"`scores` has {int(np.isnan(scores).sum())} NaN.")
    if not np.isin(errors, (0, 1)).all():
        raise ValueError("`errors` must be true or false. Received: other numbers.")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError("`weights` must be positive and finite.")
    return scores, errors.astype(np.float64), weights


def scod(id_scores, ood_scores, correct) -> Curve:
    """The Curve of ID and OOD examples together, each class of them half of the weight, whatever
    their numbers; of equal numbers it is that of the plain mixture.

    Args:
        correct: bool (n_id,), whether the classifier is right.
    """
    id_scores, ood_scores = np.asarray(id_scores), np.asarray(ood_scores)
    if not id_scores.size or not ood_scores.size:
        raise ValueError("SCOD needs at least one ID and one OOD example.")
    parts = (id_scores, ood_scores)
    return curve(
        np.concatenate(parts),
        np.append(~np.asarray(correct, bool), np.ones(ood_scores.size, bool)),
        np.concatenate([np.full(part.size, 0.5 / part.size) for part in parts]),
    )


def aurc(found: Curve) -> float:
    """Area under the risk-coverage curve, in [0, 1], lower is better: the risk, averaged over all
    coverages.

    Trapezoids, as in FD-Shifts; without ties that is (1/n) sum_k risk_k, the first paper's sum,
    plus (risk_1 - risk_n) / (2 n). The first few accepted examples weigh most, which Traub et al.
    call a flaw: see `augrc`.

    Reference: Geifman, Uziel, El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural
        Classifiers", ICLR 2019, section 3; Jaeger et al., "A Call to Reflect on Evaluation
        Practices for Failure Detection in Image Classification", ICLR 2023.
    """
    return float(np.trapezoid(found.risk, found.coverage))


def excess_aurc(found: Curve) -> float:
    """AURC less that of the best ranking of as many errors, e + (1 - e) log(1 - e): the ranking's
    own part of it. Of few examples, or many ties, it can be slightly below 0.

    Reference: Geifman et al., ICLR 2019, section 3 (E-AURC; the optimum is that of large n).
    """
    error = found.joint[-1]
    return aurc(found) - float(error + xlogy(1.0 - error, 1.0 - error))


def augrc(found: Curve) -> float:
    """Area under the generalized risk-coverage curve, in [0, 0.5], lower is better: the share of
    examples that are accepted and errors, averaged over all coverages.

    It is (1 - AUROC_f) e (1 - e) + e^2 / 2 with the share of errors e and the AUROC_f of errors
    against the rest: ranking and accuracy in one number, in which every error counts alike.

    Reference: Traub et al., "Overcoming Common Flaws in the Evaluation of Selective Classification
        Systems", NeurIPS 2024, section 3.
    """
    return float(np.trapezoid(found.joint, found.coverage))


def evaluate(id_scores, ood_scores, correct) -> dict[str, float]:
    """The areas of a score: `aurc`, `excess_aurc`, `augrc` of the mistakes on ID data alone, and
    `scod_aurc`, `scod_augrc` with the OOD data.

    Args:
        id_scores: (n,). ood_scores: (m,). correct: bool (n,), whether the classifier is right.
    """
    alone = curve(id_scores, ~np.asarray(correct, bool))
    both = scod(id_scores, ood_scores, correct)
    return {
        "aurc": aurc(alone), "excess_aurc": excess_aurc(alone), "augrc": augrc(alone),
        "scod_aurc": aurc(both), "scod_augrc": augrc(both),
    }  # fmt: skip


COLUMNS = ("aurc", "excess_aurc", "augrc", "scod_aurc", "scod_augrc")
