"""Reads/s of the networks of reads against a plain Keras model and PyTorch, trained and scored.

    python benchmarks/read_networks.py --torch_python=A/bin/python

A has torch. The same sizes, reads of 250 bases in float32, in batches of 100, and scored in batches
of 512 too, as a screening does: an LSTM, and gated dilated convolutions (8 layers, kernel 3). Plain
Keras is a functional model with a sparse cross entropy; PyTorch is torch.nn.LSTM, or Conv1d with
padding on the left, with Adam. Each side has a process of its own, in turns; medians over the
batches of all rounds.
Writes benchmarks/read_networks.json, unless PyTorch was left out; five minutes on two cores.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import machine
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
FOUND = ROOT / "benchmarks" / "read_networks.json"
NETWORKS = {"LSTM, 64": ("lstm", 64), "LSTM, 256": ("lstm", 256), "convolutions, 32": ("conv", 32),
            "convolutions, 64": ("conv", 64)}  # fmt: skip
BATCH, SCREENED, LENGTH, LAYERS, KERNEL = 100, 512, 250, 8, 3
WORKS = {"train": BATCH, "score": BATCH, "screen": SCREENED}  # reads of a batch


def reads(count):
    """int32 (count, LENGTH) bases 0..3."""
    return np.random.default_rng(0).integers(0, 4, (count, LENGTH)).astype(np.int32)


def rate(function, count, calls):
    """Reads/s of each of `calls` calls of function(bases), after two that compile."""
    bases = reads(count)
    function(bases), function(bases)
    found = []
    for _ in range(calls):
        start = time.perf_counter()
        function(bases)
        found.append(count / (time.perf_counter() - start))
    return found


def ours(kind, units):
    sys.path.insert(0, str(ROOT))
    import keras

    from genomics_ood.density import ReadDensity, ready_to_score
    from ood_suite.training import backend

    options = {"network": kind, "units": units, "num_layers": LAYERS, "kernel_size": KERNEL}
    model, trained = ReadDensity(**options, seed=0), ready_to_score(ReadDensity(**options, seed=0))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=backend.jit_compile())
    return model.train_on_batch, trained.predict_on_batch


def plain_keras(kind, units):
    """What a tutorial would write: one-hot of the bases before, cross entropy of the next."""
    import keras
    from keras import layers, ops

    x = inputs = keras.Input((LENGTH, 4))
    if kind == "lstm":
        x = layers.LSTM(units, return_sequences=True)(x)
    else:
        x = layers.Conv1D(units, KERNEL, padding="causal")(x)
        for number in range(LAYERS):
            y = layers.Conv1D(2 * units, KERNEL, padding="causal", dilation_rate=2 ** (number % 8))(
                x
            )
            y = ops.tanh(y[..., :units]) * ops.sigmoid(y[..., units:])
            x = x + layers.Conv1D(units, 1)(y)
        x = layers.Conv1D(units, 1, activation="relu")(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(4)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)

    def inputs_of(bases):
        one_hot = np.eye(4, dtype=np.float32)[bases]
        return one_hot, np.pad(one_hot, ((0, 0), (1, 0), (0, 0)))[:, :-1]

    def score(bases):
        one_hot, before = inputs_of(bases)
        logits = model.predict_on_batch(before)
        largest = logits.max(axis=-1, keepdims=True)
        log_p = logits - largest - np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True))
        return (log_p * one_hot).sum(axis=-1)

    return lambda bases: model.train_on_batch(inputs_of(bases)[1], bases), score


def pytorch(kind, units):
    import torch
    from torch import nn
    from torch.nn import functional

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, units, batch_first=True) if kind == "lstm" else None
            self.first = nn.Conv1d(4, units, KERNEL)
            self.wide = nn.ModuleList(
                nn.Conv1d(units, 2 * units, KERNEL, dilation=2 ** (i % 8)) for i in range(LAYERS)
            )
            self.back = nn.ModuleList(nn.Conv1d(units, units, 1) for _ in range(LAYERS))
            self.last = nn.Conv1d(units, units, 1)
            self.head = nn.Linear(units, 4)

        def forward(self, before):  # (batch, length, 4)
            if self.lstm:
                return self.head(self.lstm(before)[0])
            x = self.first(functional.pad(before.transpose(1, 2), (KERNEL - 1, 0)))
            for wide, back in zip(self.wide, self.back, strict=True):
                y = wide(functional.pad(x, ((KERNEL - 1) * wide.dilation[0], 0)))
                value, gate = y.chunk(2, dim=1)
                x = x + back(torch.tanh(value) * torch.sigmoid(gate))
            return self.head(self.last(x.relu()).relu().transpose(1, 2))

    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def inputs_of(bases):
        one_hot = functional.one_hot(torch.tensor(bases, dtype=torch.long), 4).float()
        return one_hot, functional.pad(one_hot, (0, 0, 1, 0))[:, :-1].contiguous()

    def train(bases):
        _, before = inputs_of(bases)
        optimizer.zero_grad()
        targets = torch.tensor(bases, dtype=torch.long).reshape(-1)
        functional.cross_entropy(model(before).reshape(-1, 4), targets).backward()
        optimizer.step()

    def score(bases):
        one_hot, before = inputs_of(bases)
        with torch.inference_mode():
            return (functional.log_softmax(model(before), dim=-1) * one_hot).sum(dim=-1)

    return train, score


def measured(pythons, rounds):
    """{network: {contestant: {"train" and "score": reads/s}}}."""
    found = {}
    for name in NETWORKS:
        times = {}
        for _ in range(rounds):
            for worker, python in pythons.items():
                done = subprocess.run(
                    [python, __file__, f"--worker={worker}", f"--network={name}"],
                    stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
                for work, rates in json.loads(done.stdout.splitlines()[-1]).items():
                    times.setdefault(worker, {}).setdefault(work, []).extend(rates)
        found[name] = {
            worker: {work: float(np.median(rates)) for work, rates in row.items()}
            for worker, row in times.items()
        }
    return found


def table(found):
    """Markdown: reads/s of each work, and ours over each of the others."""
    others = [worker for worker in next(iter(found.values())) if worker != "ours"]
    titles = [f"{worker}: {', '.join(WORKS)}" for worker in ("ours", *others)]
    titles += [f"ours / {worker}" for worker in others]
    lines = ["| network | " + " | ".join(titles) + " |", "|" + "---|" * (1 + len(titles))]
    for name, row in found.items():
        cells = [", ".join(f"{row[w][work]:.0f}" for work in WORKS) for w in ("ours", *others)]
        for worker in others:
            ratios = (row["ours"][work] / row[worker][work] for work in WORKS)
            cells.append(", ".join(f"{ratio:.2f}" for ratio in ratios))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch_python", help="Python with torch")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--worker", choices=["ours", "plain_keras", "pytorch"], help="internal")
    parser.add_argument("--network", choices=NETWORKS, help="internal")
    flags = parser.parse_args()
    if flags.worker:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        train, score = globals()[flags.worker](*NETWORKS[flags.network])
        functions = {"train": train, "score": score, "screen": score}
        print(json.dumps({work: rate(functions[work], n, 6) for work, n in WORKS.items()}))
        return
    pythons = {"ours": sys.executable, "plain_keras": sys.executable}
    pythons |= {"pytorch": flags.torch_python} if flags.torch_python else {}
    found = measured(pythons, flags.rounds)
    print(table(found))
    if flags.torch_python:
        FOUND.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    else:
        print(machine.NOT_WRITTEN)


if __name__ == "__main__":
    main()
