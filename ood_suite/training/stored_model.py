"""Models of finished runs, read from their files."""

import keras
from absl import logging

from ood_suite.files import RunError
from ood_suite.runs.extraction import kept
from ood_suite.training.backend import has_bfloat16

AGAIN = "Delete it and repeat the training command: it continues from the last checkpoint."
ANOTHER = "Take another checkpoint of the run, or the last: leave out --checkpoint and --ckpt_step."


def read_keras(path, advice):
    """The keras.Model of a file; RunError, with advice on what to do, if it cannot be read."""
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise RunError(f"The model {path} cannot be read ({error}). {advice}") from error


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
