"""PixelCNN++ against tfp.distributions.PixelCNN of the same configuration, in one run.

    python benchmarks/pixelcnn.py                # 28x28x1, num_resnet 5, num_filters 32
    python benchmarks/pixelcnn.py --num_resnet=2 --num_filters=16
    python benchmarks/pixelcnn.py --parts        # what a training step's time is made of

Measures training and scoring in images/s (median over rounds in which the contestants take turns),
start-up seconds, peak memory of a process of its own for each, and the share of the machine's
measured matrix-multiply rate.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from unittest import mock

import machine
import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

FLAGS = flags.FLAGS

CONTESTANTS = ("tfp", "float32", "mixed_bfloat16")
SHAPE = (28, 28, 1)


def make(name):
    """(train(images), score(images)) of one contestant, both taking one batch."""
    import keras
    import tensorflow as tf

    if name == "tfp":
        import tensorflow_probability as tfp
        import tf_keras

        distribution = tfp.distributions.PixelCNN(
            SHAPE, num_resnet=FLAGS.num_resnet, num_hierarchies=1, num_filters=FLAGS.num_filters,
            num_logistic_mix=1, dropout_p=0.0, use_weight_norm=False,
        )  # fmt: skip
        image = tf_keras.layers.Input(SHAPE)
        model = tf_keras.Model(image, distribution.log_prob(image, training=False))
        model.add_loss(-tf.reduce_mean(model.output))
        model.compile(tf_keras.optimizers.Adam(1e-3))
        score = tf.function(lambda images: distribution.log_prob(images, training=False))
        return model.train_on_batch, score

    from images_ood.pixelcnn import PixelCNN

    ours = PixelCNN(
        SHAPE, num_resnet=FLAGS.num_resnet, num_filters=FLAGS.num_filters,
        rescale_pixel_value=True, seed=0, dtype=name,
    )  # fmt: skip
    ours.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    return ours.train_on_batch, tf.function(lambda images: ours(images, training=False))


def gflop_per_image():
    """Multiply-adds times two of one forward pass of our network: valid kernel cells only."""
    import keras

    from images_ood.pixelcnn import PixelCNN

    model = PixelCNN(SHAPE, num_resnet=FLAGS.num_resnet, num_filters=FLAGS.num_filters, seed=0)
    layers = [v for v in model.network._flatten_layers() if isinstance(v, keras.layers.Conv2D)]
    cells = sum(np.prod(layer.kernel.shape) for layer in layers)
    return 2e-9 * float(cells) * SHAPE[0] * SHAPE[1]


def matrix_rate(dtype):
    """GFLOP/s of a 2048 x 2048 matrix product, the best of five."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal((2048, 2048), seed=1), dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        tf.matmul(a, a).numpy()
        times.append(time.perf_counter() - start)
    return 2e-9 * 2048**3 / min(times[1:])


def measure_alone():
    """Start-up (import, build, first training step) and peak memory of this process, as JSON."""
    start = time.perf_counter()
    train, _ = make(FLAGS.only)
    images = np.zeros((FLAGS.batch_size, *SHAPE), np.float32)
    train(images)
    seconds = time.perf_counter() - start
    for _ in range(3):
        train(images)
    peak = machine.peak_mib(resource.getrusage(resource.RUSAGE_SELF))
    print(json.dumps({"startup_seconds": seconds, "peak_mib": peak}))


def alone(name):
    """What `measure_alone` says in a fresh process."""
    arguments = [
        f"--{flag}={FLAGS[flag].value}" for flag in ("num_resnet", "num_filters", "batch_size")
    ]
    output = subprocess.run(
        [sys.executable, __file__, f"--only={name}", *arguments],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return json.loads(output.splitlines()[-1])


def parts():
    """{what is left out: seconds of a training step without it}, "nothing" being the whole step."""
    import keras
    from keras import ops

    from images_ood import logistic_mixture, pixelcnn

    def training(optimizer=True):
        model = pixelcnn.PixelCNN(
            SHAPE, num_resnet=FLAGS.num_resnet, num_filters=FLAGS.num_filters,
            rescale_pixel_value=True, seed=0,
        )  # fmt: skip
        step = keras.optimizers.Adam(1e-3) if optimizer else keras.optimizers.SGD(0.0)
        model.compile(optimizer=step, jit_compile=False)
        return model.train_on_batch

    def doubled(x):
        return ops.concatenate([x, x], axis=-1)

    def half(y):
        return ops.split(y, 2, axis=-1)[0]

    def first_parameter(parameters, _):
        return parameters.locations[..., 0, 0]

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (FLAGS.batch_size, *SHAPE)).astype(np.float32)
    made = {"nothing": training(), "Adam": training(optimizer=False)}
    for what, module, name, other in (
        ("the elu of concat_elu", pixelcnn, "concat_elu", doubled),
        ("the gates", pixelcnn, "gated", half),
        ("the mixture's log-probability", logistic_mixture, "log_prob_map", first_parameter),
    ):
        with mock.patch.object(module, name, other):
            made[what] = training()
            made[what](images)  # traced while it is patched
    seconds = {what: [] for what in made}
    for warm_up_or_round in range(FLAGS.rounds + 1):
        for what, train in made.items():
            start = time.perf_counter()
            for _ in range(FLAGS.steps):
                train(images)
            if warm_up_or_round:
                seconds[what].append((time.perf_counter() - start) / FLAGS.steps)
    return {what: float(np.median(values)) for what, values in seconds.items()}


