"""Kills every long job at random moments, goes on with the same command, and compares what comes
out bit for bit with what an undisturbed job gives.

    python tests/crash.py --kills=50
    python tests/crash.py --kills=3 --jobs=train_images,extract

A kill is SIGKILL to the process and all that it started. A job that ends before it is killed is
compared, thrown away and begun again, until all kills have been made.
"""

import argparse
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ood_suite.data.npz import write_images  # noqa: E402
from ood_suite.files import load_npz, read_csv  # noqa: E402

SMALL_IMAGES = "--exp=fashion_small --num_filters=4 --num_resnet=1 --batch_size=8 --eval_images=8"
SMALL_READS = "--exp=bacteria --units=4 --num_layers=2 --batch_size=16 --eval_reads=16"
SMALL_CLASSIFIER = "--exp=fashion --options=width=2 --batch_size=8"
TIMES = ("seconds", "steps_per_second")  # columns that may differ


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that is killed.

    Attributes:
        command: module and flags; {out} is a folder of its own, {data} that of tiny images.
        before: commands that it builds on, done once.
        output: what is compared, below {out}.
    """

    command: str
    before: tuple[str, ...] = ()
    output: str = "."


TRAIN_IMAGES = (
    f"images_ood.train {SMALL_IMAGES} --background_steps=0 --total_steps=24 --eval_every=4 "
    "--mutation_rate=0.2 --data_dir={data} --out_dir={out}"
)
TRAIN_CLASSIFIER = (
    f"classifier_ood.train {SMALL_CLASSIFIER} --epochs=4 --save_every=1 --data_dir={{data}} "
    "--out_dir={out}"
)
CLASSIFIER = "{out}/fashion/convnet"
FINETUNE = f"classifier_ood.finetune --run={CLASSIFIER} --data_dir={{data}} --batch_size=8 "
SWEEP = (
    f"images_ood.sweep {SMALL_IMAGES} --background_steps=4 --total_steps=8 --eval_every=4 "
    "--data_dir={data} --out_dir={out}"
)
JOBS = {
    "eval": Job(
        f"ood_suite.eval --run={CLASSIFIER} --data_dir={{data}} --resamples=200",
        (TRAIN_CLASSIFIER,), "fashion/convnet/report/results.csv",
    ),
    "extract": Job(
        f"ood_suite.extract --run={CLASSIFIER} --data_dir={{data}} --batch_size=4",
        (TRAIN_CLASSIFIER,), "fashion/convnet/outputs",
    ),
    "finetune_doe": Job(
        FINETUNE + "--outliers=aux --oe_method=doe --warm_up=1 --epochs=3 --name=cut "
        "--out_dir={out}/tuned",
        (TRAIN_CLASSIFIER,), "tuned",
    ),
    "finetune_masks": Job(
        FINETUNE + "--um=2.0 --prune_rate=0.8 --epochs=3 --name=cut --out_dir={out}/tuned",
        (TRAIN_CLASSIFIER,), "tuned",
    ),
    "shards": Job(
        f"ood_suite.extract --run={CLASSIFIER} --data_dir={{data}} --batch_size=4 --shards=3",
        (TRAIN_CLASSIFIER,), "fashion/convnet/outputs",
    ),
    "sweep": Job(SWEEP),
    "train_classifier": Job(TRAIN_CLASSIFIER),
    "train_images": Job(TRAIN_IMAGES),
    "train_leave_out": Job(
        f"classifier_ood.train_leave_out {SMALL_CLASSIFIER} --epochs=2 --splits=2 "
        "--data_dir={data} --out_dir={out}"
    ),
    "train_reads": Job(
        f"genomics_ood.train {SMALL_READS} --background_steps=0 --total_steps=24 --eval_every=4 "
        "--out_dir={out}"
    ),
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=3, help="Of each job.")
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"Some of {', '.join(JOBS)}.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    arguments = parser.parse_args()
    wrong = 0
    for name in arguments.jobs.split(","):
        with tempfile.TemporaryDirectory() as folder:
            done = crash(JOBS[name], arguments.kills, arguments.seed, pathlib.Path(folder))
        wrong += len(done)
        print(f"| {name} | {arguments.kills} | {'; '.join(done) or 'bit for bit'} |", flush=True)
    return 1 if wrong else 0


def crash(job, kills, seed, folder):
    """What differs after so many kills; empty if nothing does."""
    moments, data = random.Random(seed), small_data(folder / "data")
    before = folder / "before"
    before.mkdir()
    for command in job.before:
        finished(command, before, data)
    plain = shutil.copytree(before, folder / "plain")
    began = time.monotonic()
    finished(job.command, plain, data)
    duration = time.monotonic() - began
    cut, differences, left = folder / "cut", [], kills
    shutil.copytree(before, cut)
    while left:
        process = started(job.command, cut, data)
        try:
            _, text = process.communicate(timeout=moments.uniform(0.1, duration))
            if process.returncode:
                return [*differences, text[-300:]]
            differences += compared(cut / job.output, plain / job.output)
            shutil.rmtree(cut)
            shutil.copytree(before, cut)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            left -= 1
    finished(job.command, cut, data)
    return differences + compared(cut / job.output, plain / job.output)


def started(command, out, data):
    module, *flags = command.format(out=out, data=data).split()
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finished(command, out, data):
    process = started(command, out, data)
    _, text = process.communicate()
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{text[-2000:]}")


def small_data(folder):
    """A data_dir of tiny sets under the names of the experiments."""
    rng = np.random.default_rng(7)
    for name, count in (
        ("fashion_mnist_train", 64), ("fashion_mnist_val", 24), ("fashion_mnist_test", 48),
        ("mnist_test", 48), ("notmnist", 40), ("aux_train", 64),
    ):  # fmt: skip
        images = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        write_images(folder / f"{name}.npz", images, np.arange(count) % 10)
    return folder


def compared(ours, theirs):
    """Differences between two files, or all files that decide in two folders."""
    if theirs.is_file():
        return [f"{theirs.name}: {what}" for what in _differences(ours, theirs)]
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if _decides(path)}
        for folder in (ours, theirs)
    ]
    found = [f"{name} is in one of them alone" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        found += [f"{name}: {what}" for what in _differences(ours / name, theirs / name)]
    return found


def _decides(path):
    is_report = path.suffix == ".csv" or path.suffix in (".npz", ".keras")
    return is_report and path.is_file() or path.name.startswith((".partial", "state.json"))


def _differences(ours, theirs):
    if theirs.suffix == ".csv":
        rows = [
            [{k: v for k, v in row.items() if k not in TIMES} for row in read_csv(path)]
            for path in (ours, theirs)
        ]
        return [] if rows[0] == rows[1] else ["other rows"]
    states = [weights(path) if path.suffix == ".keras" else arrays(path) for path in (ours, theirs)]
    if states[0].keys() != states[1].keys():
        return ["other arrays"]
    return [name for name, array in states[1].items() if not np.array_equal(states[0][name], array)]


def arrays(path):
    """Those of an npz but for its meta and mark, which hold the folder."""
    return {n: array for n, array in load_npz(path).items() if n not in ("meta", "settings")}


def weights(path):
    """{name: array} of a Keras model, without making the model."""
    found = {}
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
        with h5py.File(file, "r") as content:
            content.visititems(
                lambda name, item: (
                    found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
                )
            )
    return found


if __name__ == "__main__":
    raise SystemExit(main())
