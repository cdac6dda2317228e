"""Runs of classifiers: one is trained in a run folder, and models are kept on the way."""

import dataclasses
import math
import pathlib

import keras
from absl import logging

from classifier_ood import models
from classifier_ood.classifier_model import ClassifierModel, CoupledSGD, schedule
from classifier_ood.configs import TEMPERATURES, Experiment
from ood_suite import data
from ood_suite.files import atomic_path
from ood_suite.runs.run import opened
from ood_suite.runs.settings import check
from ood_suite.training import backend, devices
from ood_suite.training.fit import batches, fit

EXTRACTOR = "classifier_ood.extract"


def train(experiment, exp, out_dir, data_dir=None, repeat_id=0, name=None):
    """Trains one classifier, or continues it, or finds it finished; returns its Run.

    Args:
        experiment: configs.Experiment. exp: its name. repeat_id: is added to its seed.
        name: of the run's folder; None for that of the backbone.

    Raises:
        ValueError: settings or data that do not fit, before anything is written.
    """
    # Stage 1: everything that could be wrong, before a folder is made; the network is built.
    name = name or experiment.backbone
    folder = pathlib.Path(out_dir) / exp / (f"{name}_repeat{repeat_id}" if repeat_id else name)
    check_settings(experiment)
    experiment = dataclasses.replace(
        experiment,
        dtype=backend.dtype_of(experiment.dtype, folder),
        temperature=experiment.temperature or TEMPERATURES.get(experiment.normalization),
    )
    training, validation = data.training_and_validation(experiment.id_dataset, data_dir)
    check_data(experiment, training, validation)
    keras.config.set_dtype_policy(experiment.dtype)
    seed, per_epoch = experiment.random_seed + repeat_id, len(training) // experiment.batch_size
    settings = dataclasses.asdict(experiment) | {
        "exp": exp,
        "repeat_id": repeat_id,
        "backend": keras.backend.backend(),
    }
    with devices.scope(experiment.strategy, experiment.batch_size):
        classes = int(training.labels.max()) + 1
        model = build(experiment, training.images.shape[1:], classes, per_epoch, seed)

        # Stage 2: the run folder, which may be finished or begun.
        with opened(
            folder,
            kind="classifier",
            extractor=EXTRACTOR,
            settings=settings,
            fingerprints={f"{s.name}_{s.split}": s.fingerprint for s in (training, validation)},
            notes=(training.note, validation.note),
            data_dir=data_dir,
        ) as run:
            if not run.is_finished:
                fit(
                    model,
                    lambda step: batches(
                        [training.images], experiment.batch_size, seed, step, training.labels
                    ),
                    run,
                    total_steps=experiment.epochs * per_epoch,
                    eval_every=experiment.eval_every * per_epoch,
                    batch_size=experiment.batch_size,
                    validation=(validation.images, validation.labels),
                    monitor="accuracy",
                    saved=model.network,
                    keep=keeper(run, model.network, per_epoch, experiment.save_every),
                )
    return run


def check_settings(settings):
    """Refuses settings of SGD out of range or without effect, naming the flag (ValueError)."""
    check(settings)
    if settings.nesterov and not settings.momentum:
        raise ValueError("--nesterov has no effect without --momentum.")
    if isinstance(settings, Experiment) and settings.temperature and not settings.normalization:
        raise ValueError("--temperature has no effect without --normalization.")
    if settings.save_every and settings.save_every % settings.eval_every:
        every = math.lcm(settings.save_every, settings.eval_every)
        logging.warning("Models are kept where there is an evaluation: every %d epochs.", every)


def check_data(experiment, training, validation):
    """Refuses data that do not fit each other, before anything is written (ValueError)."""
    if experiment.batch_size > len(training):
        raise ValueError(
            f"--batch_size must be at most {len(training)}, the number of training images. "
            f"Received: {experiment.batch_size}."
        )
    classes = sorted({int(label) for label in training.labels})
    if classes != list(range(len(classes))) or len(classes) < 2:
        raise ValueError(
            f"The labels of {training.name} must be 0..classes - 1, each with images. Received: "
            f"{classes[:20]}."
        )
    if not 0 <= validation.labels.min() <= validation.labels.max() < len(classes):
        raise ValueError(
            f"The labels of {validation.name} (val) lie in {validation.labels.min()}.."
            f"{validation.labels.max()}, those of the training images in 0..{len(classes) - 1}."
        )


def build(experiment, image_shape, num_classes, steps_per_epoch, seed, wrapped=None):
    """The compiled ClassifierModel of an experiment.

    Args:
        wrapped: function(backbone) -> ClassifierModel, in place of the plain one.
    """
    backend.set_seed(seed)
    backbone = models.build(experiment.backbone, image_shape, num_classes, experiment.options)
    devices.synchronize(backbone)
    if wrapped:
        model = wrapped(backbone)
    else:
        model = ClassifierModel(
            backbone, experiment.augmentation, experiment.label_smoothing, seed,
            normalization=experiment.normalization, temperature=experiment.temperature,
        )  # fmt: skip
    compile_model(model, experiment, steps_per_epoch)
    model.build((None, *image_shape))
    count = models.count_parameters(backbone)
    logging.info("%s: %d trainable parameters.", backbone.name, count)
    return model


def compile_model(model, settings, steps_per_epoch, global_clipnorm=None):
    """SGD as the settings of an Experiment or a FineTuning say."""
    rate = schedule(
        settings.learning_rate_schedule, settings.learning_rate, settings.epochs, steps_per_epoch
    )
    optimizer = CoupledSGD(
        rate, settings.momentum, settings.nesterov, settings.weight_decay,
        global_clipnorm=global_clipnorm,
    )  # fmt: skip
    model.compile(optimizer=optimizer, jit_compile=backend.jit_compile())


def keeper(run, network, per_epoch, save_every, metric="accuracy"):
    """function(step, rows) for training.fit, that keeps models in the run's checkpoints/: first;
    best, of the first row with the highest validation `metric`; epoch_<n>, every `save_every`.

    Args:
        network: function() -> the keras.Model to keep.
    """

    def keep(step, rows):
        names = ["first"] if step == 0 else []
        epoch = step // per_epoch
        if step and save_every and epoch % save_every == 0:
            names.append(f"epoch_{epoch}")
        values = [float(row[f"val_{metric}"]) for row in rows]
        if rows and values.index(max(values)) == len(rows) - 1:
            names.append("best")
        for name in names:
            with atomic_path(run.folder / "checkpoints" / f"{name}.keras") as temporary:
                devices.save(network(), temporary)

    return keep
