"""What a finished run says of a data set, as files: computed batch by batch at constant memory,
continued after a kill, and not computed again for the same model and data.

Shards of a set can be computed by several processes or machines. Each is written to a folder of its
own; who asks for the whole set once all are there joins them into the same single file.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np
from absl import flags

from ood_suite.files import RunError, fingerprint, locked
from ood_suite.outputs import Outputs, OutputsWriter
from ood_suite.runs import jobs
from ood_suite.runs.run import Run

CHUNK_BYTES = 2**24  # of examples between two moves of the progress bar
FLUSH_EVERY = 20  # chunks between two points where a killed extraction can go on
FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # what is defined here belongs to the binary, also in --help


@dataclasses.dataclass
class Extraction:
    """One run on one data set, whose parts are files in the run's outputs/.

    Attributes:
        run: Run whose training is finished.
        found: the data set: `name`, `labels`, `note`, `fingerprint`.
        split: of it.
        examples: its arrays, or a stream that gives slices.
        command: what makes the outputs, for messages.
        identity: further meta that must agree with a file's for it to be taken.
        extra: meta that is recorded besides.
        prepare: function(chunk) -> (what the model takes, notes on what was done to it).
        unit: of the progress bar.
        chunk_bytes: of examples that are handed over at once; None is CHUNK_BYTES.
        batch_size: of the model. Chunks and shards are whole batches, so that the same examples
            pass the model together however the set is cut.
        shard: (number from 0, how many), to compute this shard alone; None for the whole set.
    """

    run: Run
    found: object
    split: str
    examples: object
    command: str
    identity: dict = dataclasses.field(default_factory=dict)
    extra: dict = dataclasses.field(default_factory=dict)
    prepare: Callable = lambda chunk: (chunk, [])
    unit: str = "image"
    chunk_bytes: int | None = None
    batch_size: int = 100
    shard: tuple | None = None

    def __post_init__(self):
        self.run.require_finished()
        if self.shard and not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(f"`shard` must be (number, how many). Received: {self.shard}.")
        model = self.run.model_path.read_bytes()
        self.meta = self.identity | {
            "dataset": self.found.name,
            "split": self.split,
            "fingerprint": self.found.fingerprint,
            "model_fingerprint": fingerprint(np.frombuffer(model, np.uint8)),
            "source_note": self.found.note,
        }

    def on_file(self, name, depends_on=None):
        """Outputs of the whole set if a file has them of this model and these data, or None."""
        return self._load(self._path(name), self.meta | {"depends_on": depends_on})

    def part(self, name, function, constants=None, depends_on=None):
        """Outputs of one part of what is said, from its file or computed; of a shard those of its
        rows, none if there are more shards than batches.

        Args:
            name: of the part; None is the main one.
            function: prepared chunk -> {field: array (rows, ...)}.
            constants: {field: array} without a dimension of examples.
            depends_on: what else the part must be of, besides model and data.
        """
        path, meta = self._path(name), self.meta | {"depends_on": depends_on}
        rows, outputs = range(len(self.examples)), self.on_file(name, depends_on)
        if outputs is not None:
            if not self.shard:  # what a kill, or another process that was faster, left
                shutil.rmtree(path.with_suffix(".shards"), ignore_errors=True)
            return outputs
        if self.shard:
            rows = self._shard_rows(*self.shard)
            if not rows:
                return Outputs()
            path, meta = _shard_path(path, *self.shard), meta | {"rows": [rows.start, rows.stop]}
            outputs = self._load(path, meta)
            if outputs is not None:
                return outputs
        with locked(path.parent):
            if self._load(path, meta) is None and not self._join(path, meta, constants or {}):
                self._compute(path, meta, rows, function, constants or {})
        return Outputs.load(path)

    def _path(self, name):
        return self.run.outputs_path(self.found.name, self.split, name)

    def _load(self, path, meta):
        if not path.exists():
            return None
        outputs = Outputs.load(path)
        return outputs if all(outputs.meta.get(k) == v for k, v in meta.items()) else None

    def _shard_rows(self, number, count):
        batches = -(-len(self.examples) // self.batch_size)
        first, last = (self.batch_size * (batches * i // count) for i in (number, number + 1))
        return range(first, min(last, len(self.examples)))

    def _compute(self, path, meta, rows, function, constants):
        from tqdm.auto import tqdm

        writer, steps = OutputsWriter(path, len(rows), meta), []
        size = int(np.prod(self.examples.shape[1:]))
        at_once = max(1, (self.chunk_bytes or CHUNK_BYTES) // size // self.batch_size)
        starts = rows[writer.done :: at_once * self.batch_size]
        part = path.parent.name if self.shard else path.stem.split(self.split)[-1]
        title = f"{self.run.folder.name} on {self.found.name} {part}"
        bar = tqdm(total=len(rows), initial=writer.done, desc=title, unit=self.unit, mininterval=2)
        with bar:
            for chunk, start in enumerate(starts, 1):
                taken = slice(start, min(start + at_once * self.batch_size, rows.stop))
                prepared, steps = self.prepare(self.examples[taken])
                arrays = function(prepared)
                writer.add(arrays | {"labels": self.found.labels[taken]})
                if chunk % FLUSH_EVERY == 0:
                    writer.flush()
                bar.update(len(prepared))
        notes = [self.found.note, *(f"{self.found.name}: {step}" for step in steps)]
        writer.finish(constants, meta | self.extra | {
            "note": "; ".join(filter(None, notes)),
            "run": str(self.run.folder),
            "command": self.command,
        })  # fmt: skip

    def _join(self, path, meta, constants):
        """Makes the file of the whole set out of its shards; False if some are missing."""
        folder = path.with_suffix(".shards")
        found = [(int(p.parent.name.rpartition("-of-")[2]), p) for p in folder.glob("*/shard.npz")]
        for count in sorted({count for count, _ in found}):
            shards = [self._load(file, meta) for number, file in found if number == count]
            shards = sorted((o for o in shards if o), key=lambda o: o.meta["rows"])
            starts, stops = ([shard.meta["rows"][end] for shard in shards] for end in (0, 1))
            if [0, *stops] == [*starts, len(self.examples)]:
                break
        else:
            return False
        writer = OutputsWriter(path, len(self.examples), meta)
        for shard in shards:
            first, last = shard.meta["rows"]
            if last > writer.done:
                start = max(0, writer.done - first)
                arrays = {k: v for k, v in shard.arrays().items() if k not in constants}
                writer.add({name: array[start:] for name, array in arrays.items()})
                writer.flush()
        writer.finish(constants, {k: v for k, v in shard.meta.items() if k != "rows"})
        for done in folder.glob(f"*-of-{count:05d}"):
            shutil.rmtree(done)
        with contextlib.suppress(OSError):  # those of another count may still be written
            folder.rmdir()
        return True


def _shard_path(path, number, count):
    """A folder for each shard, because a folder has one writer."""
    return path.with_suffix(".shards") / f"{number:05d}-of-{count:05d}" / "shard.npz"


def joined(parts):
    """The first part with the mappings of all the others."""
    mappings = {}
    for part in parts[1:]:
        for field in ("logits_perturbed", "layer_features"):
            if getattr(part, field):
                mappings.setdefault(field, {}).update(getattr(part, field))
    return dataclasses.replace(parts[0], **mappings)


def example_hashes(examples):
    """uint64 (n,), of the bytes of each example."""
    found = [hashlib.blake2b(example.tobytes(), digest_size=8).digest() for example in examples]
    return np.frombuffer(b"".join(found), np.uint64)


def short(values):
    """A few characters for a file name that stand for a list of values."""
    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:8]


def define_flags():
    """Those of a binary that extracts by `compute`."""
    flags.DEFINE_integer("shards", 1, "Jobs that a data set is cut into.", lower_bound=1)
    jobs.define_flags()
    flags.adopt_module_key_flags(jobs)


def compute(function, run, wanted):
    """Outputs of several data sets, their shards as jobs on the engine of the flags.

    Args:
        function: "package.module:extract", which takes run, names, split, shard and the like.
        wanted: list of its further arguments, {"names": ..., "split": ..., ...}.

    Yields:
        what the function returns for each of them.
    """
    engine, listed, count = jobs.engine_from_flags(), [], FLAGS.shards
    in_jobs = count > 1 or engine.name == "ray"  # a shard has a folder and a lock of its own
    for position, arguments in enumerate(wanted if in_jobs else ()):
        own = pathlib.Path(arguments["names"][0]).name[-60:]
        name = re.sub(r"\W+", "_", f"{position}_{own}_{arguments['split']}")
        listed += [
            jobs.Job(
                f"{name}_{number:05d}-of-{count:05d}",
                function,
                {"run": run} | arguments | {"shard": (number, count)},
            )
            for number in range(count)
        ]
    busy = jobs.run(listed, run.outputs_path("", "").parent, engine) if in_jobs else []
    if busy:
        raise RunError(
            f"{len(busy)} shards are in the hands of other processes. Repeat the command when they "
            "are done: it joins what is there."
        )
    for arguments in wanted:
        yield jobs.call(jobs.Job("", function, {"run": run} | arguments))
