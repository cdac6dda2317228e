"""The score of an ensemble of leave-out classifiers, from the logits of its members."""

from collections.abc import Mapping

import numpy as np
from scipy.special import log_softmax

from ood_suite.scores import checks
from ood_suite.scores.gradients import odin_key
from ood_suite.scores.learner import Array

RULES = ("cross_entropy", "entropy")
TERMS = ("both", "confidence", "entropy")


def member_key(member, temperature, epsilon, rule="entropy"):
    """Name of the array in Outputs.member_logits; without a perturbation that of the plain logits.

    >>> member_key(2, 1000.0, 0.002), member_key(2, 1000.0, 0.0)
    ('2,entropy,T=1000,epsilon=0.002', '2')
    """
    if not epsilon:
        return f"{member}"
    return f"{member},{rule},{odin_key(temperature, epsilon)}"


def check_step(temperature, epsilon):
    """ValueError unless T is positive and epsilon 0 or more, both finite."""
    checks.above("temperature", temperature, 0.0)
    if not (0.0 <= epsilon < float("inf") and temperature < float("inf")):
        raise ValueError(
            "`epsilon` must be 0 or more, and both finite. Received: "
            f"temperature={temperature}, epsilon={epsilon}."
        )


def count_members(member_logits):
    """How many members a mapping speaks of; ValueError unless they are 0..K - 1."""
    if not isinstance(member_logits, dict) or not member_logits:
        raise ValueError(
            "`member_logits` must be a mapping with an array per member. Received: "
            f"{type(member_logits).__name__}."
        )
    numbers = sorted({int(key.partition(",")[0]) for key in member_logits})
    if numbers != list(range(len(numbers))):
        raise ValueError(f"Members are missing: there are only {numbers}.")
    return len(numbers)


def leave_out(
    member_logits: Mapping[str, Array],
    temperature: float = 1000.0,
    epsilon: float = 0.002,
    rule: str = "entropy",
    terms: str = "both",
    members: int = 0,
) -> Array:
    """sum_k [ H(p_k) - max_c p_k,c ], p_k = softmax(z_k(x') / T) over the classes of member k.

    x' = x - epsilon * sign(gradient of H(p_k)) in each member, or of the cross entropy to the arg
    max. In float64: at T = 1000 and 8 classes the maximum varies by 2e-4 and the entropy by 2e-6
    only, and float32 leaves a third of the values distinct.

    Args:
        member_logits: {member_key: (n, classes of the member)}.
        temperature: T > 0. epsilon: in pixels / 255. rule: "entropy", the paper's, or
            "cross_entropy", ODIN's.
        terms: "both", or only "confidence" (-max) or "entropy".
        members: only the first so many; 0 for all.

    Defaults: 1000 and 0.002, those of a public port for CIFAR-10 and a DenseNet; the paper chooses
        both on validation data.

    Fails: where OOD data look like a class that most members know; and with few members, or classes
        that are so much alike that a member takes left-out ones for its own.

    Reference: Vyas et al., "Out-of-Distribution Detection Using an Ensemble of Self Supervised
        Leave-out Classifiers", ECCV 2018, section 3.3.

    >>> leave_out({"0": [[0.0, 0.0]], "1": [[np.log(3), 0.0]]}, 1.0, 0.0).round(4)
    array([0.0055])
    """
    check_step(temperature, epsilon)
    for name, value, known in (("rule", rule, RULES), ("terms", terms, TERMS)):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}. Received: {value!r}.")
    count = count_members(member_logits)
    if not 0 <= members <= count:
        raise ValueError(f"`members` must lie in 0..{count}. Received: {members}.")
    total = np.zeros(1)
    for member in range(members or count):
        key = member_key(member, temperature, epsilon, rule)
        if key not in member_logits:
            raise ValueError(
                f"leave_out needs `member_logits` of {key}. Received: {sorted(member_logits)}."
            )
        logits = checks.logits_matrix(member_logits[key])
        log_p = log_softmax(logits / temperature, axis=1)
        if terms != "entropy":
            total = total - np.exp(log_p.max(axis=1))
        if terms != "confidence":
            total = total - (np.exp(log_p) * log_p).sum(axis=1)
    return total


def leave_out_odin(
    member_logits: Mapping[str, Array], temperature: float = 1000.0, epsilon: float = 0.002
) -> Array:
    """leave_out at inputs that ODIN's rule moved: against the gradient of the cross entropy to each
    member's arg max.

    Defaults: as of leave_out.

    Fails: as leave_out, and as odin does where the gradient is noise.

    Reference: as leave_out; the rule is that of a public port of it, and of Liang et al., ICLR
        2018.

    >>> leave_out_odin({"0": [[0.0, 0.0]]}, 1.0, 0.0).round(4)
    array([0.1931])
    """
    return leave_out(member_logits, temperature, epsilon, rule="cross_entropy")


def ensemble_logits(member_logits, kept):
    """log of the mean over members of their softmax at T = 1, with 0 for what a member left out.

    The arg max is the ensemble's label, and the maximum its softmax score.

    Args:
        member_logits: list of (n, c_m). kept: the classes of each member's columns, together all
            classes.

    Returns:
        float64 (n, classes).
    """
    classes = len({c for own in kept for c in own})
    total = np.zeros((len(member_logits[0]), classes))
    for logits, own in zip(member_logits, kept, strict=True):
        total[:, list(own)] += np.exp(log_softmax(checks.logits_matrix(logits), axis=1))
    return np.log(np.maximum(total / len(kept), np.finfo(np.float64).tiny))
