"""What a decision costs beside its network: latency of single calls, images/s of batches.

    python benchmarks/serving.py

Each detector and the bare network, compiled by tf.function as anybody would, take turns, call by
call, so that whatever else the machine does hits both. Overheads are medians of the paired
differences over the network's median.
Writes benchmarks/serving.json; about two minutes on two cores.
"""

import json
import pathlib
import sys
import time

import machine
import numpy as np
import tensorflow as tf
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from classifier_ood import models  # noqa: E402
from classifier_ood.keras_classifier import KerasClassifier  # noqa: E402
from ood_suite import Detector, Outputs  # noqa: E402
from ood_suite.serving.pixel_detector import PixelDetector  # noqa: E402

FLAGS = flags.FLAGS
SCORES = ("energy", "react+energy", "vim", "mahalanobis", "knn", "energy&vim&knn&mahalanobis")
NETWORKS = {  # name -> (backbone, image shape, options)
    "convnet, 28x28 grey": ("convnet", (28, 28, 1), {}),
    "DenseNet-BC-100-12, 32x32": ("densenet", (32, 32, 3), {}),
}
TRAINING, HELD_OUT, CLASSES = 5000, 1000, 10


def detectors(classifier, shape):
    """{score: PixelDetector} fitted to noise: what is learned has the usual sizes."""
    rng = np.random.default_rng(0)
    parts = []
    for count in (HELD_OUT, TRAINING):
        images = rng.integers(0, 256, (64, *shape)).astype(np.uint8)
        found = classifier.outputs(images)
        rows = rng.integers(0, 64, count)
        features = found.features[rows] + rng.normal(0, 1.0, (count, found.features.shape[1]))
        features = features.astype(np.float32)
        kernel, bias = classifier.head["head_kernel"], classifier.head["head_bias"]
        parts.append(Outputs(labels=np.arange(count) % CLASSES, features=features,
                             logits=features @ kernel + bias, **classifier.head))  # fmt: skip
    held_out, training = parts
    return {
        name: PixelDetector(classifier.network, classifier.head,
                            Detector(name).fit(held_out, training))
        for name in SCORES
    }  # fmt: skip


def measured(function, bare, pixels, calls):
    """{milliseconds of the network and of the decision: median, p99; overhead}."""
    as_float = pixels.astype(np.float32)
    times = np.empty((calls, 2))
    for call in range(-5, calls):
        start = time.perf_counter()
        bare(as_float)
        middle = time.perf_counter()
        function(pixels)
        if call >= 0:
            times[call] = middle - start, time.perf_counter() - middle
    network, decision = np.median(times, axis=0)
    return {
        "network_ms": 1e3 * network, "decision_ms": 1e3 * decision,
        "decision_p99_ms": 1e3 * float(np.quantile(times[:, 1], 0.99)),
        "overhead": float(np.median(times[:, 1] - times[:, 0]) / network),
        "images_per_s": len(pixels) / decision,
    }  # fmt: skip


def query_of_large_bank(calls):
    """Milliseconds of one knn query over 50,000 x 512."""
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(50_000, 512)).astype(np.float32)
    detector = Detector("knn").fit(Outputs(features=bank[:100] + 0.1), Outputs(features=bank))
    query = Outputs(features=bank[:1] + 1)
    times = []
    for call in range(-3, calls):
        start = time.perf_counter()
        detector.score(query)
        times += [time.perf_counter() - start] if call >= 0 else []
    return 1e3 * float(np.median(times))


def main(_):
    found = {"machine": machine.mark(), "rows": []}
    for title, (backbone, shape, options) in NETWORKS.items():
        network = models.build(backbone, shape, CLASSES, **options)
        classifier = KerasClassifier(network)
        compiled = tf.function(
            lambda batch, network=network: network(batch, training=False), reduce_retracing=True
        )

        def bare(batch, compiled=compiled):
            return compiled(batch)["logits"].numpy()

        for name, detector in detectors(classifier, shape).items():
            for batch in (1, 64):
                pixels = np.random.default_rng(1).integers(0, 256, (batch, *shape)).astype(np.uint8)
                calls = max(10, FLAGS.calls // batch)
                row = {"network": title, "score": name, "batch": batch}
                row |= measured(detector, bare, pixels, calls)
                found["rows"].append(row)
                print(f"{title:28}{name:30}{batch:4} {row['network_ms']:9.3f} ms "
                      f"{row['decision_ms']:9.3f} ms, p99 {row['decision_p99_ms']:9.3f} ms "
                      f"{row['overhead']:+7.1%}", flush=True)  # fmt: skip
    found["knn_50000x512_ms"] = query_of_large_bank(50)
    print(f"knn over 50,000 x 512: {found['knn_50000x512_ms']:.2f} ms a query")
    path = ROOT / "benchmarks" / "serving.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_integer("calls", 400, "Calls at batch 1; fewer of larger batches.")
    app.run(main)
