"""Densities of reads at equal cost: each network trains for the same CPU seconds.

    python benchmarks/reads.py --seconds=120

Prints, for every network and learning rate, its steps and the bits per base of the validation
reads of the embedded sample. CPU seconds (of all threads) do not depend on what else runs.
"""

import dataclasses
import time

import numpy as np
from absl import app, flags

from genomics_ood import configs, reads
from genomics_ood.density_run import build_model
from ood_suite.training import fit

FLAGS = flags.FLAGS
NETWORKS = (
    {"network": "conv", "units": 32},
    {"network": "conv", "units": 64},
    {"network": "lstm", "units": 64},
    {"network": "lstm", "units": 128},
)
LEARNING_RATES = (1e-3, 3e-3)
BATCH = 100


def train(options, learning_rate, seconds):
    """(steps, parameters, validation bits per base) of one network."""
    experiment = dataclasses.replace(
        configs.EXPERIMENTS["bacteria"], **options, learning_rate=learning_rate,
        learning_rate_schedule="constant",
    )  # fmt: skip
    bases, held_out = (reads.load("bacteria", split).bases for split in ("train", "val"))
    model, steps = build_model(experiment, seed=0), 0
    for (batch,) in fit.batches([bases], BATCH, seed=0):
        if steps == 1:  # the first step compiles
            start = time.process_time()
        if steps > 1 and time.process_time() - start > seconds:
            break
        model.train_on_batch(batch)
        steps += 1
    bits = -model.predict(held_out, batch_size=BATCH, verbose=0).mean() / np.log(2.0)
    return steps, model.count_params(), bits


def main(_):
    print("| network | parameters | learning rate | steps | validation bits per base |")
    print("|---|---|---|---|---|")
    for options in NETWORKS:
        for rate in LEARNING_RATES:
            steps, parameters, bits = train(options, rate, FLAGS.seconds)
            title = ", ".join(f"{value}" for value in options.values())
            print(f"| {title} | {parameters} | {rate:g} | {steps} | {bits:.4f} |", flush=True)


if __name__ == "__main__":
    flags.DEFINE_float("seconds", 120.0, "CPU seconds per network.", lower_bound=1.0)
    app.run(main)
