"""Densities of reads: networks at equal cost, words and networks together, and a screen's speed.

    python benchmarks/reads.py --part=networks --seconds=120
    python benchmarks/reads.py --part=together           # after make demo-genomics
    python benchmarks/reads.py --part=screening

"networks": each trains for the same CPU seconds (of all threads: they do not depend on what else
runs) on the embedded reads; steps, and bits per base of the validation reads. "together": the
validation bits per base and the AUROC on the embedded test reads of the k-mer density, the network,
its ratio, and of mixtures. "screening": reads per second of `genomics_ood.screen` with the shipped
model, from a FASTQ file to a TSV file, the start included, with the peak of memory and the growth;
it writes benchmarks/reads.json, with --sizes and --threads as they are (several GB of temporary
files).
"""

import dataclasses
import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import machine
import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from genomics_ood import configs, reads  # noqa: E402
from ood_suite import metrics  # noqa: E402
from ood_suite.outputs import Outputs  # noqa: E402

FLAGS = flags.FLAGS
NETWORKS = (
    {"network": "conv", "units": 32},
    {"network": "conv", "units": 64},
    {"network": "lstm", "units": 64},
    {"network": "lstm", "units": 128},
)
LEARNING_RATES = (1e-3, 3e-3)
BATCH, LENGTH = 100, 250  # reads of a step, bases of an embedded read


def train(options, learning_rate, seconds):
    """(steps, parameters, validation bits per base) of one network."""
    from genomics_ood.density_run import build_model
    from ood_suite.training import fit

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


def networks():
    print("| network | parameters | learning rate | steps | validation bits per base |")
    print("|---|---|---|---|---|")
    for options in NETWORKS:
        for rate in LEARNING_RATES:
            steps, parameters, bits = train(options, rate, FLAGS.seconds)
            title = ", ".join(f"{value}" for value in options.values())
            print(f"| {title} | {parameters} | {rate:g} | {steps} | {bits:.4f} |", flush=True)


def together():
    """What a network adds to words, from the outputs that the demo's evaluations left."""
    runs = {"words": "bacteria_kmers/reg0_mr0", "network": "bacteria/reg0_mr0",
            "background": "bacteria/reg0.001_mr0.3"}  # fmt: skip
    said = {
        (title, name): Outputs.load(f"output/genomics_ood/{run}/outputs/{name}.npz").log_prob
        for title, run in runs.items()
        for name in ("bacteria_val", "bacteria_test", "bacteria_ood_test")
    }

    def of(name):
        words, network, background = (said[title, name] for title in runs)
        return {
            "words": words,
            "network": network,
            "ratio of the network": network - background,
            "mixture of both densities": np.logaddexp(words, network) - np.log(2.0),
            "sum of both log-probabilities": words + network,
        }

    parts = {name: of(name) for name in ("bacteria_val", "bacteria_test", "bacteria_ood_test")}
    print("| density | validation bits per base | AUROC |")
    print("|---|---|---|")
    for title in parts["bacteria_val"]:
        bits = -parts["bacteria_val"][title].mean() / np.log(2.0) / LENGTH
        counts = metrics.Counts.of(*(-parts[n][title] for n in list(parts)[1:]))
        is_density = title in ("words", "network", "mixture of both densities")
        shown = f"{bits:.4f}" if is_density else ""
        print(f"| {title} | {shown} | {metrics.auroc(counts):.3f} |")


def screening():
    """Seconds, CPU seconds and peak memory of a screen of files of several sizes."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for kind in ("fastq", "fastq.gz"):
            screened(folder, write_reads(folder, 100, kind))  # the start, from a warm disk
            start = screened(folder, write_reads(folder, 100, kind))["seconds"]
            rows = [
                {"file": kind, "reads": n} | screened(folder, write_reads(folder, n, kind))
                for n in map(int, FLAGS.sizes)
            ]
            sizes, spent = ([row[key] for row in rows] for key in ("reads", "seconds"))
            growth = np.polyfit(np.log(sizes[1:]), np.log(np.array(spent[1:]) - start), 1)[0]
            found.append({"file": kind, "start": start, "growth": float(growth), "rows": rows})
            print(f"{kind}: start {start:.2f} s, growth of the rest with n: exponent {growth:.2f}")
            print("| reads | seconds | CPU seconds | reads/s | peak memory, MiB |")
            print("|---|---|---|---|---|")
            for row in rows:
                print(
                    f"| {row['reads']} | {row['seconds']:.1f} | {row['cpu']:.1f} | "
                    f"{row['reads'] / row['seconds']:.0f} | {row['peak_mib']:.0f} |", flush=True
                )  # fmt: skip
    if machine.at_defaults(FLAGS, "sizes", "threads"):
        (ROOT / "benchmarks" / "reads.json").write_text(json.dumps(found, indent=1) + "\n")


def write_reads(folder, count, kind):
    """A FASTQ file of the embedded test reads, ID and OOD, again and again."""
    path = folder / f"{count}.{kind}"
    bases = np.concatenate([reads.load(n, "test").bases for n in ("bacteria", "bacteria_ood")])
    letters = np.frombuffer(b"ACGT", np.uint8)[bases]
    texts = [row.tobytes() + b"\n+\n" + b"I" * len(row) + b"\n" for row in letters]
    opened = gzip.open if kind.endswith(".gz") else open
    with opened(path, "wb", **({"compresslevel": 1} if kind.endswith(".gz") else {})) as file:
        for number in range(count):
            file.write(b"@read%d length=250\n" % number + texts[number % len(texts)])
    return path


def screened(folder, path):
    """{"seconds", "cpu", "peak_mib"} of a screen in a process of its own."""
    command = [sys.executable, "-m", "genomics_ood.screen", f"--threads={FLAGS.threads}",
               f"--out={folder / 'out.tsv'}", str(path)]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"The screen of {path} failed with status {status}.")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu": cpu, "peak_mib": machine.peak_mib(usage)}


def main(_):
    {"networks": networks, "together": together, "screening": screening}[FLAGS.part]()


if __name__ == "__main__":
    flags.DEFINE_enum("part", "networks", ("networks", "together", "screening"), "What to measure.")
    flags.DEFINE_float("seconds", 120.0, "CPU seconds per network.", lower_bound=1.0)
    flags.DEFINE_integer("threads", 2, "Of the screen.", lower_bound=1)
    flags.DEFINE_list(
        "sizes", ["10000", "100000", "1000000", "10000000"], "Reads of the screened files."
    )
    app.run(main)
