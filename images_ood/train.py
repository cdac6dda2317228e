"""Trains one PixelCNN++: a foreground model, or with --mutation_rate and --reg_weight a background
model.

    python -m images_ood.train --exp=fashion_small
    python -m images_ood.train --exp=fashion_small --mutation_rate=0.3 --reg_weight=10

The run goes to OUT_DIR/EXP/reg<reg_weight>_mr<mutation_rate>[_repeat<repeat_id>]. The same command
continues an interrupted run; `python -m ood_suite.eval --run=OUT_DIR/EXP` compares what is there.
"""

import dataclasses
import pathlib

from absl import flags, logging

from images_ood import configs
from ood_suite import data
from ood_suite.files import locked
from ood_suite.runs.cli import define_setting_flags, flag_overrides, run_app
from ood_suite.runs.run import Run
from ood_suite.training import devices

FLAGS = flags.FLAGS
EXTRACTOR = "images_ood.extract"
DEFAULT_OUT_DIR = "output/images_ood"

HELP = {
    "batch_size": "Images per step.",
    "total_steps": "Optimiser steps.",
    "random_seed": "Seed of weights, order and mutation; --repeat_id is added to it.",
    "background_steps": "Steps of a background model; 0 for as many as the foreground.",
    "eval_every": "Steps between evaluations, which are also the checkpoints.",
    "eval_images": "Validation images per evaluation; 0 for all.",
    "learning_rate": "Adam's step size at the start.",
    "learning_rate_decay": "Factor per step of the exponential schedule.",
    "momentum": "Adam's beta_1.",
    "momentum2": "Adam's beta_2.",
    "ema": "Momentum of the average of the weights that is validated and shipped; 0 for none.",
    "ema_overwrite_frequency": "Steps after which weights become their average; 0 for never.",
    "num_logistic_mix": "Components of the mixture per pixel.",
    "num_hierarchies": "Blocks with stride-2 sampling in between, 1 to 3.",
    "num_resnet": "Gated residual layers per block.",
    "num_filters": "Channels of the residual layers.",
    "dropout_p": "Dropout probability.",
    "reg_weight": "L2: times the sum of squared kernel weights, beside the mean nats per image.",
    "mutation_rate": "Probability that a pixel is replaced in training.",
    "rescale_pixel_value": "Feed the network [-1, 1] in place of 0..255.",
    "use_weight_norm": "Weight normalisation.",
    "data_init": "Data-dependent start; needs --use_weight_norm.",
    "class_conditional": "Condition on the class label.",
}
CHOICES = {
    "learning_rate_schedule": (["exponential", "cosine"], "How it falls."),
    "dtype": (["float32", "mixed_bfloat16"], "Precision of the network."),
    "strategy": (["mirrored"], "Train on all devices of this machine (TensorFlow)."),
}


def define_override_flags(without=()):
    """One flag for every single-valued setting of an experiment."""
    define_setting_flags(configs.Experiment, HELP, CHOICES, without)


