"""Trains an ensemble of leave-out classifiers, each a normal run folder.

    python -m classifier_ood.train_leave_out --exp=fashion
    python -m classifier_ood.train_leave_out --exp=cifar10_leave_out --partition=cifar10_pairs

Member k sees its part of the classes as outliers: CE + beta * max(margin + mean entropy of ID -
mean entropy of outliers, 0). The ensemble goes to OUT_DIR/EXP/leave_out_NAME[_repeat<repeat_id>],
its members to member<k> in it, one after another, or with --engine=ray side by side; the same
command continues. Started several times, each takes the members that no other is at; --members=0,2
trains only those. `python -m ood_suite.eval
--run=ENSEMBLE` makes a detector of it (score leave_out), `--tune` chooses temperature and epsilon
on validation data, `python -m classifier_ood.ablate_leave_out` shows what each ingredient buys.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags, logging

from classifier_ood import train
from classifier_ood.configs import LeaveOut
from ood_suite import data
from ood_suite.data.transforms import to_shape
from ood_suite.files import locked
from ood_suite.runs import jobs
from ood_suite.runs.cli import run_app
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS
EXTRACTOR = "classifier_ood.ensemble"
SPLITS = 5


def check(settings):
    for name in ("margin", "beta"):
        if not 0.0 <= getattr(settings, name) < float("inf"):
            value = getattr(settings, name)
            raise ValueError(f"--{name} must be 0 or more, and finite. Received: {value}.")
    if not 0.0 < settings.outlier_factor < float("inf"):
        raise ValueError(f"--outlier_factor must be positive. Received: {settings.outlier_factor}.")
    if settings.splits is not None and settings.partition != "random":
        raise ValueError(f"--splits has no effect with --partition={settings.partition}.")


def train_ensemble(
    experiment, settings, exp, out_dir, data_dir=None, repeat_id=0, name=None, members=(),
    engine=jobs.Engine(),
):  # fmt: skip
    """Trains an ensemble, or those of its members that are asked for; returns its Run."""
    train.check(experiment)
    check(settings)
    if experiment.label_smoothing:
        raise ValueError("Label smoothing has no part in the loss of leave-out classifiers.")
    if experiment.strategy:
        raise ValueError("A batch of ID and left-out images cannot be cut: no --strategy here.")
    sets = _load(experiment, data_dir)
    parts = _partition(experiment, settings, sets[0], repeat_id)
    wrong = [number for number in members if not 0 <= number < len(parts)]
    if wrong:
        raise ValueError(f"--members must lie in 0..{len(parts) - 1}. Received: {wrong}.")
    _check_members(experiment, sets[0], parts)
    for note in filter(None, (s.note for s in sets)):
        logging.info("Data: %s.", note)
    folder = pathlib.Path(out_dir) / exp / f"leave_out_{name or experiment.backbone}"
    if repeat_id:
        folder = folder.with_name(f"{folder.name}_repeat{repeat_id}")
    recorded = _recorded(experiment, settings, exp, repeat_id, parts)
    names = {"parts": [f"member{number}" for number in range(len(parts))]}
    with locked(folder, wait_s=60.0):  # others hold it for a moment only
        ensemble = Run.open(folder, recorded | names, EXTRACTOR, _fingerprints(sets))
    common = {
        "experiment": experiment, "settings": settings, "exp": exp, "folder": folder,
        "data_dir": data_dir, "repeat_id": repeat_id,
    }  # fmt: skip
    function = "classifier_ood.train_leave_out:train_member"
    listed = [
        jobs.Job(f"member{number}", function, common | {"number": number})
        for number in dict.fromkeys(members or range(len(parts)))
    ]
    jobs.run(listed, folder, engine)
    if ensemble.is_finished:
        logging.info("Next: python -m ood_suite.eval --run=%s", folder)
    return ensemble


def train_member(experiment, settings, exp, folder, data_dir, repeat_id, number):
    """Trains one member in its folder below the ensemble's, or continues it, or finds it
    finished.
    """
    import keras

    sets = _load(experiment, data_dir)
    parts = _partition(experiment, settings, sets[0], repeat_id)
    recorded = _recorded(experiment, settings, exp, repeat_id, parts) | {"member": number}
    own, left_out = pathlib.Path(folder) / f"member{number}", parts[number]
    logging.info("Member %d of %d leaves out the classes %s.", number, len(parts), left_out)
    keras.config.set_dtype_policy(experiment.dtype)
    with locked(own):
        run = Run.open(own, recorded, train.EXTRACTOR, _fingerprints(sets))
        if run.is_finished:
            logging.info("%s is finished: nothing to do.", own)
            return
        seed = experiment.random_seed + repeat_id + 1000 * number
        classes = int(sets[0].labels.max()) + 1
        _fit(experiment, settings, run, sets, left_out, classes, seed)


def _load(experiment, data_dir):
    """(training, validation, validation OOD)."""
    training = data.load(experiment.id_dataset, "train", data_dir)
    validation = data.load(experiment.id_dataset, "val", data_dir)
    train.check_data(experiment, training, validation)
    outside = data.first_available(
        experiment.ood_validation, experiment.ood_validation_split, data_dir,
        training.images.shape[1:],
    )  # fmt: skip
    return training, validation, outside


def _partition(experiment, settings, training, repeat_id):
    from classifier_ood import leave_out

    classes, seed = int(training.labels.max()) + 1, experiment.random_seed + repeat_id
    return leave_out.partitions(classes, settings.splits or SPLITS, settings.partition, seed)


def _recorded(experiment, settings, exp, repeat_id, parts):
    import keras

    return dataclasses.asdict(experiment) | dataclasses.asdict(settings) | {
        "exp": exp,
        "repeat_id": repeat_id,
        "backend": keras.backend.backend(),
        "left_out": [list(part) for part in parts],
    }  # fmt: skip


def _fingerprints(sets):
    return {f"{s.name}_{s.split}": s.fingerprint for s in sets}


def _check_members(experiment, training, parts):
    """ValueError for what no member could be trained with, before anything is written."""
    from classifier_ood import models

    counts = np.bincount(training.labels)
    fewest = int(len(training) - max(counts[list(part)].sum() for part in parts))
    if experiment.batch_size > fewest:
        raise ValueError(
            f"--batch_size must be at most {fewest}, the ID images of the smallest member. "
            f"Received: {experiment.batch_size}."
        )
    shape, classes = training.images.shape[1:], len(counts) - len(parts[0])
    models.build(experiment.backbone, shape, classes, experiment.options)


def _fit(experiment, settings, run, sets, left_out, classes, seed):
    from classifier_ood.leave_out import Member, local_labels
    from ood_suite.training import fit as trainer

    training = sets[0]
    labels = local_labels(training.labels, left_out, classes)
    inside, outside = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    size = experiment.batch_size
    beside = min(len(outside), max(1, int(size * settings.outlier_factor)))
    per_epoch = len(inside) // size

    def wrapped(backbone):
        return Member(backbone, size, settings.margin, settings.beta, experiment.augmentation, seed)

    model = train.build(
        experiment, training.images.shape[1:], classes - len(left_out), per_epoch, seed, wrapped
    )

    def stream(step):
        own = trainer.batches([inside], size, seed, step)
        others = trainer.batches([outside], beside, seed + 1, step)
        for (first,), (second,) in zip(own, others, strict=False):
            rows = np.concatenate([first, second])
            yield training.images[rows], labels[rows]

    trainer.fit(
        model,
        stream,
        run,
        total_steps=experiment.epochs * per_epoch,
        eval_every=experiment.eval_every * per_epoch,
        batch_size=size,
        validation=_validation(sets, left_out, classes),
        monitor="accuracy",
        saved=model.network,
        keep=train.keeper(
            run, model.network, per_epoch, experiment.save_every, "auroc_validation_ood"
        ),
    )


def _validation(sets, left_out, classes):
    """(images, labels): held-out ID images, and as many of the validation OOD set at most."""
    from classifier_ood.leave_out import OTHER_OUTLIER, local_labels

    _, validation, outside = sets
    rows = np.linspace(0, len(outside) - 1, min(len(outside), len(validation))).astype(int)
    images, _ = to_shape(outside.images[rows], validation.images.shape[1:])
    labels = local_labels(validation.labels, left_out, classes)
    return (
        np.concatenate([validation.images, images]),
        np.concatenate([labels, np.full(len(images), OTHER_OUTLIER, np.int32)]),
    )


def main(_):
    experiment, engine = train.experiment_from_flags(), jobs.engine_from_flags()
    settings = LeaveOut(
        **{field.name: FLAGS[field.name].value for field in dataclasses.fields(LeaveOut)}
    )
    wrong = [text for text in FLAGS.members if not text.isdigit()]
    if wrong:
        raise ValueError(f"--members must be numbers, such as 0,2. Received: {wrong[0]!r}.")
    members = [int(number) for number in FLAGS.members]
    train_ensemble(
        experiment, settings, FLAGS.exp, FLAGS.out_dir, FLAGS.data_dir, FLAGS.repeat_id, FLAGS.name,
        members, engine,
    )  # fmt: skip


if __name__ == "__main__":
    train.define_flags(without=("label_smoothing", "strategy"))
    flags.DEFINE_string("partition", "random", "random, each (leave one out), or cifar10_pairs.")
    flags.DEFINE_integer("splits", None, f"Members, with --partition=random; default: {SPLITS}.")
    flags.DEFINE_float("margin", 0.4, "Of the entropies, in nats.")
    flags.DEFINE_float("beta", 0.2, "Weight of the entropy margin in the loss.")
    flags.DEFINE_float("outlier_factor", 1.0, "Left-out images per ID image in a batch.")
    flags.DEFINE_list("members", [], "Train only these members, such as 0,2; default: all.")
    jobs.define_flags()
    for module in (train, jobs):
        flags.adopt_module_key_flags(module)
    run_app(main)
