"""What a finished run says of a data set, as files: computed batch by batch at constant memory,
continued after a kill, and not computed again for the same model and data.
"""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from ood_suite.outputs import Outputs, OutputsWriter
from ood_suite.runs import Run, fingerprint, locked

CHUNK_BYTES = 2**24  # of examples between two moves of the progress bar
FLUSH_EVERY = 20  # chunks between two points where a killed extraction can go on


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

    def __post_init__(self):
        self.run.require_finished()

    def part(self, name, function, constants=None, depends_on=None):
        """Outputs of one part, from its file or computed.

        Args:
            name: of the part; None is the main one, which has labels and `constants` too.
            function: prepared chunk -> {field: array (rows, ...)}.
            constants: {field: array} without a dimension of examples.
            depends_on: what else the part must be of, besides model and data.
        """
        model = self.run.model_path.read_bytes()
        meta = self.identity | {
            "dataset": self.found.name,
            "split": self.split,
            "fingerprint": self.found.fingerprint,
            "model_fingerprint": fingerprint(np.frombuffer(model, np.uint8)),
            "source_note": self.found.note,
            "depends_on": depends_on,
        }
        path = self.run.outputs_path(self.found.name, self.split, name)
        if path.exists():
            outputs = Outputs.load(path)
            if all(outputs.meta.get(key) == value for key, value in meta.items()):
                return outputs
        with locked(path.parent):
            self._write(path, meta, function, constants or {}, is_main=name is None)
        return Outputs.load(path)

    def _write(self, path, meta, function, constants, is_main):
        from tqdm.auto import tqdm

        examples, steps = self.examples, []
        writer = OutputsWriter(path, len(examples), meta)
        rows = max(1, (self.chunk_bytes or CHUNK_BYTES) // int(np.prod(examples.shape[1:])))
        title = f"{self.run.folder.name} on {self.found.name} {path.stem.split(self.split)[-1]}"
        starts = range(writer.done, len(examples), rows)
        bar = tqdm(
            total=len(examples), initial=writer.done, desc=title, unit=self.unit, mininterval=2
        )
        with bar:
            for chunk, start in enumerate(starts, 1):
                prepared, steps = self.prepare(examples[start : start + rows])
                arrays = function(prepared)
                if is_main:
                    arrays["labels"] = self.found.labels[start : start + rows]
                writer.add(arrays)
                if chunk % FLUSH_EVERY == 0:
                    writer.flush()
                bar.update(len(prepared))
        notes = [self.found.note, *(f"{self.found.name}: {step}" for step in steps)]
        meta = meta | self.extra | {
            "note": "; ".join(filter(None, notes)),
            "run": str(self.run.folder),
            "command": self.command,
        }  # fmt: skip
        writer.finish(constants if is_main else {}, meta)


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
