"""Outputs: the one record between a model and everything that judges it.

What a model says of one data set, as arrays with n examples first. Extractors write it, scores and
the evaluator read it; nothing to the right of it needs a model, a framework or a GPU.
"""

import dataclasses
import json
import logging
import math
import os
import pathlib
import shutil
import zipfile
from typing import Any

import numpy as np

from ood_suite.files import (
    CHUNK,
    RunError,
    atomic_path,
    fingerprint,
    load_npz,
    make_folder,
    read_array_header,
    read_json,
    reading,
    room_for,
    write_json,
)  # fmt: skip

# Field -> shape; "n" is the number of examples, other letters must agree between fields.
SHAPES = {
    "labels": ("n",),
    "logits": ("n", "c"),
    "features": ("n", "d"),
    "features_perturbed": ("n", "d"),
    "rank_one": ("n", "d"),
    "head_kernel": ("d", "c"),
    "head_bias": ("c",),
    "log_prob": ("n",),
    "log_prob_map": ("n", ...),
    "background_log_prob": ("n",),
    "background_log_probs": ("n", "b"),
    "background_log_prob_map": ("n", ...),
    "code_length": ("n",),
    "images": ("n", "h", "w", "channels"),
    "bases": ("n", "length"),
    "example_hashes": ("n",),
    "perceptual_hashes": ("n", "words"),
    "example_names": ("n",),
}
MAPPINGS = {
    "logits_perturbed": ("n", "c"), "layer_features": ("n", "d_l"), "member_logits": ("n", "c_m"),
    "gram_sums": ("n", "d_l"),
}  # fmt: skip
ON_DEMAND = ("features_perturbed", "gram_sums", "rank_one")  # for scores asked for by name
WHOLE = ("labels", "images", "bases", "example_hashes", "perceptual_hashes")  # of integers
ROWS_AT_ONCE = 65_536  # when a check walks over an array that may be larger than memory
HEAD_ROWS, HEAD_TOLERANCE = 256, 0.01  # of the check that the head makes the logits


