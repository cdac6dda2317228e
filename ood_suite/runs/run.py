"""Run folders: settings on record before the first step, one writer, clean resumption.

output/<branch>/<experiment>/<run>/
    config.json       kind, roles, settings, extractor, versions, git commit, data fingerprints
    checkpoints/      state of an interrupted training
    logs/             history.csv and TensorBoard events
    model.keras       the finished model (model.npz of words that were counted)
    outputs/          what the model says of each data set (see ood_suite.outputs)
    report/           what the evaluator wrote
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from ood_suite import processors
from ood_suite.data import layouts
from ood_suite.data.layouts import DataDir
from ood_suite.files import RunError, fingerprint, locked, make_folder, read_json, write_json

# Settings that say where something lay; a fingerprint says what it was.
PLACES = ("base_run", "checkpoint")
KINDS = ("classifier", "density", "ensemble", "member")
OF_SETTINGS = ("checkpoints/*.keras", "checkpoints/outliers_*.npz")
PACKAGES = ("numpy", "scipy", "keras", "tensorflow", "tensorflow-probability", "jax")
# Extractors of density models: of runs that were made before `kind` was on record.
_DENSITIES = ("images_ood.extract", "genomics_ood.extract")
# Extractors of models that are no Keras models -> the file of the model in the run's folder.
_MODEL_FILES = {"genomics_ood.extract_kmers": "model.npz"}


@dataclasses.dataclass(frozen=True)
class Role:
    """Data that play a part in a run.

    Attributes:
        names: data sets in order of preference; the first that is there is taken.
        split: "train", "val" or "test".
        near: of an OOD test set, whether it is near to the ID set.
    """

    names: tuple[str, ...]
    split: str
    near: bool = False


def roles_from(settings: Mapping[str, Any]) -> dict[str, Role]:
    """{role: Role} of a run's settings: "training", "held_out", "id_test", "validation_ood" (each
    may be absent), and "ood:<name>" for each OOD test set.
    """
    own, roles = settings.get("id_dataset"), {}
    for role, key, split in (
        ("training", "id_train", "train"),
        ("held_out", "id_val", "val"),
        ("id_test", "id_test", "test"),
    ):
        if name := settings.get(key) or own:
            roles[role] = Role((name,), split)
    if names := settings.get("ood_validation"):
        roles["validation_ood"] = Role(tuple(names), settings["ood_validation_split"])
    for key in ("ood_near", "ood_far", "ood_test"):
        for name in settings.get(key) or ():
            roles[f"ood:{name}"] = Role((name,), "test", near=key == "ood_near")
    return roles


def _completed(config: Any, path: pathlib.Path) -> dict[str, Any]:
    """The config.json of a run, with the fields that runs made by version 0.1 lack."""
    parts = ("settings", "fingerprints", "versions")
    if not isinstance(config, dict) or not all(isinstance(config.get(p), dict) for p in parts):
        raise RunError(f"{path} is not that of a run: it must hold {', '.join(parts)}.")
    settings = config["settings"]
    members = settings.get("parts", [])
    if not isinstance(members, list) or not all(map(is_plain, members)):
        raise RunError(f"{path}: parts must be names of folders beside it. Received: {members!r}.")
    if "kind" not in config:
        kind = "density" if config.get("extractor") in _DENSITIES else "classifier"
        kind = "ensemble" if "parts" in settings else "member" if "member" in settings else kind
        config |= {"kind": kind, "roles": _as_json(roles_from(settings))}
    if config["kind"] not in KINDS:
        raise RunError(f"{path}: kind must be one of {KINDS}. Received: {config['kind']!r}.")
    try:
        _roles_of(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: its roles are damaged ({error!r:.200}).") from error
    return {"git_commit": None} | config


def _has_begun(folder: pathlib.Path) -> bool:
    """Whether a run has come to its first checkpoint, or its first part."""
    left = ("checkpoints/step_*.npz", "logs/history.csv", "model.*", "member*/config.json")
    return any(path for pattern in left for path in folder.glob(pattern))


def is_plain(name: Any) -> bool:
    """Whether a name is that of something within the folder, not a path that leads out of it."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name


def _by_number(name: str) -> str:
    """A key that sorts epoch_2 before epoch_10."""
    return re.sub(r"\d+", lambda match: match[0].zfill(12), name)


