"""Runs of ensembles of leave-out classifiers: each member is a normal run folder below the
ensemble's.
"""

import dataclasses
import pathlib

import keras
import numpy as np
from absl import logging

from classifier_ood import classifier_run, models
from classifier_ood.leave_out import OTHER_OUTLIER, Member, local_labels, partitions
from ood_suite import data
from ood_suite.data.transforms import to_shape
from ood_suite.files import locked
from ood_suite.runs import jobs
from ood_suite.runs.run import Run, next_step, opened
from ood_suite.runs.settings import check
from ood_suite.training import backend, devices
from ood_suite.training.fit import batches, fit

SPLITS = 5  # the paper's


def train_ensemble(
    experiment,
    settings,
    exp,
    out_dir,
    *,
    data_dir=None,
    repeat_id=0,
    name=None,
    members=(),
    engine=jobs.Engine(),
):
    """Trains an ensemble, or those of its members that are asked for; returns its Run.

    Args:
        experiment: configs.Experiment. settings: configs.LeaveOut. exp: name of the experiment.
        name: of the run; None for that of the backbone. members: numbers; () for all.

    Raises:
        ValueError: settings or data that do not fit, before anything is written.
    """
    # Stage 1: everything that could be wrong with any member, before a folder is made.
    classifier_run.check_settings(experiment)
    check(settings)
    if settings.splits is not None and settings.partition != "random":
        raise ValueError(f"--splits has no effect with --partition={settings.partition}.")
    for setting in ("label_smoothing", "normalization"):
        if getattr(experiment, setting):
            raise ValueError(f"The loss of leave-out classifiers has no --{setting}.")
    folder = pathlib.Path(out_dir) / exp / f"leave_out_{name or experiment.backbone}"
    if repeat_id:
        folder = folder.with_name(f"{folder.name}_repeat{repeat_id}")
    experiment = dataclasses.replace(experiment, dtype=backend.dtype_of(experiment.dtype, folder))
    sets = _load(experiment, data_dir)
    parts = _partition(experiment, settings, sets[0], repeat_id)
    wrong = [number for number in members if not 0 <= number < len(parts)]
    if wrong:
        raise ValueError(f"--members must lie in 0..{len(parts) - 1}. Received: {wrong}.")
    _check_members(experiment, settings, sets[0], parts)
    for note in filter(None, (s.note for s in sets)):
        logging.info("Data: %s.", note)

    # Stage 2: the ensemble's folder, whose lock others hold for a moment only.
    names = {"parts": [f"member{number}" for number in range(len(parts))]}
    with locked(folder, wait_s=60.0):
        ensemble = Run.open(
            folder,
            kind="ensemble",
            extractor="classifier_ood.ensemble",
            settings=_recorded(experiment, settings, exp, repeat_id, parts) | names,
            fingerprints=_fingerprints(sets),
        )

    # Stage 3: the members, each a job.
    common = {
        "experiment": experiment, "settings": settings, "exp": exp, "folder": folder,
        "data_dir": data_dir, "repeat_id": repeat_id,
    }  # fmt: skip
    function = "classifier_ood.leave_out_run:train_member"
    listed = [
        jobs.Job(f"member{number}", function, common | {"number": number})
        for number in dict.fromkeys(members or range(len(parts)))
    ]
    jobs.run(listed, folder, engine)
    if ensemble.is_finished:
        logging.info("The ensemble is trained. Next: %s", next_step(folder, data_dir))
    return ensemble


def train_member(*, experiment, settings, exp, folder, data_dir, repeat_id, number):
    """Trains one member in its folder below the ensemble's, or continues it, or finds it
    finished.
    """
    sets = _load(experiment, data_dir)
    parts = _partition(experiment, settings, sets[0], repeat_id)
    left_out = parts[number]
    logging.info("Member %d of %d leaves out the classes %s.", number, len(parts), left_out)
    keras.config.set_dtype_policy(experiment.dtype)
    with (
        devices.scope(experiment.strategy, experiment.batch_size),
        opened(
            pathlib.Path(folder) / f"member{number}",
            kind="member",
            extractor=classifier_run.EXTRACTOR,
            settings=_recorded(experiment, settings, exp, repeat_id, parts) | {"member": number},
            fingerprints=_fingerprints(sets),
        ) as run,
    ):
        if not run.is_finished:
            seed = experiment.random_seed + repeat_id + 1000 * number
            _fit(experiment, settings, run, sets, left_out, seed)


