"""How the cost of trainings and scores grows, on one core and on two: tables of docs/scaling.md.

    python benchmarks/scaling.py                 # a quarter of an hour
    python benchmarks/scaling.py --only=pixels

Every row runs in a process of its own, which is bound to its cores; one core and two take
turns. Seconds are medians of rounds in that process. Linux alone.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

FLAGS = flags.FLAGS
ROUNDS, STEPS = 3, 3
PIXELCNN = {"side": 28, "num_filters": 32, "num_resnet": 2, "batch": 32}
CLASSIFIER = {"width": 16, "classes": 10, "batch": 64}
READS = {"units": 32, "length": 250, "batch": 32}
SCORES = {"examples": 10_000, "features": 128, "classes": 10}
# Table -> (what is measured, the base, the argument that changes, its values).
TABLES = {
    "pixels": ("pixelcnn_train", PIXELCNN, "side", (14, 28, 56)),
    "filters": ("pixelcnn_train", PIXELCNN, "num_filters", (16, 32, 64)),
    "images": ("pixelcnn_train", PIXELCNN, "batch", (8, 32, 128)),
    "classes": ("classifier_train", CLASSIFIER, "classes", (10, 100, 1000)),
    "bases of convolutions": ("conv_train", READS, "length", (125, 250, 500)),
    "bases of an LSTM": ("lstm_train", READS, "length", (125, 250, 500)),
    "energy": ("energy", SCORES, "examples", (10_000, 100_000, 1_000_000)),
    "mahalanobis": ("mahalanobis", SCORES, "classes", (10, 100, 1000)),
    "knn": ("knn", SCORES, "examples", (10_000, 20_000, 40_000)),
}


def stepper(model, inputs, targets=None):
    import keras

    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    return lambda: [model.train_on_batch(inputs, targets) for _ in range(STEPS)]


def pixelcnn_train(side, num_filters, num_resnet, batch):
    from images_ood.pixelcnn import PixelCNN

    shape = (side, side, 1)
    model = PixelCNN(
        shape, num_filters=num_filters, num_resnet=num_resnet, rescale_pixel_value=True
    )
    images = np.random.default_rng(0).integers(0, 256, (batch, *shape)).astype(np.float32)
    return stepper(model, images), STEPS


def classifier_train(width, classes, batch):
    from classifier_ood import models
    from classifier_ood.classifier_model import ClassifierModel

    rng = np.random.default_rng(0)
    model = ClassifierModel(
        models.build("convnet", (32, 32, 3), classes, {"width": width}), "crop_flip"
    )
    model.build((None, 32, 32, 3))
    images = rng.integers(0, 256, (batch, 32, 32, 3)).astype(np.uint8)
    return stepper(model, images, rng.integers(0, classes, batch)), STEPS


def reads_train(network, units, length, batch):
    from genomics_ood.density import ReadDensity

    bases = np.random.default_rng(0).integers(0, 4, (batch, length)).astype(np.uint8)
    return stepper(ReadDensity(network=network, units=units), bases), STEPS


def conv_train(**options):
    return reads_train("conv", **options)


def lstm_train(**options):
    return reads_train("lstm", **options)


def of_score(name, examples, features, classes):
    """Fitting on `examples` ID examples and scoring as many."""
    from ood_suite import scores

    rng = np.random.default_rng(0)
    labels = np.arange(examples) % classes
    found = rng.normal(size=(examples, features)).astype(np.float32)
    found[:, 0] += labels
    logits = found[:, :classes] if classes <= features else found
    if name == "energy":
        return lambda: scores.get("energy").fn(logits), 1
    learner = scores.get(name).fn
    arguments = (found, labels) if name == "mahalanobis" else (found,)
    return lambda: learner().fit(*arguments).score(found), 1


def measured(what, options):
    """Seconds of a step or a call; the median of rounds after one to warm up."""
    if what in ("energy", "mahalanobis", "knn"):
        function, count = of_score(what, **options)
    else:
        function, count = globals()[what](**options)
    function()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) / count)
    return statistics.median(times)


def on_cores(count, what, options):
    """The same in a process that is bound to so many cores."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    threads = dict.fromkeys(
        ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count)
    )
    done = subprocess.run(
        [sys.executable, __file__, f"--measure={json.dumps([what, options])}"],
        capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores),
        env=os.environ | threads | {"TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout)


def main(_):
    if FLAGS.measure:
        print(measured(*json.loads(FLAGS.measure)))
        return
    wrong = [name for name in FLAGS.only if name not in TABLES]
    if wrong:
        raise app.UsageError(f"Unknown table {wrong[0]!r}. Known: {', '.join(TABLES)}.")
    print("| what grows | value | 1 core, ms | 2 cores, ms | times the row before, 2 cores |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for title in FLAGS.only or TABLES:
        what, base, argument, values = TABLES[title]
        before = None
        for value in values:
            one, two = (1e3 * on_cores(n, what, base | {argument: value}) for n in (1, 2))
            growth = f"{two / before:.1f}" if before else ""
            row = f"| {title}: {argument} | {value} | {one:.1f} | {two:.1f} | {growth} |"
            print(row, flush=True)
            before = two


if __name__ == "__main__":
    flags.DEFINE_list("only", [], f"Tables: {', '.join(TABLES)}.")
    flags.DEFINE_string("measure", None, "For the processes that this one starts.")
    app.run(main)
