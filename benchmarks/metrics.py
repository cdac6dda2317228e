"""AUROC, AUPR and FPR95 of ten million scores: one exact sort against scikit-learn's three calls.

python benchmarks/metrics.py --count=10000000
"""

import pathlib
import sys
import time

import numpy as np
from absl import app, flags
from sklearn import metrics as sklearn_metrics

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from ood_suite import metrics

FLAGS = flags.FLAGS


def ours(id_scores, ood_scores):
    found = metrics.evaluate(id_scores, ood_scores)
    return found["auroc"], found["aupr_out"], found["fpr95_ood_positive"]


def scikit_learn(id_scores, ood_scores):
    is_ood = np.concatenate([np.zeros(len(id_scores), bool), np.ones(len(ood_scores), bool)])
    scores = np.concatenate([id_scores, ood_scores])
    rejected, caught, _ = sklearn_metrics.roc_curve(is_ood, scores)
    return (
        sklearn_metrics.roc_auc_score(is_ood, scores),
        sklearn_metrics.average_precision_score(is_ood, scores),
        rejected[np.argmax(caught >= 0.95)],
    )


def main(_):
    rng = np.random.default_rng(0)
    half = FLAGS.count // 2
    for dtype in (np.float64, np.float32):
        pair = rng.normal(0, 1, half).astype(dtype), rng.normal(1.5, 1, half).astype(dtype)
        seconds, results = {}, {}
        for _ in range(FLAGS.rounds):
            for function in (ours, scikit_learn):
                start = time.perf_counter()
                results[function.__name__] = function(*pair)
                seconds.setdefault(function.__name__, []).append(time.perf_counter() - start)
        median = {name: np.median(values) for name, values in seconds.items()}
        difference = np.abs(np.subtract(results["ours"], results["scikit_learn"])).max()
        print(
            f"{np.dtype(dtype)}, {FLAGS.count} scores: all six metrics {median['ours']:.2f} s, "
            f"scikit-learn's three {median['scikit_learn']:.2f} s, "
            f"ratio {median['scikit_learn'] / median['ours']:.2f}, "
            f"largest difference {difference:.1e}"
        )


if __name__ == "__main__":
    flags.DEFINE_integer("count", 10_000_000, "Scores in all, half ID and half OOD.")
    flags.DEFINE_integer("rounds", 3, "Rounds; the median counts.")
    app.run(main)
