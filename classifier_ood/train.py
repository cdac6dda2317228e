"""Trains a classifier in a run folder.

    python -m classifier_ood.train --exp=fashion
    python -m classifier_ood.train --exp=cifar10_wrn --options=depth=28,width=10 --epochs=200

The run goes to OUT_DIR/EXP/NAME[_repeat<repeat_id>], NAME being the backbone's unless given. The
same command continues an interrupted run. Models are kept on the way in checkpoints/: first.keras
(before the first step), best.keras (highest accuracy on the held-out split, never on the test set),
epoch_<n>.keras with --save_every; model.keras is the last. `python -m ood_suite.eval --run=RUN`
makes a detector of it, `--checkpoint=best` of another of them.
"""

import ast
import dataclasses
import pathlib

from absl import flags, logging

from classifier_ood import configs
from ood_suite import data
from ood_suite.files import atomic_path, locked
from ood_suite.runs.cli import define_setting_flags, flag_overrides, run_app
from ood_suite.runs.run import Run
from ood_suite.training import devices

FLAGS = flags.FLAGS
EXTRACTOR = "classifier_ood.extract"
DEFAULT_OUT_DIR = "output/classifier_ood"

HELP = {
    "epochs": "Passes over the training data (of a leave-out member: its ID images).",
    "batch_size": "Images per step (of a leave-out member: ID images).",
    "learning_rate": "SGD's step size at the start.",
    "momentum": "SGD's momentum, in [0, 1).",
    "weight_decay": "L2, added to the gradient (coupled).",
    "label_smoothing": "Share of the target spread over all classes, in [0, 1).",
    "eval_every": "Epochs between evaluations, which are also the checkpoints.",
    "save_every": "Epochs between models that are kept for good; 0 for none.",
    "random_seed": "Seed of weights, order, augmentation, partition; --repeat_id is added.",
    "nesterov": "Nesterov's momentum.",
}
CHOICES = {
    "augmentation": (["none", "crop", "flip", "crop_flip"], "Of the training images."),
    "dtype": (["float32", "mixed_bfloat16"], "Precision of the network."),
    "strategy": (["mirrored"], "Train on all devices of this machine (TensorFlow)."),
    "learning_rate_schedule": (["cosine", "step"], "How the rate falls."),
}


