"""Run folders: settings on record before the first step, one writer, atomic files, clean
resumption.

    output/<branch>/<experiment>/<run>/
        config.json       settings, extractor, versions, git commit, data fingerprints
        checkpoints/      state of an interrupted training
        logs/             history.csv and TensorBoard events
        model.keras       the finished model
        outputs/          what the model says of each data set (see ood_suite.outputs)
        report/           what the evaluator wrote

Standard library and NumPy only.
"""

import contextlib
import csv
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time

import numpy as np

PACKAGES = ("numpy", "scipy", "keras", "tensorflow", "tensorflow-probability", "jax")


class RunError(RuntimeError):
    """A run folder that cannot be used as asked: the message says why and what to do."""


class BusyError(RunError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, which replaces `path` in one step when the block ends
    well.

    The temporary name keeps the suffix. Whatever happens, `path` holds the old content or the whole
    new one.
    """
    path = pathlib.Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path):
    """Makes a folder and its parents; an unwritable place is a RunError that names it."""
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"Cannot make the folder {path}: {error.strerror}. Choose another with --out_dir."
        ) from error
    if not os.access(path, os.W_OK):
        raise RunError(f"The folder {path} is not writable. Choose another with --out_dir.")


def write_text(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def read_json(path):
    """Reads a JSON file; a missing or damaged one is a RunError that names it."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"There is no file {path}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error


def write_csv(path, rows):
    """Writes dicts as CSV; the columns are the keys of all rows in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    """Rows of a CSV file as dicts of text; none when the file does not exist."""
    if not pathlib.Path(path).exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fingerprint(*arrays):
    """First 16 hex digits of a SHA-256 over dtype, shape and content of the arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(memoryview(array).cast("B") if array.size else b"")
    return digest.hexdigest()[:16]


def versions():
    """Python, platform, TensorFlow's threads and the packages that numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found["threads"] = os.environ.get("TF_NUM_INTRAOP_THREADS", str(os.cpu_count()))
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def git_commit():
    """The commit of the source tree, with "+changes" if it has any; None outside a checkout."""
    folder = pathlib.Path(__file__).parent

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@contextlib.contextmanager
def locked(folder, wait_s=0.0):
    """Holds the folder's lock; a second process is refused with a BusyError, after `wait_s`
    seconds. The lock falls with its process, also at kill -9.
    """
    make_folder(folder)
    deadline = time.monotonic() + wait_s
    with open(pathlib.Path(folder) / ".lock", "a+", encoding="utf-8") as file:
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(0.1)
        except OSError as error:
            file.seek(0)
            raise BusyError(
                f"Another process ({file.read().strip() or 'unknown'}) is writing to {folder}. "
                "Wait for it or choose another folder."
            ) from error
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        for leftover in (".", "checkpoints", "logs"):  # of a writer that was killed
            for path in (pathlib.Path(folder) / leftover).glob(".partial-*"):
                path.unlink()
        yield


class Run:
    """One run folder. `Run.open` makes or continues it; `Run.load` reads a finished or unfinished
    one.
    """

    def __init__(self, folder, config, checkpoint="last"):
        self.folder = pathlib.Path(folder)
        self.config = config
        self.checkpoint = checkpoint

    @classmethod
    def open(cls, folder, settings, extractor, fingerprints):
        """Makes the folder and its config.json, or continues a run with the very same settings and
        data.

        Args:
            folder: path of the run.
            settings: dict of JSON values that decide the result.
            extractor: name of the module whose `extract` makes this run's Outputs.
            fingerprints: dict, data set -> fingerprint.

        Raises:
            RunError: the folder holds a run with other settings or data; the message shows the
                difference.
        """
        folder = pathlib.Path(folder)
        wanted = json.loads(json.dumps({"settings": settings, "fingerprints": fingerprints}))
        if (folder / "config.json").exists():
            config = read_json(folder / "config.json")
            differences = [
                f"  {key}: {config.get(part, {}).get(key)!r} there, {wanted[part].get(key)!r} now"
                for part in wanted
                for key in sorted({*wanted[part], *config.get(part, {})})
                if config.get(part, {}).get(key) != wanted[part].get(key)
            ]
            if differences:
                raise RunError(
                    f"{folder} holds a run made with other settings:\n"
                    + "\n".join(differences)
                    + "\nChoose another --out_dir, repeat these settings, or delete that folder."
                )
            return cls(folder, config)
        config = wanted | {
            "extractor": extractor,
            "versions": versions(),
            "git_commit": git_commit(),
        }
        make_folder(folder)
        write_json(folder / "config.json", config)
        return cls(folder, config)

    @classmethod
    def load(cls, folder, checkpoint="last"):
        """Reads an existing run; RunError if `folder` is none, or has no such checkpoint.

        Args:
            checkpoint: "last" for the finished model, or the name of a model that the training kept
                on the way: "first", "best", "epoch_10".
        """
        folder = pathlib.Path(folder)
        if not (folder / "config.json").exists():
            raise RunError(f"{folder} is not a run folder: it has no config.json.")
        run = cls(folder, read_json(folder / "config.json"), checkpoint)
        kept = run.checkpoints()
        if checkpoint not in kept:
            raise RunError(f"{folder} has no checkpoint {checkpoint!r}. It has: {', '.join(kept)}.")
        return run

    @property
    def parts(self):
        """Folders of the runs that this one is made of, such as the members of an ensemble."""
        return [self.folder / name for name in self.settings.get("parts", ())]

    def checkpoints(self):
        """Names of the models that are kept: "last", and those that all parts have."""
        kept = [
            {path.stem for path in (folder / "checkpoints").glob("*.keras")}
            for folder in self.parts or [self.folder]
        ]
        return ["last", *sorted(set.intersection(*kept))]

    @property
    def settings(self):
        return self.config["settings"]

    @property
    def model_path(self):
        if self.checkpoint == "last":
            return self.folder / "model.keras"
        return self.folder / "checkpoints" / f"{self.checkpoint}.keras"

    @property
    def is_finished(self):
        """Whether the model is there; of a run made of parts (an ensemble), all of theirs."""
        if self.parts:
            return all((part / "model.keras").exists() for part in self.parts)
        return self.model_path.exists()

    def require_finished(self):
        """RunError if there is no model yet."""
        if not self.is_finished:
            raise RunError(
                f"{self.folder} has no finished model yet. Its training command continues it."
            )

    def outputs_path(self, dataset, split, part=None):
        """File of what the model says of a data set; `part` names a file beside the main one."""
        name = f"{dataset}_{split}_{part}" if part else f"{dataset}_{split}"
        suffix = "" if self.checkpoint == "last" else f"_{self.checkpoint}"
        return self.folder / f"outputs{suffix}" / f"{name}.npz"