def show_parts():
    found, whole = parts(), None
    arithmetic = 3 * FLAGS.batch_size * gflop_per_image() / matrix_rate("float32")
    print("| a training step without | s | share of the step |\n|---|---|---|")
    for what, seconds in found.items():
        whole = whole or seconds
        print(f"| {what} | {seconds:.3f} | {1 - seconds / whole:.0%} |")
    print(f"| all but the products, at the matrix rate | {arithmetic:.3f} | "
          f"{1 - arithmetic / whole:.0%} |")  # fmt: skip


def main(_):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if FLAGS.only:
        measure_alone()
        return
    if FLAGS.parts:
        show_parts()
        return
    processes = {name: alone(name) for name in CONTESTANTS}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (FLAGS.batch_size, *SHAPE)).astype(np.float32)
    contestants = {name: make(name) for name in CONTESTANTS}
    rates = {(name, work): [] for name in CONTESTANTS for work in ("train", "score")}
    for warm_up_or_round in range(FLAGS.rounds + 1):
        for name, functions in contestants.items():
            for work, function in zip(("train", "score"), functions, strict=True):
                start = time.perf_counter()
                for _ in range(FLAGS.steps):
                    np.asarray(function(images))
                rate = FLAGS.steps * FLAGS.batch_size / (time.perf_counter() - start)
                if warm_up_or_round:
                    rates[name, work].append(rate)
    medians = {key: float(np.median(values)) for key, values in rates.items()}
    work_per_image = gflop_per_image()
    peak = {"float32": matrix_rate("float32"), "mixed_bfloat16": matrix_rate("bfloat16")}
    peak["tfp"] = peak["float32"]
    print(
        f"num_resnet {FLAGS.num_resnet}, num_filters {FLAGS.num_filters}, "
        f"batch {FLAGS.batch_size}, {os.cpu_count()} cores; "
        f"{work_per_image:.2f} GFLOP an image forward; matrix product "
        f"{peak['float32']:.0f} GFLOP/s float32, {peak['mixed_bfloat16']:.0f} bfloat16"
    )
    print(
        "| | train images/s | ratio | score images/s | ratio | share of matrix rate "
        "(train, score) | start-up s | peak MiB |\n|---|---|---|---|---|---|---|---|"
    )
    for name in CONTESTANTS:
        train, score = medians[name, "train"], medians[name, "score"]
        shares = 3 * work_per_image * train / peak[name], work_per_image * score / peak[name]
        print(
            f"| {name} | {train:.1f} | {train / medians['tfp', 'train']:.2f} | {score:.1f} | "
            f"{score / medians['tfp', 'score']:.2f} | {shares[0]:.0%}, {shares[1]:.0%} | "
            f"{processes[name]['startup_seconds']:.1f} | {processes[name]['peak_mib']:.0f} |"
        )


if __name__ == "__main__":
    flags.DEFINE_integer("num_resnet", 5, "Residual layers.")
    flags.DEFINE_integer("num_filters", 32, "Filters.")
    flags.DEFINE_integer("batch_size", 32, "Images per step.")
    flags.DEFINE_integer("rounds", 5, "Rounds; the median counts.")
    flags.DEFINE_integer("steps", 4, "Training steps, and scoring steps, per round.")
    flags.DEFINE_bool("parts", False, "What a training step's time is made of.")
    flags.DEFINE_string(
        "only", "", "Measure start-up and memory of one contestant (used internally)."
    )
    app.run(main)