def define_common_flags():
    flags.DEFINE_string("exp", "fashion", f"Experiment: {', '.join(configs.EXPERIMENTS)}.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_string("out_dir", DEFAULT_OUT_DIR, "Where the experiments' folders go.")


def experiment_from_flags():
    """The experiment named by --exp with the flags' values in place of its own."""
    experiment = configs.get(FLAGS.exp)
    overrides = flag_overrides(experiment)
    return overridden(experiment, overrides)


def overridden(experiment, overrides):
    """The experiment with some values replaced; total_steps alone holds for a background too."""
    if "total_steps" in overrides:
        overrides = {"background_steps": 0} | overrides
    return dataclasses.replace(experiment, **overrides)


def check(experiment):
    """ValueError for settings out of range, naming the flag."""
    not_negative = ("background_steps", "eval_images", "ema_overwrite_frequency")
    for lowest, names in ((1, ("batch_size", "total_steps", "eval_every")), (0, not_negative)):
        for name in names:
            value = getattr(experiment, name)
            if value < lowest:
                raise ValueError(f"--{name} must be at least {lowest}. Received: {value}.")
    for name in ("momentum", "momentum2", "ema"):
        value = getattr(experiment, name)
        if not 0.0 <= value < 1.0:
            raise ValueError(f"--{name} must lie in [0, 1). Received: {value}.")
    if not 0.0 <= experiment.mutation_rate <= 1.0:
        raise ValueError(
            f"--mutation_rate must lie in [0, 1]. Received: {experiment.mutation_rate}."
        )
    if not 0.0 < experiment.learning_rate_decay <= 1.0:
        value = experiment.learning_rate_decay
        raise ValueError(f"--learning_rate_decay must lie in (0, 1]. Received: {value}.")
    if not 0.0 < experiment.learning_rate < float("inf"):
        value = experiment.learning_rate
        raise ValueError(f"--learning_rate must be positive and finite. Received: {value}.")
    if experiment.strategy and experiment.ema_overwrite_frequency:
        raise ValueError("--strategy=mirrored needs --ema_overwrite_frequency=0: Keras can't both.")
    if experiment.data_init and not experiment.use_weight_norm:
        raise ValueError("--data_init has no effect without --use_weight_norm.")


def run_name(experiment, repeat_id=0):
    """Folder name of a run: reg10_mr0.3, with _repeat1 and so on for further repeats."""
    name = f"reg{experiment.reg_weight:g}_mr{experiment.mutation_rate:g}"
    return f"{name}_repeat{repeat_id}" if repeat_id else name


def model_options(experiment, image_shape, num_classes):
    """The arguments of PixelCNN that an experiment sets."""
    names = (
        "num_hierarchies", "num_resnet", "num_filters", "num_logistic_mix", "rescale_pixel_value",
        "dropout_p", "reg_weight", "mutation_rate", "use_weight_norm",
    )  # fmt: skip
    return {name: getattr(experiment, name) for name in names} | {
        "image_shape": image_shape,
        "num_classes": num_classes if experiment.class_conditional else 0,
    }


def build_model(experiment, image_shape, num_classes, seed):
    """The compiled PixelCNN of an experiment."""
    import keras

    from images_ood.pixelcnn import PixelCNN
    from ood_suite.training import backend

    model = PixelCNN(
        **model_options(experiment, image_shape, num_classes), seed=seed, dtype=experiment.dtype
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


def train(experiment, name, out_dir, data_dir=None, repeat_id=0, save_im=False):
    """Trains one model, or continues it, or finds it finished; returns its Run."""
    import keras

    check(experiment)
    if experiment.background_steps and (experiment.mutation_rate or experiment.reg_weight):
        experiment = dataclasses.replace(experiment, total_steps=experiment.background_steps)
    training = data.load(experiment.id_dataset, "train", data_dir)
    validation = data.load(experiment.id_dataset, "val", data_dir)
    check_data(experiment, training, validation)
    settings = dataclasses.asdict(experiment) | {
        "exp": name,
        "repeat_id": repeat_id,
        "backend": keras.backend.backend(),
    }
    for key in ("mutation_rates", "reg_weights"):  # the sweep's, not this run's
        del settings[key]
    prints = {f"{s.name}_{s.split}": s.fingerprint for s in (training, validation)}
    folder = pathlib.Path(out_dir) / name / run_name(experiment, repeat_id)
    with devices.scope(experiment.strategy, experiment.batch_size), locked(folder):
        run = Run.open(folder, settings, EXTRACTOR, prints)
        if run.is_finished:
            logging.info("%s is finished: nothing to do.", folder)
            return run
        for note in filter(None, (training.note, validation.note)):
            logging.info("Data: %s.", note)
        _fit(experiment, run, training, validation, experiment.random_seed + repeat_id, save_im)
    return run


def check_data(experiment, training, validation):
    """ValueError for data that do not fit the experiment, before anything is written."""
    from images_ood.pixelcnn import check_options

    image_shape = training.images.shape[1:]
    check_options(model_options(experiment, image_shape, num_classes=1))
    if validation.images.shape[1:] != image_shape:
        raise ValueError(
            f"The images of {validation.name} (val) have shape {validation.images.shape[1:]}, "
            f"those of {training.name} (train) {image_shape}."
        )
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


def _fit(experiment, run, training, validation, seed, save_im):
    import numpy as np

    from images_ood.pixelcnn import initialize_from_data
    from ood_suite.training import backend
    from ood_suite.training import fit as trainer

    backend.set_seed(seed)
    num_classes = int(training.labels.max()) + 1
    model = build_model(experiment, training.images.shape[1:], num_classes, seed)
    inputs = [training.images] + ([training.labels] if experiment.class_conditional else [])
    if experiment.data_init:
        rows = slice(0, 100)
        initialize_from_data(model, *(array[rows] for array in inputs))
    if save_im:
        from ood_suite.evaluation.figures import save_image_grid
        from ood_suite.training.mutation import Mutation

        # A layer of its own: the model's random state must not depend on --save_im.
        mutation = Mutation(experiment.mutation_rate, seed=seed)
        mutated = mutation(training.images[:64].astype("float32"), training=True)
        save_image_grid(run.folder / "logs" / "training_images.png", np.asarray(mutated))
    count = min(experiment.eval_images or len(validation), len(validation))
    rows = np.linspace(0, len(validation) - 1, count).astype(int)
    held_out = [validation.images[rows]] + (
        [validation.labels[rows]] if experiment.class_conditional else []
    )
    trainer.fit(
        model,
        lambda step: trainer.batches(inputs, experiment.batch_size, seed, step),
        run,
        total_steps=experiment.total_steps,
        eval_every=experiment.eval_every,
        batch_size=experiment.batch_size,
        validation=held_out if experiment.class_conditional else held_out[0],
        monitor="bits_per_dim",
    )


def main(_):
    experiment = experiment_from_flags()
    train(experiment, FLAGS.exp, FLAGS.out_dir, FLAGS.data_dir, FLAGS.repeat_id, FLAGS.save_im)


if __name__ == "__main__":
    define_common_flags()
    define_override_flags()
    flags.DEFINE_integer("repeat_id", 0, "Number of the independent repeat.", lower_bound=0)
    flags.DEFINE_bool("save_im", False, "Save the first training images, as mutated, as a PNG.")
    run_app(main)