@dataclasses.dataclass
class Outputs:
    """Arrays of one run on one data set; every field may be absent, all that is there is checked.

    Attributes:
        labels: integer (n,).
        logits: float (n, c). features: float (n, d), the input of the last dense layer.
        features_perturbed: float (n, d), at inputs whose least salient values are moved (AdaSCALE).
        rank_one: float (n, d), of the first singular component of the map under the features.
        head_kernel: float (d, c). head_bias: float (c,).
        logits_perturbed: {"T=1000,epsilon=0.0014": float (n, c)}, logits at ODIN's inputs.
        layer_features: {layer: float (n, d_l)}, spatial means; "layer,epsilon=0.0014" are those at
            inputs moved towards a smaller Mahalanobis distance in that layer.
        gram_sums: {layer: float (n, 10 * channels)}, see scores.feature_maps.gram_sums.
        member_logits: {"<member>,<rule>,T=1000,epsilon=0.002": float (n, c_m)}, logits of each
            member of a leave-out ensemble for the classes that it knows.
        log_prob: float64 (n,), nats per example.
        log_prob_map: float32 (n, height, width) or (n, length), nats; sums to log_prob.
        background_log_prob, background_log_prob_map: the same of the chosen background model.
        background_log_probs: float64 (n, b), of b background models.
        code_length: float64 (n,), bits of the lossless code of each example (PNG, without its fixed
            header).
        images: uint8 (n, height, width, channels), kept where maps are kept, for the figures.
        bases: uint8 (n, length), 0..3 for A C G T, of DNA reads.
        example_hashes: uint64 (n,), of each example's bytes: finds examples that two sets share.
        perceptual_hashes: uint64 (n, words), of what an image looks like, see data.likeness.
        example_names: text (n,), paths of the files that the examples are from.
        meta: dict of JSON values: run, data set, split, step, fingerprint, dtype, note.

    Raises:
        ValueError: a wrong number of dimensions, lengths that differ, values that are not finite,
            or a head that does not make these logits of these features.
    """

    labels: np.ndarray | None = None
    logits: np.ndarray | None = None
    features: np.ndarray | None = None
    features_perturbed: np.ndarray | None = None
    rank_one: np.ndarray | None = None
    head_kernel: np.ndarray | None = None
    head_bias: np.ndarray | None = None
    logits_perturbed: dict[str, np.ndarray] | None = None
    layer_features: dict[str, np.ndarray] | None = None
    member_logits: dict[str, np.ndarray] | None = None
    gram_sums: dict[str, np.ndarray] | None = None
    log_prob: np.ndarray | None = None
    log_prob_map: np.ndarray | None = None
    background_log_prob: np.ndarray | None = None
    background_log_probs: np.ndarray | None = None
    background_log_prob_map: np.ndarray | None = None
    code_length: np.ndarray | None = None
    images: np.ndarray | None = None
    bases: np.ndarray | None = None
    example_hashes: np.ndarray | None = None
    perceptual_hashes: np.ndarray | None = None
    example_names: np.ndarray | None = None
    meta: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        sizes: dict[str, tuple[int, str]] = {}
        for name, array in self.arrays().items():
            shape = SHAPES[name] if name in SHAPES else MAPPINGS[name.split("/")[0]]
            _check(name, array, shape, sizes)
        self._num_examples = sizes.get("n", (0, ""))[0]
        self._check_head()

    def __len__(self):
        return self._num_examples

    def arrays(self):
        """{name: array} of all that is there; entries of a mapping are called field/key."""
        found = {name: getattr(self, name) for name in SHAPES if getattr(self, name) is not None}
        for name in MAPPINGS:
            for key, array in (getattr(self, name) or {}).items():
                found[f"{name}/{key}"] = array
        return found

    def take(self, rows):
        """Outputs of some of the examples, head and all.

        Args:
            rows: integers, or anything that selects along the first axis of an array.
        """
        fields: dict[str, Any] = {}
        for name, array in self.arrays().items():
            field, _, key = name.partition("/")
            if key:
                fields.setdefault(field, {})[key] = array[rows]
            else:
                fields[name] = array[rows] if SHAPES[name][0] == "n" else array
        return Outputs(**fields, meta=self.meta)

    def _check_head(self):
        """Refuses features, head and logits that do not fit each other, by the first rows."""
        if self.features is None or self.logits is None or not len(self):
            return
        if self.head_kernel is None or self.head_bias is None:
            return
        features, logits = (
            np.asarray(part[:HEAD_ROWS], np.float64) for part in (self.features, self.logits)
        )
        kernel, bias = (np.asarray(x, np.float64) for x in (self.head_kernel, self.head_bias))
        difference = np.abs(features @ kernel + bias - logits).max()
        if difference > HEAD_TOLERANCE * max(1.0, np.abs(logits).max()):
            raise ValueError(
                "The head does not reproduce the logits: the largest difference between features @ "
                f"head_kernel + head_bias and logits is {difference:.4g}. The features must be the "
                "input of the last dense layer, and the logits its output before any softmax."
            )

    def require(self, names, needed_by):
        """The named arrays in order; ValueError that says which is missing, of what, and how to get
        it.
        """
        for name in names:
            if getattr(self, name) is None:
                have = ", ".join(dict.fromkeys(n.split("/")[0] for n in self.arrays()))
                where = self.meta.get("run", "these outputs")
                make = self.meta.get("command", "extract the outputs again")
                if name in ON_DEMAND:
                    make += f" --fields={name}"
                if name == "member_logits":
                    make = "train an ensemble, python -m classifier_ood.train_leave_out"
                if name.startswith("background"):
                    make = "evaluate a folder that holds background runs beside the foreground"
                raise ValueError(
                    f"{needed_by} needs `{name}`, which {where} "
                    f"({self.meta.get('dataset', 'unnamed data')}) lacks. "
                    f"It has: {have or 'nothing'}. To get it: {make}."
                )
        return [getattr(self, name) for name in names]

    def save(self, path):
        """Writes one compressed npz atomically."""
        arrays = self.arrays() | {"meta": np.array(json.dumps(self.meta, default=str))}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path):
        """Reads what `save` or an OutputsWriter wrote; a missing or damaged file is a ValueError
        that names it. Large uncompressed arrays stay on disk as read-only memory maps.
        """
        arrays = load_npz(path, mapped=True)
        with reading(path, "outputs"):
            meta = json.loads(str(arrays.pop("meta", "{}")))
            if not isinstance(meta, dict):
                raise ValueError("its meta is no dict")
            fields: dict[str, Any] = {"meta": meta}
            for name, array in arrays.items():
                field, _, key = name.partition("/")
                if field not in (MAPPINGS if key else SHAPES):
                    raise ValueError(f"it holds an unknown array `{name[:100]}`")
                if key:
                    fields.setdefault(field, {})[key] = array
                else:
                    fields[field] = array
            return cls(**fields)


