"""Models of finished runs, read from their files."""

import keras

from ood_suite.files import RunError
from ood_suite.runs.extraction import kept

AGAIN = "Delete it and repeat the training command: it continues from the last checkpoint."


def read_keras(path, advice):
    """The keras.Model of a file; RunError, with advice on what to do, if it cannot be read."""
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise RunError(f"The model {path} cannot be read ({error}). {advice}") from error


def read_model(run, advice=AGAIN):
    """A run's keras.Model of its own; RunError if it cannot be read."""
    return read_keras(run.model_path, advice)


def load_model(run):
    """The same, kept for the next call: not to be changed."""
    return kept(run, "model", lambda: read_model(run))
