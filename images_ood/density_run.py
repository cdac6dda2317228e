"""Runs of PixelCNN++: a foreground model, or with mutation_rate and reg_weight a background model,
is trained in a run folder.
"""

import pathlib

import keras
import numpy as np
from absl import logging

from images_ood.pixelcnn import PixelCNN, check_shape, initialize_from_data
from ood_suite import data
from ood_suite.data.pictures import save_image_grid
from ood_suite.runs.density_settings import completed, recorded, run_name
from ood_suite.runs.run import opened
from ood_suite.runs.settings import check, model_options
from ood_suite.training import backend, devices
from ood_suite.training.fit import batches, fit, keep_every
from ood_suite.training.mutation import Mutation

EXTRACTOR = "images_ood.extract"


def train(experiment, exp, out_dir, data_dir=None, repeat_id=0, save_im=False):
    """Trains one model, or continues it, or finds it finished; returns its Run.

    Args:
        experiment: configs.Experiment. exp: its name. repeat_id: is added to its seed.
        save_im: save the first training images, as mutated.

    Raises:
        ValueError: settings or data that do not fit, before anything is written.
    """
    # Stage 1: everything that could be wrong, before a folder is made.
    folder = pathlib.Path(out_dir) / exp / run_name(experiment, repeat_id)
    check_settings(experiment)
    experiment = completed(experiment, backend.dtype_of(experiment.dtype, folder))
    training, validation = data.training_and_validation(experiment.id_dataset, data_dir)
    check_data(experiment, training, validation)
    settings = recorded(experiment, exp=exp, repeat_id=repeat_id, backend=keras.backend.backend())

    # Stage 2: the run folder, which may be finished or begun.
    with (
        devices.scope(experiment.strategy, experiment.batch_size),
        opened(
            folder,
            kind="density",
            extractor=EXTRACTOR,
            settings=settings,
            fingerprints={f"{s.name}_{s.split}": s.fingerprint for s in (training, validation)},
            notes=(training.note, validation.note),
            data_dir=data_dir,
        ) as run,
    ):
        if not run.is_finished:
            seed = experiment.random_seed + repeat_id
            _fit(experiment, run, training, validation, seed=seed, save_im=save_im)
    return run


def check_settings(experiment):
    """Refuses settings out of range or without effect, naming the flag (ValueError)."""
    check(experiment)
    if experiment.strategy and experiment.ema_overwrite_frequency:
        raise ValueError("--strategy=mirrored needs --ema_overwrite_frequency=0: Keras can't both.")
    if experiment.data_init and not experiment.use_weight_norm:
        raise ValueError("--data_init has no effect without --use_weight_norm.")
    if experiment.ema_overwrite_frequency and not experiment.ema:
        logging.warning("--ema_overwrite_frequency has no effect without --ema.")
    default = type(experiment).learning_rate_decay
    if experiment.learning_rate_schedule == "cosine" and experiment.learning_rate_decay != default:
        logging.warning("--learning_rate_decay has no effect with a cosine schedule.")


def check_data(experiment, training, validation):
    """Refuses data that do not fit the experiment (ValueError)."""
    check_shape(training.images.shape[1:], experiment.num_hierarchies)
    if experiment.batch_size > len(training):
        raise ValueError(
            f"--batch_size must be at most {len(training)}, the number of training images. "
            f"Received: {experiment.batch_size}."
        )
    labels = (training.labels.min(), validation.labels.min(), validation.labels.max())
    if (
        experiment.class_conditional
        and not 0 <= min(labels) <= max(labels) <= training.labels.max()
    ):
        raise ValueError(
            "--class_conditional needs labels 0..classes - 1, the same in train and val."
        )


def build_model(experiment, image_shape, num_classes, seed):
    """The compiled PixelCNN of an experiment."""
    model = PixelCNN(
        **model_options(experiment),
        image_shape=image_shape,
        num_classes=num_classes if experiment.class_conditional else 0,
        seed=seed,
        dtype=experiment.dtype,
    )
    if experiment.learning_rate_schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            experiment.learning_rate, experiment.total_steps, alpha=0.02
        )
    else:
        rate = keras.optimizers.schedules.ExponentialDecay(
            experiment.learning_rate, decay_steps=1, decay_rate=experiment.learning_rate_decay
        )
    optimizer = keras.optimizers.Adam(
        rate,
        beta_1=experiment.momentum,
        beta_2=experiment.momentum2,
        use_ema=experiment.ema > 0,
        ema_momentum=experiment.ema or 0.99,
        ema_overwrite_frequency=experiment.ema_overwrite_frequency or None,
    )
    model.compile(optimizer=optimizer, jit_compile=backend.jit_compile())
    return model


def _fit(experiment, run, training, validation, *, seed, save_im):
    backend.set_seed(seed)
    num_classes = int(training.labels.max()) + 1
    model = build_model(experiment, training.images.shape[1:], num_classes, seed)
    inputs = [training.images] + ([training.labels] if experiment.class_conditional else [])
    if experiment.data_init:
        rows = slice(0, 100)
        initialize_from_data(model, *(array[rows] for array in inputs))
    if save_im:
        # A layer of its own: the model's random state must not depend on --save_im.
        mutation = Mutation(experiment.mutation_rate, seed=seed)
        mutated = mutation(training.images[:64].astype("float32"), training=True)
        save_image_grid(run.folder / "logs" / "training_images.png", np.asarray(mutated))
    count = min(experiment.eval_images or len(validation), len(validation))
    rows = np.linspace(0, len(validation) - 1, count).astype(int)
    held_out = [validation.images[rows]] + (
        [validation.labels[rows]] if experiment.class_conditional else []
    )
    fit(
        model,
        lambda step: batches(inputs, experiment.batch_size, seed, step),
        run,
        total_steps=experiment.total_steps,
        eval_every=experiment.eval_every,
        batch_size=experiment.batch_size,
        validation=held_out if experiment.class_conditional else held_out[0],
        monitor="bits_per_dim",
        keep=keep_every(model, run, experiment.save_every),
    )