class OutputsWriter:
    """Writes Outputs batch by batch, at constant memory, and goes on after a kill.

    The arrays grow as .npy files in the folder `<path>.partial`; `finish` packs them uncompressed
    into the npz at `path`, where `Outputs.load` maps them.

    Args:
        path: of the npz. count: examples in all.
        meta: what the outputs are of; parts written for other `meta` are thrown away.

    Attributes:
        done: examples that are there already; the next batch starts with this one.
        notes: texts on what was done to the examples so far.
    """

    def __init__(self, path, count, meta):
        self.path, self.count, self.meta = pathlib.Path(path), count, meta
        self.folder = self.path.with_suffix(".partial")
        try:
            self.done, self.names, self.maps, self.notes = self._continued()
        except (OSError, ValueError, RunError) as error:
            if self.folder.exists():  # such as killed while the folder was removed
                logging.info("%s is begun again: %s", self.path, error)
            self.done, self.names, self.maps, self.notes = 0, {}, {}, []
            shutil.rmtree(self.folder, ignore_errors=True)
        make_folder(self.folder)

    def _continued(self):
        """(done, names, maps, notes) of what a killed writer left, checked; an error if it is of no
        use.

        Only files that a writer makes are opened, in its own folder, and only whole ones: NumPy
        would stretch a truncated file with zeros.
        """
        with reading(self.folder / "state.json", "the state of a writer"):
            state = read_json(self.folder / "state.json")
            mark = state.pop("mark", None)  # version 0.1 wrote none
            if mark not in (None, _mark(state)):
                raise ValueError("its checksum is that of another state")
            done, names = state["done"], dict(state["names"])
            notes = [str(note) for note in state.get("notes", [])]  # version 0.2 wrote none
            if state["meta"] != json.loads(json.dumps(self.meta, default=str)):
                raise ValueError("it is of another model, other data or other settings")
            if not isinstance(done, int) or not 0 <= done <= self.count or not names:
                raise ValueError(f"it has {done} of {self.count} examples")
            expected = [_file_name(number) for number in range(len(names))]
            if sorted(map(str, names.values())) != sorted(expected):
                raise ValueError("it names other files than a writer makes")
        maps = {name: self._whole(self.folder / f) for name, f in names.items()}
        return done, names, maps, notes

    def _whole(self, path):
        """A writable map of an array with `count` rows, all of whose bytes are there."""
        with reading(path, "an array"), open(path, "rb") as file:
            shape, fortran, dtype = read_array_header(file)
            size = file.tell() + math.prod(shape) * dtype.itemsize
            if path.is_symlink() or fortran or shape[:1] != (self.count,):
                raise ValueError(f"it is a link, or of shape {shape}")
            if path.stat().st_size != size:
                raise ValueError(f"it has {path.stat().st_size} bytes of {size}")
            return np.lib.format.open_memmap(path, "r+")

    def add(self, arrays):
        """Appends rows; `arrays` maps field or field/key to (rows, ...), the same names every
        time.
        """
        rows = {len(array) for array in arrays.values()}
        if len(rows) != 1 or (self.maps and set(arrays) != set(self.maps)):
            raise ValueError(f"Every batch must hold the same arrays. Received: {sorted(arrays)}.")
        stop = self.done + rows.pop()
        for name, array in arrays.items():
            if name in self.maps and array.shape[1:] != self.maps[name].shape[1:]:
                raise ValueError(f"`{name}` changed its shape to {array.shape} between batches.")
            if name not in self.maps:
                self._allocate(name, array)
            self.maps[name][self.done : stop] = array
        self.done = stop

    def _allocate(self, name, array):
        """Makes the file for all rows and takes its room on the disk: where that is missing,
        writing to the map later would kill the process with SIGBUS.
        """
        path = self._new(len(self.names))
        with room_for(path):
            made = np.lib.format.open_memmap(
                path, "w+", array.dtype, (self.count, *array.shape[1:])
            )
            _take_room(path, made.offset)
        self.names[name], self.maps[name] = path.name, made

    def _new(self, number):
        """The path of an array's file, of which nothing is there: neither half a one nor a link."""
        path = self.folder / _file_name(number)
        path.unlink(missing_ok=True)
        return path

    def flush(self):
        """Makes what was added so far survive a kill."""
        for array in self.maps.values():
            array.flush()
        state = {"meta": self.meta, "done": self.done, "names": self.names, "notes": self.notes}
        write_json(self.folder / "state.json", state | {"mark": _mark(state)})

    def finish(self, constants, meta):
        """Packs everything with the arrays `constants` (such as the head) and the final `meta`."""
        if self.done != self.count:
            raise ValueError(f"Only {self.done} of {self.count} examples were written.")
        self.flush()
        self.maps = {}
        constants = constants | {"meta": np.array(json.dumps(meta, default=str))}
        for name, array in constants.items():
            path = self._new(len(self.names))
            self.names[name] = path.name
            with room_for(path), open(path, "wb") as file:
                np.save(file, array)
        with (
            atomic_path(self.path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        ):
            for name, file in self.names.items():
                archive.write(self.folder / file, f"{name}.npy")
        shutil.rmtree(self.folder)


def _take_room(path, start):
    """Takes the room of a file whose bytes from `start` on are zeros, if need be by writing them:
    macOS has no posix_fallocate.
    """
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        file.seek(start)
        for first in range(start, size, CHUNK):
            file.write(bytes(min(CHUNK, size - first)))


def _mark(state):
    """Checksum of what a writer's state.json says."""
    text = json.dumps(state, sort_keys=True, default=str)
    return fingerprint(np.frombuffer(text.encode(), np.uint8))


def _file_name(number):
    """Of the array of that number, in a writer's folder."""
    return f"{number:03d}.npy"


def _check(name, array, shape, sizes):
    if not isinstance(array, np.ndarray):
        raise ValueError(f"`{name}` must be a NumPy array. Received: {type(array).__name__}.")
    kinds, wanted = ("iub", "integers") if name in WHOLE else ("fiub", "real numbers")
    if name == "example_names":
        kinds, wanted = "U", "text"
    if array.dtype.kind not in kinds:
        raise ValueError(f"`{name}` must hold {wanted}. Received: dtype={array.dtype}.")
    if ... in shape:
        shape = shape[:1] + tuple(f"{name}_{i}" for i in range(1, max(array.ndim, 2)))
    if array.ndim != len(shape):
        wanted = ", ".join(shape)
        raise ValueError(f"`{name}` must have shape ({wanted}). Received: shape={array.shape}.")
    for letter, size in zip(shape, array.shape, strict=True):
        letter = f"{name}_{letter}" if letter in ("d_l", "c_m") else letter
        known, by = sizes.setdefault(letter, (size, name))
        if known != size:
            raise ValueError(
                f"`{name}` and `{by}` disagree on their size {letter}: {size} and {known}."
            )
    if array.dtype.kind != "f":
        return
    starts = range(0, len(array), ROWS_AT_ONCE)
    count = sum(int((~np.isfinite(array[i : i + ROWS_AT_ONCE])).sum()) for i in starts)
    if count:
        raise ValueError(f"`{name}` has {count} values that are NaN or infinite.")
