"""What a finished run says of a data set, as files: computed batch by batch at constant memory,
continued after a kill, and not computed again for the same model and data.

Shards of a set can be computed by several processes or machines. Each is written to a folder of its
own; who asks for the whole set once all are there joins them into the same single file.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np

from ood_suite.data.layouts import DataDir
from ood_suite.files import BusyError, RunError, example_hashes, fingerprint, locked
from ood_suite.optional import quietly
from ood_suite.outputs import ON_DEMAND, Outputs, OutputsWriter
from ood_suite.progress import progress
from ood_suite.runs import jobs
from ood_suite.runs.run import Run

# Who speaks for a run: the names that a config.json may hold. No other module is ever imported.
EXTRACTORS = (
    "classifier_ood.ensemble",
    "classifier_ood.extract",
    "genomics_ood.extract",
    "genomics_ood.extract_features",
    "genomics_ood.extract_kmers",
    "images_ood.extract",
)
CHUNK_BYTES = 2**20  # of examples between two moves of the progress bar
FLUSH_EVERY_S = 10.0  # between two points where a killed extraction can go on
KEPT = 64
_KEPT: dict[Hashable, Any] = {}  # evaluation asks for several data sets of several runs in turn


@dataclasses.dataclass(frozen=True)
class Parts:
    """What is extracted beside the main arrays.

    Attributes:
        maps: per-pixel maps and images, of a density of images.
        perturbations: triples (temperature, epsilon, rule) for perturbed logits, see
            training.input_gradients.odin.
        inner_layers: names of layers for `layer_features`.
        epsilons: of `layer_features` at inputs moved towards a smaller Mahalanobis distance.
        fields: some of outputs.ON_DEMAND; `gram_sums` are those of `inner_layers`.
    """

    maps: bool = False
    perturbations: tuple[tuple[float, float, str], ...] = ()
    inner_layers: tuple[str, ...] = ()
    epsilons: tuple[float, ...] = ()
    fields: tuple[str, ...] = ()


class Extractor(Protocol):
    """What a branch's extraction module offers, the same in all branches.

    Attributes:
        SCORES: names of the scores that make sense for its runs; empty: the whole catalogue.
        PERTURBED: {score that needs perturbed logits: the rule of the perturbation}.
    """

    SCORES: tuple[str, ...]
    PERTURBED: dict[str, str]

    def extract(
        self,
        run: Run,
        names: Sequence[str],
        split: str,
        *,
        data_dir: DataDir = None,
        parts: Parts = Parts(),
        batch_size: int = 100,
        shard: tuple[int, int] | None = None,
    ) -> Outputs:
        """Outputs of a finished run on the first of these data sets that is there; what is on file
        of the same model and data is not computed again.

        Args:
            shard: (number from 0, how many), to compute this part of the rows alone.

        Raises:
            RunError: an unfinished run, or a model file that cannot be read.
            ValueError: parts that such a run does not have.
        """
        ...

    def hashes(
        self, run: Run, names: Sequence[str], split: str, *, data_dir: DataDir = None
    ) -> Outputs | None:
        """Outputs with nothing but labels and hashes of the examples, without running the model;
        None where every file would have to be read.
        """
        ...


def extractor_of(run: Run) -> Extractor:
    """The module that speaks for a run; RunError if its config.json names none of ours."""
    name = run.config.get("extractor")
    if name not in EXTRACTORS:
        raise RunError(
            f"{run.folder} names the extractor {name!r}, which is none of ours "
            f"({', '.join(EXTRACTORS)}). Nothing of it was imported."
        )
    with quietly():
        return cast(Extractor, importlib.import_module(name))


def kept(run: Run, key: Hashable, make: Callable[[], Any]) -> Any:
    """make(), once for a model file and a key: a loaded model, a compiled gradient."""
    run.require_finished()
    known = (str(run.model_path), run.model_path.stat().st_mtime_ns, key)
    if known not in _KEPT:
        while len(_KEPT) >= KEPT:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[known] = make()
    return _KEPT[known]


@dataclasses.dataclass
class Extraction:
    """One run on one data set, whose parts are files in the run's outputs/.

    Attributes:
        run: Run whose training is finished.
        source: the data set: `name`, `labels`, `note`, `fingerprint`.
        split: of it.
        examples: its arrays, or a stream that gives slices.
        identity: further meta that must agree with a file's for it to be taken.
        extra: meta that is recorded besides.
        prepare: function(chunk) -> (what the model takes, notes on what was done to it).
        unit: of the progress bar.
        batch_size: of the model. Chunks and shards are whole batches, so that the same examples
            pass the model together however the set is cut.
        shard: (number from 0, how many), to compute this shard alone; None for the whole set.
    """

    run: Run
    source: Any
    split: str
    examples: Any
    identity: dict = dataclasses.field(default_factory=dict)
    extra: dict = dataclasses.field(default_factory=dict)
    prepare: Callable = lambda chunk: (chunk, [])
    unit: str = "image"
    batch_size: int = 100
    shard: tuple | None = None

    def __post_init__(self):
        self.run.require_finished()
        if self.shard and not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(f"`shard` must be (number, how many). Received: {self.shard}.")
        model = self.run.model_path.read_bytes()
        self.meta = self.identity | {
            "dataset": self.source.name,
            "split": self.split,
            "fingerprint": self.source.fingerprint,
            "model_fingerprint": fingerprint(np.frombuffer(model, np.uint8)),
            "source_note": self.source.note,
        }

    def on_file(self, name, depends_on=None):
        """Outputs of the whole set if a file has them of this model and these data, or None. Names
        are of the data at hand: those in a stranger's file could be any pictures of this machine.
        """
        outputs = self._load(self._path(name), self.meta | {"depends_on": depends_on})
        return None if outputs is None else self._named(outputs)

    def _named(self, outputs):
        if outputs.example_names is None:
            return outputs
        return dataclasses.replace(outputs, example_names=getattr(self.examples, "names", None))

    def part(self, name, function, constants=None, depends_on=None):
        """Outputs of one part of what is said, from its file or computed; of a shard those of its
        rows, none if there are more shards than batches.

        Args:
            name: of the part; None is the main one.
            function: prepared chunk -> {field: array (rows, ...)}.
            constants: {field: array} without a dimension of examples.
            depends_on: what else the part must be of, besides model and data.
        """
        constants, own = dict(constants or {}), getattr(self.examples, "names", None)
        if own is not None and name in (None, "maps") and not self.shard:
            constants["example_names"] = own
        path, meta = self._path(name), self.meta | {"depends_on": depends_on}
        rows, outputs = range(len(self.examples)), self.on_file(name, depends_on)
        if outputs is not None:
            if not self.shard:  # what a kill, or another process that was faster, left
                shutil.rmtree(path.with_suffix(".shards"), ignore_errors=True)
                _remove_partial(path)
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
            if self._load(path, meta) is None and not self._join(path, meta, constants):
                self._compute(path, meta, rows, function, constants)
        outputs = Outputs.load(path)
        return outputs if self.shard else self._named(outputs)

    def _path(self, name):
        return self.run.outputs_path(self.source.name, self.split, name)

    def _load(self, path, meta):
        if not path.exists():
            return None
        try:
            outputs = Outputs.load(path)
        except ValueError as error:
            raise RunError(f"{error} Delete it first: then it is made anew.") from error
        return outputs if all(outputs.meta.get(k) == v for k, v in meta.items()) else None

    def _shard_rows(self, number, count):
        batches = -(-len(self.examples) // self.batch_size)
        first, last = (self.batch_size * (batches * i // count) for i in (number, number + 1))
        return range(first, min(last, len(self.examples)))

    def _compute(self, path, meta, rows, function, constants):
        # Stage 1: what an interrupted extraction of the same model and data left.
        writer = OutputsWriter(path, len(rows), meta)
        begun = set(writer.names)  # an older release may have recorded less than is computed now
        size = int(np.prod(self.examples.shape[1:]))
        at_once = max(1, CHUNK_BYTES // size // self.batch_size)
        starts = rows[writer.done :: at_once * self.batch_size]
        part = path.parent.name if self.shard else path.stem.split(self.split)[-1]
        title = f"{self.run.folder.name} on {self.source.name} {part}"
        # Stage 2: chunk by chunk, with a point to go on from every few seconds.
        started = safe_at = time.monotonic()
        bar = progress(total=len(rows), initial=writer.done, desc=title, unit=self.unit)
        with bar:
            for start in starts:
                taken = slice(start, min(start + at_once * self.batch_size, rows.stop))
                prepared, writer.notes = self.prepare(self.examples[taken])
                arrays = function(prepared) | {"labels": self.source.labels[taken]}
                writer.add({n: array for n, array in arrays.items() if not begun or n in begun})
                if time.monotonic() - safe_at >= FLUSH_EVERY_S:
                    writer.flush()
                    safe_at = time.monotonic()
                bar.update(len(prepared))
        # Stage 3: one file of all chunks, with what it is of.
        steps = [*getattr(self.examples, "steps", []), *writer.notes]  # of files, then of arrays
        notes = [self.source.note, *(f"{self.source.name}: {step}" for step in steps)]
        done = sum(min(at_once * self.batch_size, rows.stop - start) for start in starts)
        if done:  # by this process: what a killed one did took other seconds
            meta = meta | {"seconds_per_10000": 10_000 * (time.monotonic() - started) / done}
        writer.finish(constants, meta | self.extra | {
            "note": "; ".join(filter(None, notes)),
            "run": str(self.run.folder),
            "command": f"python -m ood_suite.extract --run={self.run.folder}",
        })  # fmt: skip

    def _join(self, path, meta, constants):
        """Makes the file of the whole set out of its shards; False if some are missing."""
        folder = path.with_suffix(".shards")
        files = folder.glob("*/shard.npz")
        present = [(int(path.parent.name.rpartition("-of-")[2]), path) for path in files]
        for count in sorted({count for count, _ in present}):
            shards = [self._load(file, meta) for number, file in present if number == count]
            shards = sorted((o for o in shards if o), key=lambda o: o.meta["rows"])
            starts, stops = ([shard.meta["rows"][end] for shard in shards] for end in (0, 1))
            if [0, *stops] == [*starts, len(self.examples)]:
                break
        else:
            return False
        names = set.intersection(*(set(shard.arrays()) for shard in shards)) - set(constants)
        writer = OutputsWriter(path, len(self.examples), meta)
        if writer.names and set(writer.names) != names:  # another release may have begun it
            shutil.rmtree(writer.folder)
            writer = OutputsWriter(path, len(self.examples), meta)
        for shard in shards:
            first, last = shard.meta["rows"]
            if last > writer.done:
                start = max(0, writer.done - first)
                writer.add({n: a[start:] for n, a in shard.arrays().items() if n in names})
                writer.flush()
        writer.finish(constants, {k: v for k, v in shard.meta.items() if k != "rows"})
        for done in folder.glob(f"*-of-{count:05d}"):
            shutil.rmtree(done)
        with contextlib.suppress(OSError):  # those of another count may still be written
            folder.rmdir()
        return True


def _remove_partial(path):
    """Of a file that is whole: a kill between its rename and the removal leaves it, a writer of
    other contents that is at work keeps it.
    """
    if path.with_suffix(".partial").exists():
        with contextlib.suppress(BusyError), locked(path.parent):
            shutil.rmtree(path.with_suffix(".partial"), ignore_errors=True)


def _shard_path(path, number, count):
    """A folder for each shard, because a folder has one writer."""
    return path.with_suffix(".shards") / f"{number:05d}-of-{count:05d}" / "shard.npz"


def perturbed_parts(job, perturbations, make):
    """Yields Outputs of perturbed logits, those of one rule and temperature in a file.

    Args:
        job: Extraction. perturbations: see Parts.
        make: function(temperature, epsilons, rule) -> function(chunk) -> {odin_key: logits}.
    """
    groups: dict[tuple[float, str], set[float]] = {}
    for temperature, epsilon, rule in perturbations:
        groups.setdefault((temperature, rule), set()).add(epsilon)
    for (temperature, rule), epsilons in groups.items():
        ordered = tuple(sorted(epsilons))
        name = f"odin_T{temperature:g}_{short(ordered)}"
        name += "" if rule == "cross_entropy" else f"_{rule}"
        yield job.part(name, _named("logits_perturbed", make(temperature, ordered, rule)))


def _named(field, function):
    return lambda chunk: {f"{field}/{key}": array for key, array in function(chunk).items()}


def joined(parts):
    """The first part with the mappings, and what is extracted on demand, of all the others."""
    found: dict[str, Any] = {}
    for part in parts[1:]:
        for name, array in part.arrays().items():
            field, _, key = name.partition("/")
            if key:
                found.setdefault(field, {})[key] = array
            elif field in ON_DEMAND:
                found[field] = array
    return dataclasses.replace(parts[0], **found)


def hashes_of(source, examples, prepare=lambda examples: examples, perceptual=None):
    """Outputs with nothing but labels and hashes of a data set's examples as `prepare` gives them
    to the model; None where these are files, because all would have to be read.

    Args:
        perceptual: function of prepared examples -> their perceptual hashes, if they have some.
    """
    if not isinstance(examples, np.ndarray):
        return None
    meta = {"dataset": source.name, "split": source.split, "fingerprint": source.fingerprint}
    prepared = prepare(examples)
    return Outputs(
        labels=source.labels,
        example_hashes=example_hashes(prepared),
        perceptual_hashes=perceptual and perceptual(prepared),
        meta=meta,
    )


def short(values):
    """A few characters for a file name that stand for a list of values."""
    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:8]


def compute(
    run: Run,
    wanted: Sequence[dict[str, Any]],
    *,
    engine: jobs.Engine = jobs.Engine(),
    shards: int = 1,
) -> Iterator[Outputs]:
    """Outputs of a run on several data sets, their shards as jobs on an engine.

    Args:
        wanted: arguments of Extractor.extract, {"names": ..., "split": ..., ...}.
        shards: jobs that each data set is cut into.
    """
    extractor_of(run)
    function, listed = f"{run.config['extractor']}:extract", []
    in_jobs = shards > 1 or engine.engine == "ray"  # a shard has a folder and a lock of its own
    for position, arguments in enumerate(wanted if in_jobs else ()):
        own = pathlib.Path(arguments["names"][0]).name[-60:]
        name = re.sub(r"\W+", "_", f"{position}_{own}_{arguments['split']}")
        listed += [
            jobs.Job(
                f"{name}_{number:05d}-of-{shards:05d}",
                function,
                {"run": run} | arguments | {"shard": (number, shards)},
            )
            for number in range(shards)
        ]
    busy = jobs.run(listed, run.outputs_path("", "").parent, engine) if in_jobs else []
    if busy:
        raise RunError(
            f"Other processes are still computing {len(busy)} shards. Repeat the command when they "
            "are done: it joins what is there."
        )
    for arguments in wanted:
        yield jobs.call(jobs.Job("", function, {"run": run} | arguments))