def define_flags(without=()):
    """All flags of a training from scratch."""
    flags.DEFINE_string("exp", "fashion", f"Experiment: {', '.join(configs.EXPERIMENTS)}.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_string("out_dir", DEFAULT_OUT_DIR, "Where the experiments' folders go.")
    flags.DEFINE_string("name", None, "Name of the run; default: that of the backbone.")
    flags.DEFINE_integer("repeat_id", 0, "Number of the independent repeat.", lower_bound=0)
    define_setting_flags(configs.Experiment, HELP, CHOICES, without)
    flags.DEFINE_list("ood_validation", None, "OOD sets to choose by; the first there is is taken.")
    flags.DEFINE_string("backbone", None, "See classifier_ood/models/__init__.py.")
    flags.DEFINE_list("options", None, "The backbone's options, as depth=40,width=2.")


def experiment_from_flags():
    """The experiment named by --exp with the flags' values in place of its own."""
    experiment = configs.get(FLAGS.exp)
    overrides = flag_overrides(experiment)
    if "ood_validation" in overrides:
        overrides["ood_validation"] = tuple(overrides["ood_validation"])
    if "options" in overrides:
        overrides["options"] = parse_options(overrides["options"])
        if overrides.get("backbone", experiment.backbone) == experiment.backbone:
            overrides["options"] = experiment.options | overrides["options"]
    elif overrides.get("backbone", experiment.backbone) != experiment.backbone:
        overrides["options"] = {}
    return dataclasses.replace(experiment, **overrides)


def parse_options(pairs):
    """{"depth": 40, "affine": False} of ["depth=40", "affine=False"]."""
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--options must be name=value pairs. Received: {pair!r}.")
        try:
            options[name.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            options[name.strip()] = text.strip()
    return options


def check(experiment):
    """ValueError for settings out of range, naming the flag."""
    for name, lowest in (("epochs", 1), ("batch_size", 2), ("eval_every", 1), ("save_every", 0)):
        if getattr(experiment, name) < lowest:
            value = getattr(experiment, name)
            raise ValueError(f"--{name} must be at least {lowest}. Received: {value}.")
    for name in ("momentum", "label_smoothing"):
        if not 0.0 <= getattr(experiment, name) < 1.0:
            raise ValueError(f"--{name} must lie in [0, 1). Received: {getattr(experiment, name)}.")
    if not 0.0 < experiment.learning_rate < float("inf"):
        value = experiment.learning_rate
        raise ValueError(f"--learning_rate must be positive and finite. Received: {value}.")
    if not 0.0 <= experiment.weight_decay < float("inf"):
        value = experiment.weight_decay
        raise ValueError(f"--weight_decay must be 0 or more, and finite. Received: {value}.")
    if experiment.nesterov and not experiment.momentum:
        raise ValueError("--nesterov has no effect without --momentum.")


def check_data(experiment, training, validation):
    """ValueError for data that do not fit each other, before anything is written."""
    shape = training.images.shape[1:]
    if validation.images.shape[1:] != shape:
        raise ValueError(
            f"The images of {validation.name} (val) have shape {validation.images.shape[1:]}, "
            f"those of {training.name} (train) {shape}."
        )
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


def train(experiment, exp, out_dir, data_dir=None, repeat_id=0, name=None):
    """Trains one classifier, or continues it, or finds it finished; returns its Run."""
    import keras

    check(experiment)
    training = data.load(experiment.id_dataset, "train", data_dir)
    validation = data.load(experiment.id_dataset, "val", data_dir)
    check_data(experiment, training, validation)
    settings = dataclasses.asdict(experiment) | {
        "exp": exp,
        "repeat_id": repeat_id,
        "backend": keras.backend.backend(),
    }
    prints = {f"{s.name}_{s.split}": s.fingerprint for s in (training, validation)}
    name = f"{name or experiment.backbone}_repeat{repeat_id}" if repeat_id else name
    folder = pathlib.Path(out_dir) / exp / (name or experiment.backbone)
    keras.config.set_dtype_policy(experiment.dtype)
    seed = experiment.random_seed + repeat_id
    with devices.scope(experiment.strategy, experiment.batch_size):
        model = build(
            experiment, training.images.shape[1:], int(training.labels.max()) + 1,
            len(training) // experiment.batch_size, seed,
        )  # fmt: skip
        with locked(folder):
            run = Run.open(folder, settings, EXTRACTOR, prints)
            if run.is_finished:
                logging.info("%s is finished: nothing to do.", folder)
                return run
            for note in filter(None, (training.note, validation.note)):
                logging.info("Data: %s.", note)
            _fit(experiment, run, model, training, validation, seed)
    return run


def build(experiment, image_shape, num_classes, steps_per_epoch, seed, wrapped=None):
    """The compiled ClassifierModel of an experiment.

    Args:
        wrapped: function(backbone) -> ClassifierModel, in place of the plain one.
    """
    from classifier_ood import models
    from classifier_ood.classifier_model import ClassifierModel, CoupledSGD, schedule
    from ood_suite.training import backend

    backend.set_seed(seed)
    backbone = models.build(experiment.backbone, image_shape, num_classes, experiment.options)
    if wrapped:
        model = wrapped(backbone)
    else:
        model = ClassifierModel(backbone, experiment.augmentation, experiment.label_smoothing, seed)
    rate = schedule(
        experiment.learning_rate_schedule, experiment.learning_rate, experiment.epochs,
        steps_per_epoch,
    )  # fmt: skip
    optimizer = CoupledSGD(rate, experiment.momentum, experiment.nesterov, experiment.weight_decay)
    model.compile(optimizer=optimizer, jit_compile=backend.jit_compile())
    model.build((None, *image_shape))
    count = models.count_parameters(backbone)
    logging.info("%s: %d trainable parameters.", backbone.name, count)
    return model


def _fit(experiment, run, model, training, validation, seed):
    from ood_suite.training import fit as trainer

    per_epoch = len(training) // experiment.batch_size
    trainer.fit(
        model,
        lambda step: trainer.batches(
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
                network().save(temporary)

    return keep


def main(_):
    experiment = experiment_from_flags()
    train(experiment, FLAGS.exp, FLAGS.out_dir, FLAGS.data_dir, FLAGS.repeat_id, FLAGS.name)


if __name__ == "__main__":
    define_flags()
    run_app(main)
