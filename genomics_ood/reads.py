"""Read sets: `load(name, split, data_dir)`.

A set lives in `data_dir` as `<name>_<split>.npz` with `bases` uint8 (n, length), A C G T = 0..3,
`labels` int32 (n,), and where known `class_names` (c,), `lineages` (c,), ranks from the domain
down, joined by semicolons, and `origins` (n,), such as "NC_000913.3:101-350(-)".
`genomics_ood.fasta_to_np` and `genomics_ood.records_to_np` write them.
"""

import dataclasses
import itertools
import pathlib

import numpy as np
from absl import logging

from ood_suite import shipped
from ood_suite.data import first_of
from ood_suite.files import atomic_path, fingerprint, load_npz, locked

GENOMICS_DATA = pathlib.Path("genomics_data")  # in the current folder
SPLITS = ("train", "val", "test")
WRITTEN = ("val", "test", "ood_val", "ood_test", "train")  # train last: then the set is whole
_FASTA = "python -m genomics_ood.fasta_to_np --table={} --data_dir={{data_dir}}"
COMMANDS = {
    "bacteria": _FASTA.format("TABLE --name=bacteria"),
    "genera": _FASTA.format(
        "genomics_data/genera.tsv --name=genera --reads=30000,2000,2000 --ood_reads=2000"
    ),
    "genomics": "python -m genomics_ood.records_to_np --tfds --data_dir={data_dir}",
}


@dataclasses.dataclass(frozen=True)
class ReadSet:
    """One split of one set of reads.

    Attributes:
        bases: uint8 (n, length), 0..3. labels: int32 (n,).
        class_names: of the labels. lineages: of the classes, "" where unknown.
        origins: of the reads, such as "NC_000913.3:101-350(-)"; empty where unknown.
        note: "" or one sentence on what a report must say of these data.
    """

    name: str
    split: str
    bases: np.ndarray
    labels: np.ndarray
    class_names: tuple = ()
    lineages: tuple = ()
    note: str = ""
    origins: tuple = ()

    def __len__(self):
        return len(self.bases)

    @property
    def fingerprint(self):
        return fingerprint(self.bases, self.labels)


def check_bases(bases, source="`bases`"):
    """Refuses everything but uint8 (n, length), 0..3, with at least one read.

    Raises:
        ValueError: what was expected and what came.
    """
    bases = np.asarray(bases)
    if bases.dtype != np.uint8 or bases.ndim != 2 or 0 in bases.shape:
        raise ValueError(
            f"{source} must be uint8 of shape (reads, length), not empty. Received: {bases.dtype}, "
            f"shape={bases.shape}."
        )
    if bases.max() > 3:
        raise ValueError(f"{source} must lie in 0..3 (A C G T). Received: {bases.max()}.")
    return bases


def read_file(path):
    """{"bases", "labels", "class_names", "lineages", "origins"} of an npz file."""
    arrays = load_npz(path)
    if "bases" not in arrays:
        raise ValueError(f"{path} must hold an array `bases`. Received: {sorted(arrays)}.")
    bases = check_bases(arrays["bases"], f"`bases` of {path}")
    labels = arrays.get("labels", np.full(len(bases), -1, np.int32))
    if labels.shape != (len(bases),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`labels` of {path} must be integers of shape ({len(bases)},). Received: "
            f"{labels.dtype}, shape={labels.shape}."
        )
    names = tuple(str(name) for name in arrays.get("class_names", ()))
    if names and labels.max() >= len(names):
        raise ValueError(f"{path} has labels up to {labels.max()}, and {len(names)} class names.")
    lineages = tuple(str(text) for text in arrays.get("lineages", ()))
    origins = tuple(str(text) for text in arrays.get("origins", ()))
    if origins and len(origins) != len(bases):
        raise ValueError(f"{path} has {len(bases)} reads, and origins of {len(origins)}.")
    return {
        "bases": bases,
        "labels": labels.astype(np.int32),
        "class_names": names,
        "lineages": lineages,
        "origins": origins,
    }


def filtered(found, label):
    """The reads of one class alone; ValueError if there is none. -1 leaves all as they are."""
    if label < 0:
        return found
    rows = found.labels == label
    if not rows.any():
        raise ValueError(f"--filter_label: {found.name} ({found.split}) has no class {label}.")
    return dataclasses.replace(
        found,
        bases=found.bases[rows],
        labels=found.labels[rows],
        origins=tuple(itertools.compress(found.origins, rows)),
    )


def training_and_validation(name, label=-1, data_dir=None):
    """The splits "train" and "val" of a set, of one class alone unless `label` is -1.

    Raises:
        ValueError: lengths that differ, a class that is not there, one file for both.
    """
    training, validation = (load(name, split, data_dir) for split in ("train", "val"))
    if np.array_equal(training.bases, validation.bases):
        raise ValueError(
            f"The training and validation reads of {name} are the same reads: give a set of "
            "splits, NAME_train.npz, NAME_val.npz and NAME_test.npz, by its name NAME and "
            "--data_dir."
        )
    if training.bases.shape[1] != validation.bases.shape[1]:
        raise ValueError(
            f"The reads of {validation.name} (val) have {validation.bases.shape[1]} bases, those "
            f"of {training.name} (train) {training.bases.shape[1]}."
        )
    return filtered(training, label), filtered(validation, label)