def _load(experiment, data_dir):
    """(training, validation, validation OOD)."""
    training, validation = data.training_and_validation(experiment.id_dataset, data_dir)
    classifier_run.check_data(experiment, training, validation)
    outside = data.first_available(
        experiment.ood_validation, experiment.ood_validation_split, data_dir,
        training.images.shape[1:],
    )  # fmt: skip
    return training, validation, outside


def _partition(experiment, settings, training, repeat_id):
    classes, seed = int(training.labels.max()) + 1, experiment.random_seed + repeat_id
    return partitions(classes, settings.splits or SPLITS, settings.partition, seed)


def _recorded(experiment, settings, exp, repeat_id, parts):
    return dataclasses.asdict(experiment) | dataclasses.asdict(settings) | {
        "exp": exp,
        "repeat_id": repeat_id,
        "backend": keras.backend.backend(),
        "left_out": [list(part) for part in parts],
    }  # fmt: skip


def _fingerprints(sets):
    return {f"{s.name}_{s.split}": s.fingerprint for s in sets}


def _check_members(experiment, settings, training, parts):
    """Refuses what no member could be trained with, before anything is written (ValueError)."""
    counts = np.bincount(training.labels)
    fewest = int(len(training) - max(counts[list(part)].sum() for part in parts))
    if experiment.batch_size > fewest:
        raise ValueError(
            f"--batch_size must be at most {fewest}, the ID images of the smallest member. "
            f"Received: {experiment.batch_size}."
        )
    asked = settings.outlier_factor * experiment.batch_size
    most = int(min(counts[list(part)].sum() for part in parts))
    if not 1.0 <= asked <= most:
        logging.warning(
            "--outlier_factor=%g asks for %.3g left-out images a batch: they are 1 at least, at "
            "most the %d of a member.", settings.outlier_factor, asked, most,
        )  # fmt: skip
    shape, classes = training.images.shape[1:], len(counts) - len(parts[0])
    models.build(experiment.backbone, shape, classes, experiment.options)


def _fit(experiment, settings, run, sets, left_out, seed):
    training = sets[0]
    classes = int(training.labels.max()) + 1
    labels = local_labels(training.labels, left_out, classes)
    inside, outside = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    size = experiment.batch_size
    beside = max(1, int(min(len(outside), size * settings.outlier_factor)))
    beside = max(beside - beside % devices.count(), devices.count())
    per_epoch, order = len(inside) // size, devices.shared_out(size, beside)

    def wrapped(backbone):
        return Member(
            backbone, size, margin=settings.margin, beta=settings.beta,
            augmentation=experiment.augmentation, seed=seed,
        )  # fmt: skip

    model = classifier_run.build(
        experiment, training.images.shape[1:], classes - len(left_out), per_epoch, seed, wrapped
    )

    def stream(step):
        own = batches([inside], size, seed, step)
        others = batches([outside], beside, seed + 1, step)
        for (first,), (second,) in zip(own, others, strict=False):
            rows = np.concatenate([first, second])[order]
            yield training.images[rows], labels[rows]

    fit(
        model,
        stream,
        run,
        total_steps=experiment.epochs * per_epoch,
        eval_every=experiment.eval_every * per_epoch,
        batch_size=size,
        validation=_validation(sets, left_out, classes),
        monitor="accuracy",
        saved=model.network,
        keep=classifier_run.keeper(
            run, model.network, per_epoch, experiment.save_every, "auroc_validation_ood"
        ),
    )


def _validation(sets, left_out, classes):
    """(images, labels): held-out ID images, and as many of the validation OOD set at most."""
    _, validation, outside = sets
    rows = np.linspace(0, len(outside) - 1, min(len(outside), len(validation))).astype(int)
    images, _ = to_shape(outside.images[rows], validation.images.shape[1:])
    labels = local_labels(validation.labels, left_out, classes)
    return (
        np.concatenate([validation.images[:], images]),
        np.concatenate([labels, np.full(len(images), OTHER_OUTLIER, np.int32)]),
    )
