"""Trainings and scorings on an accelerator: how fast, and what share of the card they use.

    KERAS_BACKEND=jax python benchmarks/gpu.py                    # a GPU; --only=NAME for a part
    KERAS_BACKEND=jax python benchmarks/gpu.py --toy              # any machine: does it run?

Needs keras, its backend and the sources around this file, nothing else of ours. Prints one row of a
table per measurement and writes them to --out as JSON. "share" is the share of the rate that one
large matrix multiplication of the same dtype reaches on the device; floating point operations are
those of XLA's count of the forward pass, times three in training (JAX only). "host" batches are cut
from an array in memory as a training does it, "device" ones are there already: the difference is
the input feed. The pair trains foreground and background side by side in one program.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402

from classifier_ood import models  # noqa: E402
from classifier_ood.classifier_model import ClassifierModel, CoupledSGD  # noqa: E402
from genomics_ood.density import ReadDensity  # noqa: E402
from images_ood.pixelcnn import PixelCNN  # noqa: E402
from ood_suite.training import input_gradients  # noqa: E402

ROUNDS = 3
DTYPES = ("float32", "mixed_bfloat16")


@dataclasses.dataclass
class Case:
    """What is measured.

    Attributes:
        make: function(dtype) -> keras.Model. optimizer: function() -> its optimiser.
        inputs: function(count) -> examples. classes: of their labels, or None.
        sizes: of batches, the paper's first.
        forward_flops: of one example, where XLA cannot count them (loops); else None.
    """

    make: Callable
    optimizer: Callable
    inputs: Callable
    classes: int | None
    sizes: tuple
    forward_flops: float | None = None


@keras.saving.register_keras_serializable("ood_suite_benchmarks")
class Pair(keras.Model):
    """A foreground and a background density in one program; the sum of their losses."""

    def __init__(self, foreground, background, **kwargs):
        super().__init__(**kwargs)
        self.parts = [foreground, background]
        self.built = True

    def call(self, images, training=False):
        return [part(images, training=training) for part in self.parts]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        pairs = zip(self.parts, y_pred, strict=True)
        return sum(part.compute_loss(y_pred=one, training=training) for part, one in pairs)


def cases(toy):
    """{name: Case}: the papers' configurations, or toys of the same kind."""
    rng = np.random.default_rng(0)

    def pixels(*shape):
        return lambda count: rng.integers(0, 256, (count, *shape)).astype(np.uint8)

    def bases(length):
        return lambda count: rng.integers(0, 4, (count, length)).astype(np.uint8)

    def density(shape, **options):
        small = {"num_filters": 4, "num_resnet": 1} if toy else {}
        options = {"num_logistic_mix": 1} | options | small
        return lambda dtype: PixelCNN(shape, dtype=dtype, **options)

    def classifier(name, options):
        def make(dtype):
            keras.config.set_dtype_policy(dtype)
            backbone = models.build(name, (32, 32, 3), 10, options)
            model = ClassifierModel(backbone, "crop_flip")
            model.build((None, 32, 32, 3))
            return model

        return make

    def pair(dtype):
        mutated = density(grey, rescale_pixel_value=True, mutation_rate=0.3, reg_weight=10.0)
        return Pair(density(grey, rescale_pixel_value=True)(dtype), mutated(dtype))

    grey, colour = (28, 28, 1), (32, 32, 3)
    units, length = (8, 20) if toy else (2000, 250)
    adam, sgd = lambda: keras.optimizers.Adam(1e-4), lambda: CoupledSGD(0.1, l2=5e-4)
    wide = {"depth": 10, "width": 1} if toy else {"depth": 28, "width": 10, "dropout": 0.3}
    dense = {"depth": 10, "growth": 4} if toy else {"depth": 100, "growth": 12}
    few, many = ((4,), (4,)) if toy else ((32, 256), (64, 256))
    return {
        "pixelcnn_fashion": Case(
            density(grey, rescale_pixel_value=True), adam, pixels(*grey), None, few
        ),
        "pixelcnn_fashion_pair": Case(pair, adam, pixels(*grey), None, few),
        "pixelcnn_cifar": Case(
            density(colour, rescale_pixel_value=True), adam, pixels(*colour), None, few
        ),
        "wrn_28_10": Case(classifier("wide_resnet", wide), sgd, pixels(*colour), 10, many),
        "densenet_bc": Case(classifier("densenet", dense), sgd, pixels(*colour), 10, many),
        "lstm_2000": Case(
            lambda dtype: ReadDensity(network="lstm", units=units, dtype=dtype), adam,
            bases(length), None, (4,) if toy else (100, 400),
            forward_flops=2.0 * length * (4 * units * (units + 4) + 4 * units),
        ),
    }  # fmt: skip


def synchronised(function):
    """Seconds of a call whose result is waited for."""
    start = time.perf_counter()
    result = function()
    if hasattr(result, "block_until_ready"):
        result.block_until_ready()
    return time.perf_counter() - start


