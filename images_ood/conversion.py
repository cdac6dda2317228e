"""Runs of the likelihood-ratio authors' TensorFlow 1 checkpoints: their weights in our network, so
that log-probabilities are theirs.

Their kernels are full squares whose cells outside the upper left are masked with zeros; ours hold
the valid cells alone, turned by 180 degrees (see images_ood.pixelcnn).
"""

import pathlib
import re

import keras
import numpy as np
from absl import logging
from keras import layers

from images_ood import checkpoint_files, configs
from images_ood.density_run import EXTRACTOR
from images_ood.pixelcnn import VERTICAL, PixelCNN, check_shape
from ood_suite import data
from ood_suite.files import atomic_path
from ood_suite.runs.density_settings import recorded, run_name
from ood_suite.runs.run import opened
from ood_suite.runs.settings import check, declared, known_name, model_options, replaced

HALF_RANGE = 127.5  # pixels 0..255 = 127.5 * (rescaled ones + 1)
SHOWN = 6  # names in a message


def convert(model_dir, *, ckpt_step, repeat_id=0, data_dir=None, out_dir, name=None):
    """Makes a run folder of each reg<weight>_mr<rate> folder of `model_dir`, side by side, as
    ood_suite.eval takes them; returns the Runs.

    Args:
        model_dir, ckpt_step, repeat_id: see checkpoint_files.find.
        data_dir: of the data that they were trained on, whose fingerprints go on record; None:
            these are not known.
        name: of the folder within `out_dir`; default: <exp>_converted_step<ckpt_step>.

    Raises:
        RunError, ValueError: what cannot be converted, before anything is written.
    """
    # Stage 1: everything that could be wrong, before a folder is made.
    todo = []
    for checkpoint in checkpoint_files.find(model_dir, ckpt_step, repeat_id):
        experiment, exp = experiment_of(checkpoint.params, ckpt_step)
        model = read_model(checkpoint, experiment)
        found = checkpoint_files.content_fingerprint(checkpoint.path)
        marks = {checkpoint.name: found} | fingerprints(experiment, model, data_dir)
        todo.append((checkpoint, experiment, exp, model, marks))
    # Stage 2: the run folders.
    runs, number = [], max(repeat_id, 0)
    for checkpoint, experiment, exp, model, marks in todo:
        folder = pathlib.Path(out_dir) / (name or f"{exp}_converted_step{ckpt_step}")
        logging.info("%s: %d weights.", checkpoint.name, model.count_params())
        with opened(
            folder / run_name(experiment, number),
            kind="density",
            extractor=EXTRACTOR,
            settings=recorded(
                experiment, exp=exp, repeat_id=number, backend=keras.backend.backend()
            ),
            fingerprints=marks,
            data_dir=data_dir,
        ) as run:
            if not run.is_finished:
                with atomic_path(run.model_path) as temporary:
                    model.save(temporary)
        runs.append(run)
    return runs


def experiment_of(params, ckpt_step):
    """(Experiment, its name) of a params.json: the data sets of our experiment of that name, with
    their settings.
    """
    exp = known_name(configs.EXPERIMENTS, params["exp"], "experiment")
    theirs = {name: v for name, v in params.items() if name in declared(configs.Experiment)}
    more = {"total_steps": ckpt_step, "learning_rate_schedule": "exponential", "ema": 0.0}
    experiment = replaced(configs.EXPERIMENTS[exp], theirs | more)
    check(experiment)
    return experiment, exp


def read_model(checkpoint, experiment):
    """The PixelCNN of a Checkpoint."""
    size, channels = (checkpoint.params[name] for name in ("n_dim", "n_channel"))
    image_shape = (size, size, channels)
    check_shape(image_shape, experiment.num_hierarchies)
    weights = checkpoint_files.read_weights(checkpoint.path)
    model = PixelCNN(image_shape, **model_options(experiment), seed=experiment.random_seed)
    try:
        fill(model, weights)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path} does not fit its params.json. {error}") from error
    return model


def fingerprints(experiment, model, data_dir):
    """{data set: fingerprint} of the training and validation images in `data_dir`.

    Raises:
        ValueError: images of another shape than the model's, or the embedded sample alone.
    """
    found = {}
    for split in ("train", "val") if data_dir else ():
        source = data.load(experiment.id_dataset, split, data_dir, model.options["image_shape"])
        if source.images.shape[1:] != model.options["image_shape"]:
            raise ValueError(
                f"The images of {source.name} ({split}) have shape {source.images.shape[1:]}, "
                f"those of the checkpoint {model.options['image_shape']}: give its --data_dir."
            )
        if "is the embedded sample" in source.note:
            raise ValueError(
                f"{data_dir} has no {source.name} ({split}), which the checkpoint was trained on: "
                "give its --data_dir, or leave it out."
            )
        found[f"{source.name}_{split}"] = source.fingerprint
    return found


