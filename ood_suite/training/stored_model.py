"""Models of finished runs, read from their files."""

import importlib.util
import pathlib
import zipfile

import keras
from absl import logging

from ood_suite.files import FREE_BYTES, MOST_FOLD, RunError
from ood_suite.runs.extraction import kept
from ood_suite.training.backend import has_bfloat16

AGAIN = "Delete it and repeat the training command: it continues from the last checkpoint."
ANOTHER = "Take another checkpoint of the run, or the last: leave out --checkpoint and --ckpt_step."
HUBS = ("keras_cv", "keras_hub", "keras_nlp")  # Keras imports what a file names below these


def read_keras(path, advice):
    """The keras.Model of a file; RunError, with advice on what to do, if it cannot be read."""
    _refuse_stand_ins()
    try:
        _refuse_bombs(pathlib.Path(path))
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise RunError(f"The model {path} cannot be read ({error}). {advice}") from error


def _refuse_stand_ins():
    """RunError if the current folder, from which Python imports, holds one that would be taken for
    a package of Keras: a file could name it, and run what came with it.
    """
    here = pathlib.Path.cwd()
    for name in HUBS:
        found = importlib.util.find_spec(name)
        places = (found.submodule_search_locations or [found.origin]) if found else []
        if any(pathlib.Path(place).resolve().parent == here for place in places):
            raise RunError(f"{here / name} would be imported in place of Keras's: work elsewhere.")


def _refuse_bombs(path):
    """Refuses (ValueError) an archive of Keras that would fill the memory out of little: what is
    packed is read once in pieces, since the list of an archive can be wrong.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        packed = [m for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
        if any(member.compress_type != zipfile.ZIP_DEFLATED for member in packed):
            raise ValueError("it holds what is neither stored nor deflated")
        size = sum(member.file_size for member in packed)
        if size > FREE_BYTES + MOST_FOLD * path.stat().st_size:
            raise ValueError(f"it promises {size:,} bytes, far more than it has")
        for member in packed:
            with archive.open(member) as file:
                while file.read(2**20):
                    pass


def read_model(run, advice=None):
    """A run's keras.Model of its own; RunError if it cannot be read."""
    return read_keras(run.model_path, advice or (AGAIN if run.checkpoint == "last" else ANOTHER))


def read_density(run):
    """A density's model, whose `get_config` has its dtype. One that was trained in bfloat16 is in
    float32 on a processor that has no bfloat16.
    """
    model = read_model(run)
    if model.dtype_policy.name == "float32" or has_bfloat16():
        return model
    logging.info("%s: float32 in place of bfloat16, which this processor lacks.", run.folder)
    twin = type(model).from_config(model.get_config() | {"dtype": "float32"})
    twin.set_weights(model.get_weights())
    return twin


def load_model(run):
    """The same, kept for the next call: not to be changed."""
    return kept(run, "model", lambda: read_model(run))
