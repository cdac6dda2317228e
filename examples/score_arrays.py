"""Arrays in, a decision out: no model, no framework.

python examples/score_arrays.py
"""

import numpy as np

from ood_suite import Detector, Outputs, intervals, metrics


def outputs(rng, count, shift):
    """A made-up classifier of five classes, as arrays: features, head, logits, labels."""
    head = np.random.default_rng(0).normal(size=(16, 5))
    labels = rng.integers(0, 5, count)
    features = np.maximum(head.T[labels] * shift + rng.normal(0, 0.7, (count, 16)), 0)
    return Outputs(
        labels=labels, features=features, head_kernel=head, head_bias=np.zeros(5),
        logits=features @ head,
    )  # fmt: skip


rng = np.random.default_rng(1)
training, held_out, new = (outputs(rng, count, 1.0) for count in (2000, 500, 500))
strange = outputs(rng, 500, 0.3)

for name in ("msp", "energy", "react+energy", "mahalanobis", "vim", "knn"):
    detector = Detector(name, acceptance=0.95).fit(held_out, training)
    pair = detector.score(new), detector.score(strange)
    low, high = intervals.auroc_interval(*pair)
    found = metrics.evaluate(*pair)
    print(
        f"{name:<14} AUROC {found['auroc']:.3f} [{low:.3f}, {high:.3f}]  flags "
        f"{detector.is_ood(new).mean():.1%} of new data, {detector.is_ood(strange).mean():.1%} of "
        "strange data"
    )