def fingerprints(sets):
    """What config.json says of the ReadSets of a training."""
    return {f"{s.name}_{s.split}": s.fingerprint for s in sets}


def check_labels(training, validation, at_least=2):
    """The number of classes; ValueError unless the labels are 0..classes - 1 in both sets."""
    classes = np.unique(training.labels)
    if len(classes) < at_least or not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(
            f"The labels of {training.name} must be 0..classes - 1, at least {at_least}, each with "
            f"reads. Received: {classes[:20].tolist()}."
        )
    if not 0 <= validation.labels.min() <= validation.labels.max() < len(classes):
        raise ValueError(f"{validation.name} (val) has labels that the training reads have not.")
    return len(classes)


def canonical(bases):
    """The smaller of each read and its reverse complement: the same for both strands.

    >>> canonical(np.array([[3, 3, 2], [1, 0, 0]], np.uint8))
    array([[1, 0, 0],
           [1, 0, 0]], dtype=uint8)
    """
    other = 3 - bases[:, ::-1]
    first = np.argmax(bases != other, axis=1)[:, None]
    smaller = np.take_along_axis(bases, first, 1) <= np.take_along_axis(other, first, 1)
    return np.where(smaller, bases, other)


def write_file(path, bases, labels, class_names=(), lineages=(), origins=()):
    """Writes a file of reads atomically, compressed (a little over 2 bits a base)."""
    bases = check_bases(bases)
    if len(labels) != len(bases):
        raise ValueError(f"There are {len(bases)} reads and {len(labels)} labels.")
    arrays = {"bases": bases, "labels": np.asarray(labels, np.int32)}
    if len(class_names):
        arrays["class_names"] = np.array(class_names, dtype=str)
    if any(lineages):
        arrays["lineages"] = np.array(lineages, dtype=str)
    if len(origins):
        arrays["origins"] = np.array(origins, dtype=str)
    with atomic_path(pathlib.Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def write_set(folder, name, make, overwrite=False):
    """Writes a set of reads, holding the lock of its folder.

    Args:
        folder: None is `genomics_data` in the current folder.
        make: function that gives {one of WRITTEN: arguments of write_file behind the path}.
        overwrite: replace a set of that name, once the new one is made.

    Raises:
        ValueError: a set of that name is there, or embedded.
        BusyError: another process writes to the folder.
    """
    folder = pathlib.Path(folder or GENOMICS_DATA)
    paths = {split: folder / f"{name}_{split}.npz" for split in WRITTEN}
    is_default = folder.resolve() == GENOMICS_DATA.resolve()
    if is_default and any(_sample(path.name).exists() for path in paths.values()):
        raise ValueError(
            f"An embedded sample is called {name}, and stands in for what {folder} lacks: the two "
            "would be mixed. Give another --name, or --data_dir."
        )
    with locked(folder):
        there = [path for path in paths.values() if path.exists()]
        if there and not overwrite:
            raise ValueError(f"{there[0]} is there already. Another --name, or --overwrite.")
        found = make()
        for path in reversed(there):  # a mixture of two samplings would share positions
            path.unlink()
        for split, path in paths.items():
            if split in found:
                bases, labels, *_ = found[split]
                write_file(path, *found[split])
                logging.info(
                    "%s: %d reads of %d classes.", path, len(bases), len(np.unique(labels))
                )


def _sample(name):
    """Where the embedded sample of a file's name would be."""
    return shipped.resource("genomics_data") / "samples" / name


def load(name, split, data_dir=None):
    """Loads one split of a set, from `data_dir`, or where none is given from the embedded sample.

    Args:
        name: such as "bacteria"; a path before `_<split>.npz`, such as "/data/mine", whose set is
            called by its last part; or the path of an npz file, which is read whatever the split.
        split: "train", "val" or "test".
        data_dir: folder; None is `genomics_data` in the current folder.

    Raises:
        ValueError: an unknown split, or a file that does not hold reads.
        FileNotFoundError: neither file nor sample; the message names both path and command.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}. Received: {split!r}.")
    if name.endswith(".npz"):
        path = pathlib.Path(name)
        if not path.exists():
            raise FileNotFoundError(f"There is no file {path}.")
        return ReadSet(path.stem, split, **read_file(path))
    if data_dir and not pathlib.Path(data_dir).is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir} (--data_dir).")
    embedded, data_dir = not data_dir, pathlib.Path(data_dir or GENOMICS_DATA)
    path = data_dir / f"{name}_{split}.npz"
    if path.exists():
        return ReadSet(pathlib.Path(name).name, split, **read_file(path))
    command = COMMANDS.get(name.removesuffix("_ood"), "see genomics_data/README.md")
    sample = _sample(f"{name}_{split}.npz")
    if not embedded or not sample.exists():
        beside = "no embedded sample of it" if embedded else "--data_dir is given"
        command = command.format(data_dir=data_dir)
        raise FileNotFoundError(f"There is no {path}, and {beside}. To make it: {command}.")
    found, command = read_file(sample), command.format(data_dir="FOLDER")
    note = f"{name} ({split}) is the embedded sample of {len(found['bases'])} reads; "
    return ReadSet(name, split, **found, note=f"{note}the full set: {command}")


def first_available(names, split, data_dir=None):
    """The first of several sets that can be loaded, with a note when it is not the first choice."""
    return first_of(names, lambda name: load(name, split, data_dir))
