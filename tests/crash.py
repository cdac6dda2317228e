"""Kills every long job at random moments, goes on with the same command, and compares what comes
out bit for bit with what an undisturbed job gives.

    python tests/crash.py --kills=50
    python tests/crash.py --kills=3 --jobs=train_images,extract

A kill is SIGKILL to the process and all that it started. A job that ends before it is killed is
compared, thrown away and begun again, until all kills have been made. Processes are forked from one
that has loaded Keras and done nothing with it, so that moments fall into the work, not into
imports.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import random
import re
import shutil
import signal
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
from tests import support  # noqa: E402

SMALL_IMAGES = "--exp=fashion_small --num_filters=4 --num_resnet=1 --batch_size=8 --eval_images=8"
SMALL_READS = "--exp=bacteria --units=4 --num_layers=2 --batch_size=16 --eval_reads=16"
SMALL_CLASSIFIER = "--exp=fashion --options=width=2 --batch_size=8"
TIMES = re.compile("second")  # columns that may differ


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
SWEEP_READS = (
    f"genomics_ood.sweep {SMALL_READS} --background_steps=2 --total_steps=4 --eval_every=2 "
    "--mutation_rates=0.1 --reg_weights=0 --out_dir={out}"
)
JOBS = {
    "eval_classifier": Job(
        f"ood_suite.eval --run={CLASSIFIER} --data_dir={{data}} --resamples=20 "
        "--scores=msp,energy,mahalanobis,odin",
        (TRAIN_CLASSIFIER,), "fashion/convnet",
    ),
    "eval_images": Job(
        "ood_suite.eval --run={out}/fashion_small --data_dir={data} --resamples=20",
        (SWEEP,), "fashion_small",
    ),
    "extract": Job(
        f"ood_suite.extract --run={CLASSIFIER} --data_dir={{data}} --batch_size=4",
        (TRAIN_CLASSIFIER,), "fashion/convnet/outputs",
    ),
    "finetune_doe": Job(
        FINETUNE
        + "--outliers=aux --oe_method=doe --warm_up=1 --epochs=3 --name=cut --out_dir={out}/tuned",
        (TRAIN_CLASSIFIER,), "tuned",
    ),
    "finetune_masks": Job(
        FINETUNE + "--um=2.0 --prune_rate=0.8 --epochs=3 --name=cut --out_dir={out}/tuned",
        (TRAIN_CLASSIFIER,), "tuned",
    ),
    "screen": Job(
        "genomics_ood.screen --run={out}/bacteria --out={out}/scores.tsv {data}/reads.fa",
        (SWEEP_READS,),
    ),
    "shards": Job(
        f"ood_suite.extract --run={CLASSIFIER} --data_dir={{data}} --batch_size=4 --shards=3",
        (TRAIN_CLASSIFIER,), "fashion/convnet/outputs",
    ),
    "sweep": Job(SWEEP),
    "train_classifier": Job(TRAIN_CLASSIFIER),
    "train_images": Job(TRAIN_IMAGES),
    "train_kmers": Job(
        "genomics_ood.train --exp=bacteria_kmers --out_dir={out}"
    ),
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
    for name, value in (("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_NUM_INTEROP_THREADS", "1")):
        os.environ.setdefault(name, value)  # as every binary has it, before TensorFlow is loaded
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(pathlib.Path(folder))
        for name in arguments.jobs.split(","):
            began = time.monotonic()
            found = stage.crash(name, arguments.kills, arguments.seed)
            seconds = round(time.monotonic() - began)
            wrong += bool(found)
            said = "; ".join(found) or "bit for bit"
            print(f"| {name} | {arguments.kills} | {said} | {seconds} |", flush=True)
    return 1 if wrong else 0


class Stage:
    """A folder where jobs are run, with what several of them build on made once."""

    def __init__(self, folder):
        self.folder, self.data = folder, small_data(folder / "data")
        self.made = {}  # commands -> folder that they made
        first = support.forking().Process(
            target=os.getpid
        )  # loads Keras, which no job is to wait for
        first.start()
        first.join()

    def before(self, commands):
        """A folder in which these were done."""
        if commands not in self.made:
            self.made[commands] = self.folder / f"before{len(self.made)}"
            self.made[commands].mkdir()
            for command in commands:
                self.finish(command, self.made[commands])
        return self.made[commands]

    def crash(self, name, kills, seed=0):
        """What differs after so many kills of a job; empty if nothing does."""
        job, moments = JOBS[name], random.Random(seed)
        plain, cut = self.folder / name / "plain", self.folder / name / "cut"
        begin = functools.partial(shutil.copytree, self.before(job.before))
        begin(plain)
        began = time.monotonic()
        self.finish(job.command, plain)
        duration = time.monotonic() - began
        begin(cut)
        differences = []
        while kills:
            process = self.start(job.command, cut)
            process.join(duration * moments.uniform(0.02, 1.0))
            if process.is_alive():
                kill(process)
                kills -= 1
                continue
            if process.exitcode:
                return [*differences, self.said(cut)[-300:]]
            differences += compared(cut / job.output, plain / job.output)
            shutil.rmtree(cut)
            begin(cut)
        self.finish(job.command, cut)
        return differences + compared(cut / job.output, plain / job.output)

    def start(self, command, out):
        module, *flags = command.format(out=out, data=self.data).split()
        said = self.log(out)
        arguments = support.MODULE, [module, *flags], said, said, dict(os.environ)
        process = support.forking().Process(target=support.run, args=arguments)
        process.start()
        return process

    def finish(self, command, out):
        process = self.start(command, out)
        process.join()
        if process.exitcode:
            raise SystemExit(f"{command} failed:\n{self.said(out)[-2000:]}")

    def log(self, out):
        return out.with_suffix(".log")

    def said(self, out):
        return self.log(out).read_text(encoding="utf-8")


def kill(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has no group of its own yet, or has just ended
        process.kill()
    process.join()


def small_data(folder):
    """A data_dir of tiny sets under the names of the experiments."""
    rng = np.random.default_rng(7)
    for name, count in (
        ("fashion_mnist_train", 64), ("fashion_mnist_val", 24), ("fashion_mnist_test", 48),
        ("mnist_test", 48), ("notmnist", 40), ("aux_train", 64),
    ):  # fmt: skip
        images = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        write_images(folder / f"{name}.npz", images, np.arange(count) % 10)
    reads = ["".join(rng.choice(list("ACGTN"), 300, p=[0.24] * 4 + [0.04])) for _ in range(400)]
    text = "".join(f">r{number}\n{read}\n" for number, read in enumerate(reads))
    (folder / "reads.fa").write_text(text, encoding="utf-8")
    return folder


def compared(ours, theirs):
    """Differences between all files that decide in two folders."""
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if _decides(path)}
        for folder in (ours, theirs)
    ]
    found = [f"{name} is in one of them alone" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        found += [f"{name}: {what}" for what in _differences(ours / name, theirs / name)]
    return found


def _decides(path):
    is_result = path.suffix in (".csv", ".keras", ".npz", ".tsv")
    return is_result and path.is_file() or path.name.startswith((".partial", "state.json"))


def _differences(ours, theirs):
    if theirs.suffix == ".tsv":
        return [] if ours.read_bytes() == theirs.read_bytes() else ["other lines"]
    if theirs.suffix == ".csv":
        rows = [
            [{k: v for k, v in row.items() if not TIMES.search(k)} for row in read_csv(path)]
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
