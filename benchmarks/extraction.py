"""Images/s of features and logits, and of ODIN, against PyTorch on the same networks.

    python benchmarks/extraction.py --torch_python=A/bin/python
    ONEDNN_MAX_CPU_ISA=AVX2 ... --only="WRN-28-10" --record=benchmarks/extraction_avx2.json

A has torch and torchvision (see tests/make_references.py, whose networks these are but for
ResNet-50, which is torchvision's), a C++ compiler for torch.compile, and may have onnx, onnxscript,
onnxruntime and openvino. Random weights, batches of 100 (32 at 224 x 224) in memory, float32, and
bfloat16 where the processor has it. PyTorch runs eagerly, in channels_last, as a frozen script
(BatchNorm folded) and compiled; ODIN eagerly, in both layouts. Ours and PyTorch are handed bytes
and normalise them in time; ONNX Runtime and OpenVINO are handed normalised float32, made before the
clock starts. Each library has a process of its own, in turns; medians over the batches of all
rounds. Writes --record, with the processor and the variables that limit it; rows of another machine
stay in no record, and nothing is written without PyTorch. About fifteen minutes on two cores.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import machine
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
FOUND = ROOT / "benchmarks" / "extraction.json"
NETWORKS = {  # name -> (backbone, image side, classes, options, batch, batches)
    "DenseNet-BC-100-12": ("densenet", 32, 10, {}, 100, 4),
    "WRN-28-10": ("wide_resnet", 32, 10, {"depth": 28, "width": 10}, 50, 2),
    "ResNet-18, CIFAR": ("resnet_cifar", 32, 10, {"depth": 18}, 100, 3),
    "ResNet-50, 224 x 224": ("resnet_imagenet", 224, 1000, {"depth": 50}, 32, 2),
}
TEMPERATURE, EPSILON = 1000.0, 0.0014


def images(name):
    """uint8 (batch, side, side, 3)."""
    _, side, _, _, batch, _ = NETWORKS[name]
    return np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)


def normalised(name):
    """What the engines are handed: float32 (batch, 3, side, side), in one piece."""
    pixels = (images(name).astype(np.float32) - 120.0) / 60.0
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def seconds(function, count):
    """Of each of `count` calls, after one that compiles."""
    function()
    found = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


def ours(name):
    sys.path.insert(0, str(ROOT))
    import keras

    from classifier_ood import models
    from classifier_ood.keras_classifier import KerasClassifier
    from ood_suite.training import backend, input_gradients

    backbone, side, classes, options, batch, count = NETWORKS[name]
    classifier = KerasClassifier(models.build(backbone, (side, side, 3), classes, options))
    pixels = images(name)
    forward = backend.inference(classifier.network)
    perturbed = input_gradients.odin(classifier.network, TEMPERATURE, [EPSILON])
    found = {
        "ours": seconds(lambda: backend.in_batches(forward, pixels, batch), count),
        "ours, ODIN": seconds(lambda: perturbed(pixels), max(1, count // 2)),
    }
    if backend.has_bfloat16():
        keras.config.set_dtype_policy("mixed_bfloat16")
        half = models.build(backbone, (side, side, 3), classes, options)
        half = backend.inference(half)
        found["ours, bfloat16"] = seconds(lambda: backend.in_batches(half, pixels, batch), count)
    return found


def theirs(name):
    sys.path.insert(0, str(ROOT / "tests"))
    import torch

    model, count = _torch_network(name), NETWORKS[name][-1]
    pixels = torch.tensor(images(name)).permute(0, 3, 1, 2)
    found = {}

    def forward(one, layout, half=False):
        def call():
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                one(((pixels.float() - 120.0) / 60.0).contiguous(memory_format=layout))

        return call

    def odin(one, layout):
        def call():
            x = ((pixels.float() - 120.0) / 60.0).contiguous(memory_format=layout)
            x.requires_grad_(True)
            scaled = _logits(one(x)) / TEMPERATURE
            torch.nn.functional.cross_entropy(scaled, scaled.argmax(1)).backward()
            with torch.inference_mode():
                one(x - EPSILON * x.grad.sign())

        return call

    layouts = {"eager": torch.contiguous_format, "channels_last": torch.channels_last}
    for title, layout in layouts.items():
        one = model.to(memory_format=layout)
        found[title] = seconds(forward(one, layout), count)
        found[f"{title}, ODIN"] = seconds(odin(one, layout), max(1, count // 2))
    last, variants = torch.channels_last, {}
    traced = torch.jit.trace(model, torch.zeros(1, 3, *pixels.shape[2:]))
    variants["frozen"] = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    variants["compile"] = torch.compile(model)
    for title, one in variants.items():
        try:
            found[title] = seconds(forward(one, last), count)
        except Exception as error:  # of their compiler: said, and gone on
            print(f"{name}, {title}: {type(error).__name__} {error}"[:300], file=sys.stderr)
    if has_bfloat16():
        found["channels_last, bfloat16"] = seconds(forward(model, last, half=True), count)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.onnx"
        torch.onnx.export(model.to(memory_format=torch.contiguous_format), (pixels.float(),), path)
        prepared = normalised(name)
        for title, one in _engines(path).items():
            found[title] = seconds(lambda f=one: f(prepared), count)
    return found


def has_bfloat16():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    return not limit and cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text()


def _engines(path):
    """{name: a function of `normalised` images} of the engines that are installed."""
    found = {}
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        found["ONNX Runtime"] = lambda x: session.run(None, {name: x})
    if importlib.util.find_spec("openvino"):
        import openvino

        for title, precision in {"OpenVINO": "f32", "OpenVINO, bfloat16": "bf16"}.items():
            if precision == "f32" or has_bfloat16():
                options = {"INFERENCE_PRECISION_HINT": precision}
                compiled = openvino.compile_model(path, "CPU", options)
                found[title] = lambda x, f=compiled: f(x)
    return found


def _logits(output):
    return output[1] if isinstance(output, tuple) else output


def _torch_network(name):
    if name == "ResNet-50, 224 x 224":
        import torch

        # Of torchvision 0.28 beside a PyTorch build that lacks its compiled operations.
        torch.library.register_fake = lambda *_, **__: lambda function: function
        from torchvision.models import resnet50

        return resnet50().eval().requires_grad_(False)
    import make_references as references

    model = {
        "DenseNet-BC-100-12": lambda: references.DenseNet(12, 16, 10),
        "WRN-28-10": lambda: references.WideResNet(4, 10, 10),
        "ResNet-18, CIFAR": lambda: references.ResNet((2, 2, 2, 2), 64, False, 10),
    }[name]()
    return model.eval().requires_grad_(False)


def measured(name, pythons, rounds):
    """{what: images/s}."""
    found = {}
    for _ in range(rounds):
        for worker, python in pythons.items():
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                subprocess.run(
                    [python, __file__, f"--worker={worker}", f"--network={name}",
                     f"--out={file.name}"], check=True,
                )  # fmt: skip
                for what, times in json.loads(pathlib.Path(file.name).read_text()).items():
                    found.setdefault(what, []).extend(times)
    batch = NETWORKS[name][4]
    return {what: batch / float(np.median(times)) for what, times in found.items()}


FLOAT32 = ("eager", "channels_last", "frozen", "compile", "ONNX Runtime", "OpenVINO")
BFLOAT16 = ("channels_last, bfloat16", "OpenVINO, bfloat16")


def table(found):
    """Markdown: images/s, and ours over the best of PyTorch's (its first four)."""
    lines = [
        f"| network | ours | {' | '.join(FLOAT32)} | ours / PyTorch's best "
        "| ODIN: ours | PyTorch's best | ours / best "
        "| bfloat16: ours | PyTorch | OpenVINO |",
        "|" + "---|" * (8 + len(FLOAT32)),
    ]
    for name, row in found.items():
        best = max((row[k] for k in FLOAT32[:4] if k in row), default=float("nan"))
        odin = max((row[k] for k in row if k.endswith("ODIN") and k[:4] != "ours"), default=best)
        cells = [_cell(row.get(k)) for k in ("ours", *FLOAT32)]
        cells += [f"{row['ours'] / best:.2f}", _cell(row["ours, ODIN"]), _cell(odin)]
        cells += [f"{row['ours, ODIN'] / odin:.2f}"]
        cells += [_cell(row.get(k)) for k in ("ours, bfloat16", *BFLOAT16)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rate):
    return f"{rate:.0f}" if rate else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch_python", help="Python with torch and torchvision")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each library")
    parser.add_argument("--only", action="append", choices=NETWORKS, help="may be repeated")
    parser.add_argument("--record", type=pathlib.Path, default=FOUND, help="%(default)s")
    parser.add_argument("--worker", choices=["ours", "theirs"], help="internal")
    parser.add_argument("--network", help="internal")
    parser.add_argument("--out", help="internal")
    flags = parser.parse_args()
    if flags.worker:
        pathlib.Path(flags.out).write_text(json.dumps(globals()[flags.worker](flags.network)))
        return
    wanted = flags.only or list(NETWORKS)
    if not flags.torch_python:
        alone = {"ours": sys.executable}
        print(table({name: measured(name, alone, flags.rounds) for name in wanted}))
        print(machine.NOT_WRITTEN)
        return
    known = json.loads(flags.record.read_text()) if flags.record.exists() else {}
    rows = known.get("images_per_second", {}) if flags.only else {}
    stamp = machine.stamp(known, [name for name in rows if name not in wanted])
    pythons = {"ours": sys.executable, "theirs": flags.torch_python}
    rows |= {name: measured(name, pythons, flags.rounds) for name in wanted}
    text = json.dumps(stamp | {"images_per_second": rows}, indent=1)
    flags.record.write_text(text + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
