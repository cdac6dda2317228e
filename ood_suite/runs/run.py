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
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

from ood_suite.files import RunError, make_folder, read_json, write_json

PACKAGES = ("numpy", "scipy", "keras", "tensorflow", "tensorflow-probability", "jax")


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
