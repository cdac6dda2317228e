"""Images drawn from PixelCNN++: a row at a time, by passes over whole images, and by TFP.

    python benchmarks/sampling.py                 # 4 minutes
    python benchmarks/sampling.py --num_images=64

28x28x1 and one component, untrained networks of the same size, each drawn from by a compiled
program. Seconds for all images, program included, in turns; medians of --rounds. Writes
benchmarks/sampling.json, with --num_images as it is.
"""

import json
import os
import pathlib
import sys
import time

import machine
import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
FLAGS = flags.FLAGS
SHAPE = (28, 28, 1)
SIZES = ((2, 16), (5, 32))  # num_resnet, num_filters: the demo's, the paper's


def contestants(num_resnet, num_filters, count):
    """{name: draws `count` images}."""
    import tensorflow as tf
    import tensorflow_probability as tfp

    from images_ood import sampling
    from images_ood.pixelcnn import PixelCNN

    sizes = {"num_resnet": num_resnet, "num_filters": num_filters, "num_hierarchies": 1}
    ours = PixelCNN(SHAPE, **sizes, rescale_pixel_value=True, seed=0)
    theirs = tfp.distributions.PixelCNN(
        SHAPE, **sizes, num_logistic_mix=1, dropout_p=0.0, use_weight_norm=False
    )

    def by_tfp():
        program = tf.function(lambda: theirs.sample(count, seed=0, training=False))
        return np.asarray(program())

    return {
        "rows": lambda: sampling.draw(ours, count, 0),
        "whole images": lambda: sampling.by_images(ours, count, 0),
        "TFP": by_tfp,
    }


def main(_):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = {}
    for size in SIZES:
        functions = contestants(*size, FLAGS.num_images)
        seconds = {name: [] for name in functions}
        for _ in range(FLAGS.rounds):
            for name, function in functions.items():
                start = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - start)
        found["{} layers, {} filters".format(*size)] = {
            name: float(np.median(values)) for name, values in seconds.items()
        }
    print(
        f"{FLAGS.num_images} images\n| network | " + " | ".join(f"{n}, s" for n in functions),
        end="",
    )
    print(" | whole images / rows | TFP / rows |\n|" + "---|" * 6)
    for size, row in found.items():
        ratios = [row[name] / row["rows"] for name in ("whole images", "TFP")]
        cells = [f"{s:.1f}" for s in row.values()] + [f"{r:.1f}" for r in ratios]
        print(f"| {size} | " + " | ".join(cells) + " |")
    if machine.at_defaults(FLAGS, "num_images"):
        record = {"num_images": FLAGS.num_images, "seconds": found}
        path = ROOT / "benchmarks" / "sampling.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_integer("num_images", 16, "Images to draw.", lower_bound=1)
    flags.DEFINE_integer("rounds", 1, "Rounds; the median counts.", lower_bound=1)
    app.run(main)