def _roles_of(config: Mapping[str, Any]) -> dict[str, Role]:
    found = {}
    for name, role in config["roles"].items():
        names, split, near = tuple(role["names"]), role["split"], role["near"]
        if not names or not all(isinstance(text, str) for text in (*names, split)):
            raise ValueError(f"{name}: names and split must be texts")
        found[name] = Role(names, split, bool(near))
    return found


def _as_json(roles: Mapping[str, Role]) -> dict[str, Any]:
    return json.loads(json.dumps({name: dataclasses.asdict(role) for name, role in roles.items()}))


def versions() -> dict[str, str]:
    """Python, platform, TensorFlow's threads and the packages that numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found["threads"] = os.environ.get("TF_NUM_INTRAOP_THREADS", str(processors.usable()))
    for package in (*PACKAGES, "ood-suite"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def git_commit() -> str | None:
    """The commit of the source tree, with "+changes" if it has any; None outside a checkout."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed: a checkout around it is not ours
        return None

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def next_step(folder: str | pathlib.Path, data_dir: DataDir = None, more: str = "") -> str:
    """The command that evaluates a run, as it can be pasted.

    Args:
        data_dir: of the run's data, where it is not the default. more: further flags.
    """
    words = ["python", "-m", "ood_suite.eval", f"--run={folder}"]
    words += layouts.flags(data_dir)
    return " ".join(filter(None, [shlex.join(words), more]))


@contextlib.contextmanager
def opened(
    folder: str | pathlib.Path,
    *,
    kind: str,
    extractor: str,
    settings: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    notes: Sequence[str] = (),
    data_dir: DataDir = None,
) -> Iterator["Run"]:
    """Holds a run folder's lock while it is trained: yields the Run, which may be finished already.

    Args:
        notes: on the data, logged before the training begins. data_dir: for the next command.
        The others are those of `Run.open`.
    """
    with locked(folder):
        run = Run.open(
            folder, kind=kind, extractor=extractor, settings=settings, fingerprints=fingerprints
        )
        if run.is_finished:
            logging.info("%s is finished: nothing to do.", folder)
        for note in () if run.is_finished else filter(None, notes):
            logging.info("Data: %s.", note)
        yield run
        if run.is_finished and kind != "member":
            whole = run.folder.parent if kind == "density" else run.folder
            logging.info("The run is in %s. Next: %s", folder, next_step(whole, data_dir))