def matmul_rate(dtype, toy):
    """Floating point operations per second of a large matrix multiplication."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    n = 512 if toy else 8192
    a = jax.numpy.ones((n, n), "bfloat16" if "bfloat16" in dtype else "float32")
    multiply = jax.jit(lambda a: a @ a)
    synchronised(lambda: multiply(a))
    times = [synchronised(lambda: [multiply(a) for _ in range(10)][-1]) for _ in range(ROUNDS)]
    return 10 * 2.0 * n**3 / statistics.median(times)


def forward_flops(case, model, batch):
    """Of one example, as XLA counts them before it optimises; None on another backend."""
    if case.forward_flops:
        return case.forward_flops
    if keras.backend.backend() != "jax":
        return None
    import jax

    def forward(trainable, fixed, inputs):
        return model.stateless_call(trainable, fixed, inputs, training=False)[0]

    variables = [[v.value for v in part] for part in (model.trainable_variables,
                                                      model.non_trainable_variables)]  # fmt: skip
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (*variables, batch))
    with jax.default_device(jax.devices("cpu")[0]):  # a GPU's plugin does not count
        counted = jax.jit(forward).lower(*shapes).cost_analysis()
    return counted and counted["flops"] / len(batch)


def train_rate(case, dtype, size, per_execution, feed, seconds):
    """(steps per second, forward floating point operations of an example)."""
    keras.utils.clear_session()
    model = case.make(dtype)
    model.compile(optimizer=case.optimizer(), jit_compile=True, steps_per_execution=per_execution)
    images = case.inputs(20 * size)
    labels = np.arange(20 * size) % case.classes if case.classes else None
    rng = np.random.default_rng(0)

    def batches():
        fixed = None
        while True:
            rows = np.sort(rng.permutation(len(images))[:size])
            batch = fixed or (images[rows], *([] if labels is None else [labels[rows]]))
            if feed == "device" and fixed is None:
                fixed = batch = tuple(keras.ops.convert_to_tensor(part) for part in batch)
            yield batch

    def fit(steps):
        return synchronised(
            lambda: model.fit(batches(), steps_per_epoch=steps, verbose=0, shuffle=False) and None
        )

    fit(2 * per_execution)  # compiles
    steps = per_execution * max(1, round(8 / per_execution))
    steps *= max(1, int(seconds / fit(steps)))
    rate = steps / statistics.median(fit(steps) for _ in range(ROUNDS))
    return rate, forward_flops(case, model, images[:size])


def scoring_rates(toy, dtype, seconds):
    """{what: examples per second} of extraction and of ODIN at one epsilon."""
    known = cases(toy)
    size, found = (8 if toy else 500), {}
    for name in ("pixelcnn_fashion", "wrn_28_10"):
        keras.utils.clear_session()
        model = known[name].make(dtype)
        network = model.network() if known[name].classes else model
        images = known[name].inputs(4 * size)
        scorings = {"extract": lambda: network.predict(images, batch_size=size, verbose=0)}
        if known[name].classes:
            odin = input_gradients.odin(network, 1000.0, [0.0014])
            scorings["odin"] = lambda: odin(images)
        for what, function in scorings.items():
            function()  # compiles
            rounds = max(1, int(seconds / synchronised(function)))
            times = [synchronised(function) for _ in range(max(ROUNDS, rounds))]
            found[f"{name} {what}"] = len(images) / statistics.median(times)
    return found


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", action="store_true", help="tiny models, to try it out")
    parser.add_argument("--only", action="append", help="a case, or scoring; may be repeated")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="%(default)s")
    parser.add_argument("--steps_per_execution", default="1,16", help="%(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round; %(default)s")
    parser.add_argument("--out", default="gpu.json", help="results as JSON; %(default)s")
    options = parser.parse_args()
    known = [*cases(True), "scoring"]
    wrong = [name for name in options.only or [] if name not in known]
    if wrong:
        parser.error(f"unknown --only {wrong[0]!r}. Known: {', '.join(known)}")
    options.only = options.only or known
    return options


def main():
    options = parse()
    seconds = 0.05 if options.toy else options.seconds
    rows = []

    def show(row):
        rows.append(row)
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
        pathlib.Path(options.out).write_text(json.dumps(rows, indent=2) + "\n")

    print("| case | dtype | batch | steps per execution | feed | steps/s | examples/s | share |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for dtype in options.dtypes.split(","):
        peak = matmul_rate(dtype, options.toy)
        for name, case in cases(options.toy).items():
            if name not in options.only:
                continue
            for size in case.sizes:
                for count in map(int, options.steps_per_execution.split(",")):
                    for feed in ("host", "device"):
                        rate, flops = train_rate(case, dtype, size, count, feed, seconds)
                        used = 3.0 * flops * size * rate / peak if flops and peak else None
                        show({
                            "case": name, "dtype": dtype, "batch": size,
                            "steps_per_execution": count, "feed": feed,
                            "steps_per_s": round(rate, 2), "examples_per_s": round(rate * size, 1),
                            "share": used and round(used, 4),
                        })  # fmt: skip
        if "scoring" in options.only:
            for what, rate in scoring_rates(options.toy, dtype, seconds).items():
                show({"case": what, "dtype": dtype, "batch": "", "steps_per_execution": "",
                      "feed": "host", "steps_per_s": "", "examples_per_s": round(rate, 1),
                      "share": ""})  # fmt: skip


if __name__ == "__main__":
    main()