def fill(model, weights):
    """Puts weights, as read_weights gives them, into a model without weight normalisation. Every
    weight and every layer must find its partner, and what their masks hide must be 0.

    Raises:
        ValueError: weights that are missing, left over, of another shape or type, not finite, or
            not 0 where they are masked, by name.
    """
    wanted = _shapes(model.network)
    if problems := _problems(wanted, weights):
        raise ValueError(f"Weights {problems}.")
    for name, (layer, _) in wanted.items():
        if name.endswith("/bias"):
            layer.bias.assign(weights[name])
        else:
            layer.kernel.assign(_valid(weights[name], layer.kernel_size))
    if model.options["rescale_pixel_value"]:
        head = [layer for name, (layer, _) in wanted.items() if name.startswith("dense")][-1]
        head.set_weights([rescaled_coefficients(w, model.options) for w in head.get_weights()])


def _problems(wanted, weights):
    """What does not fit, in words; "" if all does."""
    missing = [name for name in wanted if name not in weights]
    left_over = [name for name in weights if name not in wanted]
    misshaped, not_finite, masked = [], [], []
    for name in (name for name in wanted if name in weights):
        array, (layer, shape) = weights[name], wanted[name]
        if array.shape != shape or array.dtype != np.float32:
            found = f"{array.dtype}{list(array.shape)}, not float32{list(shape)}"
            misshaped.append(f"{name} ({found})")
        elif not np.isfinite(array).all():
            not_finite.append(name)
        elif array.ndim == 4 and _hidden(array, layer.kernel_size).any():
            masked.append(name)
    return "; ".join(
        f"{title}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''} ({len(names)})"
        for title, names in (
            ("missing", missing), ("left over", left_over), ("of another shape or type", misshaped),
            ("not finite", not_finite), ("not 0 where masked, so not causal", masked),
        )
        if names
    )  # fmt: skip


def _shapes(network):
    """{name of the weight there: (our layer, shape there)}, in the order of creation."""
    kinds = (layers.Conv2D, layers.Conv2DTranspose)
    ours = [layer for layer in network.layers if isinstance(layer, kinds)]
    found, counts = {}, dict.fromkeys(("conv2d", "conv2d_transpose", "dense"), 0)
    for layer in sorted(ours, key=lambda layer: _creation(layer.name)):
        rows, columns, *channels = layer.kernel.shape
        if isinstance(layer, layers.Conv2DTranspose):
            kind, square = "conv2d_transpose", (2, 4) if (rows, columns) == VERTICAL else (2, 2)
        elif (rows, columns) == (1, 1):
            kind, square = "dense", ()
        else:
            first = (5, 3) if counts["conv2d"] == 0 else (3, 3)
            kind, square = "conv2d", (4, 4) if layer.strides == (2, 2) else first
        name = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
        found[f"{name}/kernel"] = layer, (*square, *channels)
        found[f"{name}/bias"] = layer, tuple(layer.bias.shape)
    return found


def _creation(name):
    """3 of conv2d_3, 0 of conv2d: layers are numbered as they are made."""
    match = re.search(r"_(\d+)$", name)
    return int(match[1]) if match else 0


def _hidden(kernel, valid):
    """The cells of a full kernel outside its upper left `valid` (rows, columns)."""
    rows, columns = valid
    return np.concatenate([kernel[rows:].ravel(), kernel[:rows, columns:].ravel()])


def _valid(kernel, valid):
    """The other cells, turned by 180 degrees; of a dense kernel all, with an area of 1 x 1."""
    rows, columns = valid
    return kernel[:rows, :columns][::-1, ::-1] if kernel.ndim == 4 else kernel[None, None]


def rescaled_coefficients(outputs, options):
    """Their raw mixture parameters, or the last layer's weights, which make them, as ours.

    Locations of the rescaled network live in [-1, 1], and the authors' code multiplies its channel
    coefficients with pixels v in 0..255; ours with r = v / 127.5 - 1. From location + c * v =
    (location + 127.5 * c) + (127.5 * c) * r follow our location and coefficient, both linear in
    theirs.

    Args:
        outputs: (..., parameters), see logistic_mixture.split_parameters.
        options: of the PixelCNN.
    """
    channels, mixtures = options["image_shape"][-1], options["num_logistic_mix"]
    parts = outputs.reshape(*outputs.shape[:-1], mixtures, -1).astype(np.float64)
    coefficients = HALF_RANGE * parts[..., 1 + 2 * channels :]
    parts[..., 1 + 2 * channels :] = coefficients
    column = 0
    for channel in range(1, channels):
        own = coefficients[..., column : column + channel]
        parts[..., 1 + channel] += own.sum(axis=-1)
        column += channel
    return parts.reshape(outputs.shape).astype(outputs.dtype)
