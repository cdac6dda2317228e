"""Outputs: the one record between a model and everything that judges it.

What a model says of one data set, as arrays with n examples first. Extractors write it, scores and
the evaluator read it; nothing to the right of it needs a model, a framework or a GPU.
"""

import dataclasses
import json
import lzma
import pathlib
import zipfile
import zlib

import numpy as np

from ood_suite.runs import atomic_path

# Field -> shape; "n" is the number of examples, other letters must agree between fields.
SHAPES = {
    "labels": ("n",),
    "logits": ("n", "c"),
    "features": ("n", "d"),
    "head_kernel": ("d", "c"),
    "head_bias": ("c",),
    "log_prob": ("n",),
    "log_prob_map": ("n", ...),
    "background_log_prob": ("n",),
    "background_log_probs": ("n", "b"),
    "background_log_prob_map": ("n", ...),
    "code_length": ("n",),
    "images": ("n", "h", "w", "channels"),
}
MAPPINGS = {"logits_perturbed": ("n", "c"), "layer_features": ("n", "d_l")}


@dataclasses.dataclass
class Outputs:
    """Arrays of one run on one data set; every field may be absent, all that is there is checked.

    Attributes:
        labels: integer (n,).
        logits: float (n, c). features: float (n, d), the input of the last dense layer.
        head_kernel: float (d, c). head_bias: float (c,).
        logits_perturbed: {"T=1000,epsilon=0.0014": float (n, c)}.
        layer_features: {layer: float (n, d_l)}.
        log_prob: float64 (n,), nats per example.
        log_prob_map: float32 (n, height, width) or (n, length), nats; sums to log_prob.
        background_log_prob, background_log_prob_map: the same of the chosen background model.
        background_log_probs: float64 (n, b), of b background models.
        code_length: float64 (n,), bits of the lossless code of each example (PNG, without its fixed
            header).
        images: uint8 (n, height, width, channels), kept where maps are kept, for the figures.
        meta: dict of JSON values: run, data set, split, step, fingerprint, dtype, note.

    Raises:
        ValueError: a wrong number of dimensions, lengths that differ, or values that are not
            finite.
    """

    labels: np.ndarray | None = None
    logits: np.ndarray | None = None
    features: np.ndarray | None = None
    head_kernel: np.ndarray | None = None
    head_bias: np.ndarray | None = None
    logits_perturbed: dict | None = None
    layer_features: dict | None = None
    log_prob: np.ndarray | None = None
    log_prob_map: np.ndarray | None = None
    background_log_prob: np.ndarray | None = None
    background_log_probs: np.ndarray | None = None
    background_log_prob_map: np.ndarray | None = None
    code_length: np.ndarray | None = None
    images: np.ndarray | None = None
    meta: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        sizes = {}
        for name, array in self._arrays():
            shape = SHAPES[name] if name in SHAPES else MAPPINGS[name.split("/")[0]]
            _check(name, array, shape, sizes)
        self._num_examples = sizes.get("n", (0, ""))[0]

    def __len__(self):
        return self._num_examples

    def _arrays(self):
        """(name, array) of all that is there; entries of a mapping are called field/key."""
        for name in SHAPES:
            if getattr(self, name) is not None:
                yield name, getattr(self, name)
        for name in MAPPINGS:
            for key, array in (getattr(self, name) or {}).items():
                yield f"{name}/{key}", array

    def require(self, names, needed_by):
        """The named arrays in order; ValueError that says which is missing, of what, and how to get
        it.
        """
        for name in names:
            if getattr(self, name) is None:
                have = ", ".join(dict.fromkeys(n.split("/")[0] for n, _ in self._arrays()))
                where = self.meta.get("run", "these outputs")
                make = self.meta.get("command", "extract the outputs again")
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
        arrays = dict(self._arrays()) | {"meta": np.array(json.dumps(self.meta, default=str))}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote; a missing or damaged file is a ValueError that names it."""
        arrays = load_npz(path)
        fields = {"meta": json.loads(str(arrays.pop("meta", "{}")))}
        for name, array in arrays.items():
            field, _, key = name.partition("/")
            if field not in SHAPES and field not in MAPPINGS:
                raise ValueError(f"{path} holds an unknown array `{name}`.")
            if key:
                fields.setdefault(field, {})[key] = array
            else:
                fields[field] = array
        return cls(**fields)


def load_npz(path):
    """All arrays of an npz file as a dict, never unpickling anything.

    Raises:
        ValueError: the file is missing, truncated, holds Python objects, or is no npz.
    """
    if not pathlib.Path(path).exists():
        raise ValueError(f"There is no file {path}.")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one bare array")
            return {name: file[name] for name in file.files}
    except (
        ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path} cannot be read as npz ({error}). It may be truncated: delete it and run the "
            f"command that makes "
            "it again."
        ) from error


def _check(name, array, shape, sizes):
    if not isinstance(array, np.ndarray):
        raise ValueError(f"`{name}` must be a NumPy array. Received: {type(array).__name__}.")
    if ... in shape:
        shape = shape[:1] + tuple(f"{name}_{i}" for i in range(1, max(array.ndim, 2)))
    if array.ndim != len(shape):
        wanted = ", ".join(shape)
        raise ValueError(f"`{name}` must have shape ({wanted}). Received: shape={array.shape}.")
    for letter, size in zip(shape, array.shape, strict=True):
        letter = f"{name}_{letter}" if letter == "d_l" else letter
        known, by = sizes.setdefault(letter, (size, name))
        if known != size:
            raise ValueError(
                f"`{name}` and `{by}` disagree on their size {letter}: {size} and {known}."
            )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ValueError(f"`{name}` has {count} values that are NaN or infinite.")
