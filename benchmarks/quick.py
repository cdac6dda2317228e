"""Ratios of speed against what is installed anyway, in half a minute, beside those on record.

    make bench                              # or: python benchmarks/quick.py
    python benchmarks/quick.py --record     # writes them to benchmarks/quick.json

Both sides take turns in one process; a ratio is the other's median time over ours (of a decision:
the bare network's over ours). Ratios depend on the processor, so that each machine has a record of
its own; one without is told how to make it. A ratio below 0.7 of the one on record is named, and
the command ends with 1: run it again on an idle machine before you believe it.
"""

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from scipy.special import log_softmax, logsumexp, softmax  # noqa: E402
from sklearn.covariance import EmpiricalCovariance  # noqa: E402
from sklearn.neighbors import NearestNeighbors  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import machine  # noqa: E402
import metrics as metrics_benchmark  # noqa: E402
import pixelcnn  # noqa: E402
import scores as scores_benchmark  # noqa: E402

from ood_suite import scores  # noqa: E402

RECORD = ROOT / "benchmarks" / "quick.json"
LEAST = 0.7  # of the ratio on record


def turns(ours, theirs, rounds):
    """The median time of theirs over that of ours."""
    seconds = np.empty((rounds, 2))
    for turn in range(-1, rounds):  # the first warms up
        for side, function in enumerate((ours, theirs)):
            start = time.perf_counter()
            function()
            if turn >= 0:
                seconds[turn, side] = time.perf_counter() - start
    own, others = np.median(seconds, axis=0)
    return float(others / own)


def of_scores():
    """Against SciPy's and scikit-learn's functions for the same numbers, or their largest part."""
    a = scores_benchmark.arrays()
    z, train, test = a["test_logits"].astype(np.float64), a["train"][:10_000], a["test"][:2000]
    knn = scores.get("knn").make().fit(train)
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    neighbours = NearestNeighbors(n_neighbors=50, algorithm="brute").fit(unit)
    labels = a["train_labels"][:10_000]

    def covariance():
        centred = train - np.stack([train[labels == c].mean(axis=0) for c in range(10)])[labels]
        EmpiricalCovariance(assume_centered=True).fit(centred)

    def mahalanobis():
        scores.get("mahalanobis").make().fit(train, labels)

    made = {name: scores.get(name).make() for name in ("energy", "msp", "entropy")}
    return {
        "energy, logsumexp of SciPy": (lambda: made["energy"](z), lambda: logsumexp(z, axis=1), 21),
        "msp, softmax of SciPy": (lambda: made["msp"](z), lambda: softmax(z, axis=1), 21),
        "entropy, log_softmax of SciPy": (
            lambda: made["entropy"](z), lambda: log_softmax(z, axis=1), 21
        ),
        "knn, scikit-learn's brute force": (
            lambda: knn.score(test), lambda: neighbours.kneighbors(test), 3
        ),
        "mahalanobis fit, scikit-learn's covariance": (mahalanobis, covariance, 5),
    }  # fmt: skip


def of_metrics():
    """Six metrics of two million scores against three calls of scikit-learn."""
    rng = np.random.default_rng(0)
    pair = rng.normal(0, 1, 10**6), rng.normal(1.5, 1, 10**6)
    both = metrics_benchmark.ours, metrics_benchmark.scikit_learn
    return {"metrics, scikit-learn": (*((lambda f=f: f(*pair)) for f in both), 3)}


def of_density():
    """A training step and a scoring step of a small PixelCNN++ against TFP's."""
    for name, value in (("num_resnet", 2), ("num_filters", 16)):  # which its command line has
        flags.DEFINE_integer(name, value, "Of the network.")
    flags.FLAGS(["quick"])
    images = np.random.default_rng(0).integers(0, 256, (32, 28, 28, 1)).astype(np.float32)
    made = pixelcnn.make("float32"), pixelcnn.make("tfp")
    return {
        f"PixelCNN++ {work}, TFP": (
            *((lambda f=functions[i]: np.asarray(f(images))) for functions in made), 7
        )
        for i, work in enumerate(("train", "score"))
    }  # fmt: skip


def of_decision():
    """A decision on one image against the bare compiled network."""
    import serving
    import tensorflow as tf

    from classifier_ood import models
    from classifier_ood.keras_classifier import KerasClassifier

    serving.SCORES = ("vim",)
    classifier = KerasClassifier(models.build("convnet", (28, 28, 1), 10))
    detector = serving.detectors(classifier, (28, 28, 1))["vim"]
    network = tf.function(lambda x: classifier.network(x, training=False))
    image = np.zeros((1, 28, 28, 1), np.uint8)
    as_float = tf.constant(image.astype(np.float32))
    return {
        "decision by vim, bare network": (lambda: detector(image), lambda: network(as_float), 200)
    }


def compared(known):
    """({name: ratio}, names below LEAST of the ratios that are known); prints a line for each."""
    found, slower = {}, []
    print(f"{'ours, theirs':46} {'ratio':>7} {'on record':>10}")
    for group in (of_scores, of_metrics, of_decision, of_density):
        for name, job in group().items():
            found[name] = turns(*job)
            before = known.get(name)
            print(
                f"{name:46} {found[name]:7.2f} {f'{before:.2f}' if before else '':>10}", flush=True
            )
            slower += [name] if before and found[name] < LEAST * before else []
    return found, slower


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true", help="write the ratios down")
    options = parser.parse_args()
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    here = machine.mark()
    found, slower = compared(records.get(here, {}))
    if options.record:
        text = json.dumps(records | {here: found}, indent=1)
        RECORD.write_text(text + "\n", encoding="utf-8")
    elif here not in records:
        print(
            f"Nothing is on record of this machine ({here}). Before a change: `python "
            "benchmarks/quick.py --record`; after it this command compares."
        )
    elif slower:
        sys.exit(f"Below {LEAST} of the record: {'; '.join(slower)}.")


if __name__ == "__main__":
    main()
