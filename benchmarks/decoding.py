"""Images a second from a folder of JPEG files, and the memory of reading 20,000 of them.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --torch_python=PYTHON    # and torchvision, in its environment

The files (500x375 pixels, as ImageNet's are on average) are made in a temporary folder: so many
different ones as --different, under --images names. Every reader scales the shorter side to 256 and
cuts out 224x224, in batches of 100; each reads some of them before the clock starts, so that
starting threads and workers costs nobody. Rounds of all readers alternate, and the best one of each
counts: what else runs on the machine only slows. Writes benchmarks/decoding.json, if torchvision
was there. Linux alone.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import machine
import numpy as np
from absl import app, flags
from PIL import Image

FLAGS = flags.FLAGS

PATH = pathlib.Path(__file__).with_suffix(".json")
# In processes of their own; print images a second, a second of processors, and MiB before and most.
OURS = """
import os, re, sys, time
from ood_suite.data.streams import FolderImages
def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024
folder, limit, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.sched_setaffinity(0, set(list(os.sched_getaffinity(0))[:threads]))
images = FolderImages(folder, (224, 224, 3), "imagenet")
before = memory("VmRSS")
images[:100]
start, work = time.monotonic(), sum(os.times()[:4])
for first in range(0, limit, 100):
    images[first : first + 100]
seconds, work = time.monotonic() - start, sum(os.times()[:4]) - work
print(limit / seconds, limit / work, before, memory("VmHWM"))
"""
TORCH = """
import multiprocessing, os, sys, time, torch, torchvision
from torchvision.transforms import v2
def used():  # seconds of processors, of workers that are alive too
    paths = [f"/proc/{worker.pid}/stat" for worker in multiprocessing.active_children()]
    ticks = [int(t) for p in paths for t in open(p).read().rpartition(")")[2].split()[11:13]]
    return sum(os.times()[:4]) + sum(ticks) / os.sysconf("SC_CLK_TCK")
limit, workers = map(int, sys.argv[2:])
transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
images = torchvision.datasets.ImageFolder(sys.argv[1], transform)
first = max(1, workers)  # batches: one of each worker
images = torch.utils.data.Subset(images, [*range(100 * first), *range(limit)])
batches = iter(torch.utils.data.DataLoader(images, batch_size=100, num_workers=workers))
for _ in range(first):
    next(batches)
start, work = time.monotonic(), used()
count = sum(len(batch) for batch, _ in batches)
seconds = time.monotonic() - start
del batches
assert count == limit
print(limit / seconds, limit / (used() - work))
print(torch.__version__, torchvision.__version__)
"""


def write_folder(folder):
    """Smooth noise, so that a file has about the size of a photograph's."""
    rng = np.random.default_rng(0)
    for row in range(FLAGS.different):
        coarse = rng.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        noisy = np.clip(image + rng.normal(0.0, 8.0, image.shape), 0, 255).astype(np.uint8)
        place = folder / f"class{row % 10}"
        place.mkdir(exist_ok=True)
        Image.fromarray(noisy).save(place / f"{row}.jpg", quality=90)
    files = sorted(folder.rglob("*.jpg"))
    for copy in range(1, FLAGS.images // len(files)):
        for path in files:
            path.with_stem(f"{path.stem}_{copy}").hardlink_to(path)
    return statistics.mean(path.stat().st_size for path in files)


def measured(python, code, *arguments):
    words = [python, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def rates(folder):
    """{reader: {images a second, images a second of processor}}, the best of rounds in turn."""
    readers = {
        f"ours, {count} thread{'s' * (count > 1)}": (sys.executable, OURS, count)
        for count in (1, 2)
    }
    if FLAGS.torch_python:
        name = "torchvision ImageFolder + DataLoader, {} workers"
        readers |= {name.format(n): (FLAGS.torch_python, TORCH, n) for n in (0, 2)}
    found = {name: [] for name in readers}
    for _ in range(FLAGS.rounds):
        for name, (python, code, count) in readers.items():
            pair = measured(python, code, folder, FLAGS.timed, count)[:2]
            found[name].append([float(rate) for rate in pair])
    kinds = ("images_a_second", "images_a_processor_second")
    return {
        name: {kind: round(max(each)) for kind, each in zip(kinds, zip(*rows, strict=True))}
        for name, rows in found.items()
    }


def main(_):
    with tempfile.TemporaryDirectory() as folder:
        size = write_folder(pathlib.Path(folder))
        result = {"machine": machine.mark(), "bytes_a_file": round(size), "rates": rates(folder)}
        for count in (FLAGS.images // 2, FLAGS.images):
            _, _, before, peak = measured(sys.executable, OURS, folder, count, 2)
            result[f"mib_of_{count}"] = {"before": int(before), "most": int(peak)}
        if FLAGS.torch_python:
            versions = measured(FLAGS.torch_python, TORCH, folder, 100, 0)[2:]
            result["versions"] = dict(zip(("torch", "torchvision"), versions, strict=True))
    print(json.dumps(result, indent=2))
    if FLAGS.torch_python:
        PATH.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    else:
        print(machine.NOT_WRITTEN)


if __name__ == "__main__":
    flags.DEFINE_integer("images", 20_000, "Names in the folder.", lower_bound=100)
    flags.DEFINE_integer("different", 500, "Files that differ.", lower_bound=10)
    flags.DEFINE_integer("timed", 2000, "Images that are timed.", lower_bound=200)
    flags.register_validator(
        "timed", lambda count: count % 200 == 0, "not a multiple of 200: as many batches a worker"
    )
    flags.DEFINE_integer("rounds", 9, "Of which the best counts.", lower_bound=1)
    flags.DEFINE_string("torch_python", None, "Python of an environment with torchvision.")
    app.run(main)
