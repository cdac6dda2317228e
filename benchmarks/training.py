"""Images/s of training classifiers, against PyTorch and against Keras's own BatchNorm.

    python benchmarks/training.py --torch_python=A/bin/python

A has torch (its networks: tests/make_references.py). Steps of SGD with momentum on batches of 128
random CIFAR images in memory, without augmentation, in float32 and, where the processor has it, in
mixed bfloat16. "keras_own" is ours without ood_suite/training/batch_norm.py. PyTorch trains
eagerly, in both layouts, under autocast in bfloat16. Each side has a process of its own, in turns;
medians over the steps of all rounds. Writes benchmarks/training.json, unless PyTorch was left out;
four minutes on two cores.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import machine
import numpy as np
from extraction import has_bfloat16, seconds

ROOT = pathlib.Path(__file__).parents[1]
FOUND = ROOT / "benchmarks" / "training.json"
NETWORKS = {  # name -> (backbone, options, steps)
    "WRN-16-2": ("wide_resnet", {"depth": 16, "width": 2}, 4),
    "DenseNet-BC-100-12": ("densenet", {}, 2),
}
BATCH = 128


def batch():
    """(uint8 (BATCH, 32, 32, 3), labels)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, BATCH)


def ours(name, fused=True):
    sys.path.insert(0, str(ROOT))
    import keras

    from classifier_ood import classifier_run, models
    from classifier_ood.classifier_model import ClassifierModel
    from classifier_ood.configs import FineTuning
    from ood_suite.training import backend, batch_norm

    if not fused:
        batch_norm.fuse = lambda network: None
    backbone, options, steps = NETWORKS[name]
    images, labels = batch()
    backend.set_seed(0)  # deterministic operations, as in every training
    found = {}
    for dtype in ("float32", "mixed_bfloat16")[: 1 + backend.has_bfloat16()]:
        keras.config.set_dtype_policy(dtype)
        model = ClassifierModel(models.build(backbone, (32, 32, 3), 10, options))
        classifier_run.compile_model(model, FineTuning(), 100)
        model.build((None, 32, 32, 3))
        found[dtype.removeprefix("mixed_")] = seconds(
            lambda m=model: m.train_on_batch(images, labels), steps
        )
    return found


def keras_own(name):
    return ours(name, fused=False)


def pytorch(name):
    sys.path.insert(0, str(ROOT / "tests"))
    import make_references as references
    import torch

    build = {
        "WRN-16-2": lambda: references.WideResNet(2, 10, 2),
        "DenseNet-BC-100-12": lambda: references.DenseNet(12, 16, 10),
    }[name]
    images, labels = batch()
    pixels, targets = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels)
    found = {}
    layouts = {"": torch.contiguous_format, ", channels_last": torch.channels_last}
    for title, layout in layouts.items():
        for dtype in ("float32", "bfloat16")[: 1 + has_bfloat16()]:
            model = build().train().requires_grad_(True).to(memory_format=layout)
            optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)

            def step(model=model, optimizer=optimizer, layout=layout, half=dtype == "bfloat16"):
                x = ((pixels.float() - 120.0) / 60.0).contiguous(memory_format=layout)
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    found = model(x)
                logits = found[1] if isinstance(found, tuple) else found
                torch.nn.functional.cross_entropy(logits.float(), targets).backward()
                optimizer.step()

            found[dtype + title] = seconds(step, NETWORKS[name][-1])
    return found


def measured(name, pythons, rounds):
    """{contestant: {variant: images/s}}."""
    times: dict[str, dict[str, list]] = {}
    for _ in range(rounds):
        for worker, python in pythons.items():
            done = subprocess.run(
                [python, __file__, f"--worker={worker}", f"--network={name}"],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            for variant, row in json.loads(done.stdout.splitlines()[-1]).items():
                times.setdefault(worker, {}).setdefault(variant, []).extend(row)
    return {
        worker: {variant: BATCH / float(np.median(row)) for variant, row in variants.items()}
        for worker, variants in times.items()
    }


def table(found):
    """Markdown: images/s, and ours over Keras's BatchNorm and over PyTorch's better layout."""
    titles = ["network", "precision", "ours", "Keras's BatchNorm", "ours / Keras's", "PyTorch"]
    titles += ["channels_last", "ours / PyTorch's best"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for name, row in found.items():
        for dtype, rate in row["ours"].items():
            plain, torch = row["keras_own"][dtype], row.get("pytorch", {})
            theirs = [torch[key] for key in (dtype, f"{dtype}, channels_last") if key in torch]
            cells = [name, dtype, f"{rate:.0f}", f"{plain:.0f}", f"{rate / plain:.2f}"]
            cells += [f"{value:.0f}" for value in theirs]
            cells += [f"{rate / max(theirs):.2f}"] if theirs else []
            lines.append("| " + " | ".join(cells + [""] * (len(titles) - len(cells))) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch_python", help="Python with torch")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--only", choices=NETWORKS, help="one network; nothing is written")
    parser.add_argument("--worker", choices=["ours", "keras_own", "pytorch"], help="internal")
    parser.add_argument("--network", choices=NETWORKS, help="internal")
    flags = parser.parse_args()
    if flags.worker:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")  # as every binary has it
        print(json.dumps(globals()[flags.worker](flags.network)))
        return
    pythons = {"ours": sys.executable, "keras_own": sys.executable}
    pythons |= {"pytorch": flags.torch_python} if flags.torch_python else {}
    names = [flags.only] if flags.only else NETWORKS
    found = {name: measured(name, pythons, flags.rounds) for name in names}
    print(table(found))
    if not flags.torch_python:
        print(machine.NOT_WRITTEN)
    elif not flags.only:
        FOUND.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