class Run:
    """One run folder. `Run.open` makes or continues it, `Run.load` reads what is there.

    Attributes:
        folder: its path. config: what config.json holds.
        checkpoint: which of its models is meant, see `Run.load`.
    """

    def __init__(self, folder: pathlib.Path, config: dict[str, Any], checkpoint: str = "last"):
        self.folder = folder
        self.config = config
        self.checkpoint = checkpoint

    @classmethod
    def open(
        cls,
        folder: str | pathlib.Path,
        *,
        kind: str,
        extractor: str,
        settings: Mapping[str, Any],
        fingerprints: Mapping[str, str],
    ) -> "Run":
        """Makes the folder and its config.json, or continues a run with the very same settings and
        data.

        Args:
            folder: path of the run.
            kind: one of KINDS. extractor: a name of extraction.EXTRACTORS.
            settings: JSON values that decide the result; they name the data sets, see `roles_from`.
            fingerprints: data set -> fingerprint.

        Raises:
            RunError: the folder holds a run with other settings or data; the message shows the
                difference.
        """
        folder = pathlib.Path(folder)
        path = folder / "config.json"
        wanted = json.loads(json.dumps({"settings": settings, "fingerprints": fingerprints}))
        if path.exists():
            config = _completed(read_json(path), path)
            differences = [
                f"  {key}: {config[part].get(key)!r} there, {wanted[part].get(key)!r} now"
                for part in wanted
                for key in sorted({*wanted[part], *config[part]})
                if config[part].get(key) != wanted[part].get(key)
                and not (part == "settings" and key in PLACES)
            ]
            if differences and _has_begun(folder):
                raise RunError(
                    f"{folder} holds a run made with other settings:\n"
                    + "\n".join(differences)
                    + "\nChoose another --out_dir, repeat these settings, or delete that folder."
                )
            if not differences:
                return cls(folder, config)
            # A wrong call that failed before its first checkpoint is not in the way of the right
            # one; models that it kept at step 0, and outliers that it chose, are of its settings.
            for stale in (path for pattern in OF_SETTINGS for path in folder.glob(pattern)):
                stale.unlink()
        elif _has_begun(folder):
            raise RunError(
                f"{folder} has no config.json, but what a run left, whose settings nobody knows. "
                "Put config.json back, or choose another --out_dir."
            )
        config = wanted | {
            "kind": kind,
            "roles": _as_json(roles_from(settings)),
            "extractor": extractor,
            "versions": versions(),
            "git_commit": git_commit(),
        }
        make_folder(folder)
        write_json(path, config)
        return cls(folder, config)

    @classmethod
    def load(cls, folder: str | pathlib.Path, checkpoint: str = "last") -> "Run":
        """Reads an existing run; RunError if `folder` is none, or has no such checkpoint.

        Args:
            checkpoint: "last" for the finished model, or the name of a model that the training kept
                on the way: "first", "best", "epoch_10", "step_200"; the step at which the training
                ended is the finished model too.
        """
        folder = pathlib.Path(folder)
        path = folder / "config.json"
        if not path.exists():
            raise RunError(f"{folder} is not a run folder: it has no config.json.")
        run = cls(folder, _completed(read_json(path), path), checkpoint)
        kept = run.checkpoints()
        # A classifier of reads names the steps of the density of its experiment too.
        names = ("classifier_steps", "total_steps")[run.kind != "classifier" :]
        ends = [f"step_{run.settings[name]}" for name in names if name in run.settings][:1]
        if checkpoint not in kept + ends:
            known = [f"last (= {end})" for end in ends] or ["last"]
            known += [name for name in kept[1:] if name not in ends]
            raise RunError(
                f"{folder} has no checkpoint {checkpoint!r}. It has: {', '.join(known)}."
            )
        if checkpoint not in kept:
            run.checkpoint = "last"
        return run

    @property
    def kind(self) -> str:
        """What the run is: one of KINDS."""
        return self.config["kind"]

    @property
    def roles(self) -> dict[str, Role]:
        """{role: data sets and split}, see `roles_from`."""
        return _roles_of(self.config)

    @property
    def settings(self) -> dict[str, Any]:
        return self.config["settings"]

    @property
    def mark(self) -> str:
        """Fingerprint of the settings and data, which the run's checkpoints carry."""
        settings = {n: value for n, value in self.settings.items() if n != "base_run"}
        text = json.dumps([settings, self.config["fingerprints"]], sort_keys=True)
        return fingerprint(np.frombuffer(text.encode(), np.uint8))

    @property
    def parts(self) -> list[pathlib.Path]:
        """Folders of the runs that this one is made of: the members of an ensemble."""
        return [self.folder / name for name in self.settings.get("parts", ())]

    def checkpoints(self) -> list[str]:
        """Names of the models that are kept: "last", and those that all parts have."""
        kept = [
            {path.stem for path in (folder / "checkpoints").glob("*.keras")}
            for folder in self.parts or [self.folder]
        ]
        return ["last", *sorted(set.intersection(*kept), key=_by_number)]

    @property
    def model_path(self) -> pathlib.Path:
        if self.checkpoint == "last":
            return self.folder / _MODEL_FILES.get(str(self.config.get("extractor")), "model.keras")
        return self.folder / "checkpoints" / f"{self.checkpoint}.keras"

    @property
    def is_finished(self) -> bool:
        """Whether the model is there; of a run made of parts (an ensemble), all of theirs."""
        if self.parts:
            return all((part / "model.keras").exists() for part in self.parts)
        return self.model_path.exists()

    def require_finished(self) -> None:
        """Refuses a run without a model (RunError), and warns of one that may become another."""
        if not self.is_finished:
            raise RunError(
                f"{self.folder} has no finished model yet. Its training command continues it."
            )
        if self.checkpoint == "best" and not Run.load(self.folder).is_finished:
            logging.warning(
                "%s is not trained to its end: a later model may become its best.", self.folder
            )

    def outputs_path(self, dataset: str, split: str, part: str | None = None) -> pathlib.Path:
        """File of what the model says of a data set; `part` names a file beside the main one.

        Raises:
            ValueError: the names lead to another folder.
        """
        name = f"{dataset}_{split}_{part}" if part else f"{dataset}_{split}"
        if not is_plain(name):
            raise ValueError(f"Names of data sets and parts hold no '/'. Received: {name}.")
        suffix = "" if self.checkpoint == "last" else f"_{self.checkpoint}"
        return self.folder / f"outputs{suffix}" / f"{name}.npz"
