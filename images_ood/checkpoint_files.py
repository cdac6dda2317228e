"""Checkpoints of the likelihood-ratio authors' code: where they lie, and what is in them.

<model_dir>/reg<weight>_mr<rate>/<run>/model/
    params.json                      the settings of the training
    model_step<n>.ckpt.index         and .data-*: TensorFlow 1, written by a Saver

Reference: Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019, and its
code. Files are read by TensorFlow's reader of tensors: nothing in them is executed.
"""

import dataclasses
import difflib
import math
import pathlib
import re
from typing import Any

import numpy as np
from absl import logging

from images_ood.configs import Experiment
from ood_suite.files import RunError, fingerprint, read_json
from ood_suite.optional import optional
from ood_suite.runs.settings import check, declared, kind_of

# What a params.json holds: without these nobody knows the network or its part in the ratio, ...
REQUIRED = (
    "exp", "mutation_rate", "n_channel", "n_dim", "num_filters", "num_hierarchies",
    "num_logistic_mix", "num_resnet", "reg_weight", "rescale_pixel_value", "use_weight_norm",
)  # fmt: skip
# ... these are recorded where they are given, and these are known and not used.
RECORDED = (
    "batch_size", "data_init", "dropout_p", "eval_every", "learning_rate", "learning_rate_decay",
    "momentum", "momentum2",
)  # fmt: skip
NOT_USED = (
    "data_dir", "job_dir", "job_log_dir", "job_model_dir", "out_dir", "repeat_id", "save_im",
    "total_steps",
)  # fmt: skip
# Variables that only a training needs: Adam's moments, and counters.
_OF_TRAINING = re.compile(r"(.*/)?(Adam(_\d+)?|beta[12]_power|global_step)")
_WEIGHT = re.compile(r"(?:.*/)?((?:conv2d|conv2d_transpose|dense)(?:_\d+)?/(?:kernel|bias))")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One trained model of theirs.

    Attributes:
        name: path below `model_dir`, such as reg0.00_mr0.10/0/model/model_step50000.ckpt.
        path: what TensorFlow calls the checkpoint's prefix. params: of params.json, checked.
    """

    name: str
    path: pathlib.Path
    params: dict[str, Any]


def find(model_dir, ckpt_step, repeat_id=0):
    """The Checkpoint of every reg<weight>_mr<rate> folder, foreground and backgrounds.

    Args:
        model_dir: folder, such as testmodels/expfashion/rescaleFalse.
        ckpt_step: step of the training, as in the files' names.
        repeat_id: which of each folder's runs, in the order of their names; -1: model/ lies
            directly beneath it.

    Raises:
        RunError: a folder, a run or a step that is not there; the message lists what is.
        ValueError: a params.json that is damaged, or of a network that cannot be converted.
    """
    model_dir = pathlib.Path(model_dir)
    folders = sorted(path for path in model_dir.glob("reg*_mr*") if path.is_dir())
    if not folders:
        raise RunError(
            f"--model_dir must hold folders reg<weight>_mr<rate>, as expfashion/rescaleFalse does. "
            f"{model_dir} {_holds(model_dir)}."
        )
    found = []
    for folder in folders:
        path = _of_step(_model_folder(folder, repeat_id), ckpt_step)
        params = read_params(path.parent / "params.json")
        expected = f"reg{params['reg_weight']:.2f}_mr{params['mutation_rate']:.2f}"
        if folder.name != expected:
            raise ValueError(
                f"{path.parent / 'params.json'} is of a model that belongs into {expected}, and "
                f"lies in {folder.name}. Put back the one that belongs there."
            )
        found.append(Checkpoint(path.relative_to(model_dir).as_posix(), path, params))
    return found


def _holds(folder):
    if not folder.is_dir():
        return "is no folder"
    names = sorted(path.name for path in folder.iterdir())
    return f"holds {', '.join(names[:6]) or 'nothing'}{', ...' if len(names) > 6 else ''}"


def _model_folder(folder, repeat_id):
    """The model/ of one run of a folder."""
    runs = sorted(path.name for path in folder.iterdir() if (path / "model").is_dir())
    if repeat_id == -1:
        if (folder / "model").is_dir():
            return folder / "model"
        raise RunError(f"--repeat_id=-1: {folder} must hold model/. It {_holds(folder)}.")
    if not 0 <= repeat_id < len(runs):
        direct = " --repeat_id=-1 takes its model/." if (folder / "model").is_dir() else ""
        raise RunError(
            f"{folder} has {len(runs)} runs ({', '.join(runs) or 'no folder with a model/'}), "
            f"counted from 0. Received: --repeat_id={repeat_id}.{direct}"
        )
    return folder / runs[repeat_id] / "model"


def _of_step(folder, step):
    """Prefix of the checkpoint of a step."""
    names = [re.fullmatch(r"model_step(\d+)\.ckpt\.index", path.name) for path in folder.iterdir()]
    steps = sorted(int(match[1]) for match in names if match)
    if step not in steps:
        raise RunError(
            f"{folder} has no checkpoint of step {step}. It has: "
            f"{', '.join(map(str, steps)) or 'none (model_step<n>.ckpt.index)'}."
        )
    return folder / f"model_step{step}.ckpt"


def read_params(path):
    """The settings of a params.json; names that nobody knows are logged and left out.

    Raises:
        RunError: the file is not there, or no JSON. ValueError: a setting that is missing, of
            another type or out of range, or that our network cannot express.
    """
    if not path.exists():
        raise RunError(f"{path} is missing: it says what network the checkpoint is of.")
    params = read_json(path)
    if not isinstance(params, dict):
        raise ValueError(f"{path} must hold settings by name. Received: {type(params).__name__}.")
    kinds = {"exp": str, "n_channel": int, "n_dim": int}
    fields = declared(Experiment)
    kinds |= {n: kind_of(fields[n][0]) for n in (*REQUIRED, *RECORDED) if n in fields}
    unknown = sorted(set(params) - set(kinds) - set(NOT_USED))
    for name in REQUIRED:
        if name not in params:
            close = difflib.get_close_matches(name, unknown, 1)
            hint = f" Is {close[0]} meant for it?" if close else ""
            raise ValueError(f"{path} lacks {name}.{hint}")
    if unknown:
        logging.warning("%s has settings that are not known and not used: %s.", path, unknown)
    params = {name: value for name, value in params.items() if name in kinds}
    for name, value in params.items():
        _check_kind(path, name, value, kinds[name])
    try:
        check(Experiment, params)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix('--')}") from error
    if params["use_weight_norm"]:
        raise ValueError(
            f"{path}: use_weight_norm must be false: with it their files hold directions and gains "
            "under names that were never published. Received: true."
        )
    return params


def _check_kind(path, name, value, kind):
    """Refuses a value of another type; a whole number is a float too, true is no number."""
    accepted = (int, float) if kind is float else kind
    right = isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)
    if not right or (kind is float and not math.isfinite(value)):
        wanted = {bool: "true or false", float: "a number", int: "a whole number", str: "a text"}
        raise ValueError(f"{path}: {name} must be {wanted.get(kind, kind)}. Received: {value!r}.")
    if name in ("n_channel", "n_dim") and value < 1:
        raise ValueError(f"{path}: {name} must be at least 1. Received: {value!r}.")


def content_fingerprint(path):
    """Fingerprint of a checkpoint's files."""
    files = sorted(path.parent.glob(f"{path.name}.data-*-of-*"))
    content = b"".join(file.read_bytes() for file in (pathlib.Path(f"{path}.index"), *files))
    return fingerprint(np.frombuffer(content, np.uint8))


def read_weights(path):
    """{"conv2d_3/kernel": float32 array} of a checkpoint: its weights without the scope before
    their names, and without what only a training needs.

    Raises:
        RunError: files that are damaged, cut or missing.
        ValueError: a variable that is neither, by name; or two of the same name.
    """
    tf = optional("tensorflow")
    try:
        reader = tf.train.load_checkpoint(str(path))
        names = sorted(reader.get_variable_to_shape_map())
        arrays = {name: reader.get_tensor(name) for name in names if not _of_training(name)}
    except Exception as error:  # of TensorFlow, or whatever its C++ makes of damage
        raise RunError(
            f"The checkpoint {path} cannot be read ({str(error).strip():.300}). Fetch its .index "
            "and .data files again."
        ) from error
    weights = {}
    for name, array in arrays.items():
        match = _WEIGHT.fullmatch(name)
        if not match:
            raise ValueError(f"{path}: the variable {name} has no place in a PixelCNN++.")
        if match[1] in weights:
            raise ValueError(f"{path}: two variables come to {match[1]}; one is {name}.")
        weights[match[1]] = array
    return weights


def _of_training(name):
    return _OF_TRAINING.fullmatch(name) is not None
