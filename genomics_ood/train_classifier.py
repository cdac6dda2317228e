"""Trains the motif classifier of an experiment, whose features and logits feed all scores of
classifiers.

    python -m genomics_ood.train_classifier --exp=bacteria
    python -m ood_suite.eval --run=output/genomics_ood/bacteria_classifier/motif_cnn

The run goes to OUT_DIR/EXP_classifier/motif_cnn[_repeat<repeat_id>]; the same command continues.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags

from genomics_ood import configs, train
from ood_suite.files import locked
from ood_suite.runs.cli import define_setting_flags, run_app

FLAGS = flags.FLAGS
EXTRACTOR = "genomics_ood.extract_features"
HELP = {
    "batch_size": train.HELP["batch_size"],
    "eval_every": train.HELP["eval_every"],
    "random_seed": "Seed of weights and order; --repeat_id is added to it.",
    "classifier_steps": "Optimiser steps.",
    "classifier_learning_rate": "Adam's step size at the start.",
    "motifs": "Filters of the convolution.",
    "motif_length": "Bases that each of them reads.",
    "hidden": "Features.",
    "classifier_dropout_p": "Dropout probability.",
}
CHOICES = {"learning_rate_schedule": train.CHOICES["learning_rate_schedule"]}


def train_classifier(experiment, name, out_dir, data_dir=None, repeat_id=0):
    """Trains one classifier, or continues it, or finds it finished; returns its Run."""
    from genomics_ood import motif_cnn
    from ood_suite.training import backend
    from ood_suite.training import fit as trainer

    if experiment.classifier_steps < 1:
        value = experiment.classifier_steps
        raise ValueError(f"--classifier_steps must be at least 1. Received: {value}.")
    rate = experiment.classifier_learning_rate
    train.check(dataclasses.replace(experiment, learning_rate=rate))
    training, validation = train.load_data(experiment, data_dir)
    classes = np.unique(training.labels)
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(
            f"The labels of {training.name} must be 0..classes - 1, at least two, each with reads. "
            f"Received: {classes[:20].tolist()}."
        )
    if not 0 <= validation.labels.min() <= validation.labels.max() < len(classes):
        raise ValueError(f"{validation.name} (val) has labels that the training reads have not.")
    own = f"motif_cnn_repeat{repeat_id}" if repeat_id else "motif_cnn"
    folder = pathlib.Path(out_dir) / f"{name}_classifier" / own
    seed = experiment.random_seed + repeat_id
    backend.set_seed(seed)
    network = motif_cnn.build(
        training.bases.shape[1], len(classes), experiment.motifs, experiment.motif_length,
        experiment.hidden, experiment.classifier_dropout_p,
    )  # fmt: skip
    model = motif_cnn.ReadClassifier(network)
    train.compile_model(model, experiment, rate, experiment.classifier_steps)
    model.build((None, training.bases.shape[1]))
    settings = {"repeat_id": repeat_id, "ood_near": (), "ood_far": experiment.ood_test}
    with locked(folder):
        sets = (training, validation)
        run = train.open_run(experiment, settings, name, sets, folder, EXTRACTOR)
        if run.is_finished:
            return run
        trainer.fit(
            model,
            lambda step: trainer.batches(
                [training.bases], experiment.batch_size, seed, step, training.labels
            ),
            run,
            total_steps=experiment.classifier_steps,
            eval_every=experiment.eval_every,
            batch_size=experiment.batch_size,
            validation=(validation.bases, validation.labels),
            monitor="accuracy",
            saved=lambda: network,
        )
    return run


def main(_):
    experiment = train.experiment_from_flags()
    train_classifier(experiment, FLAGS.exp, FLAGS.out_dir, FLAGS.data_dir, FLAGS.repeat_id)


if __name__ == "__main__":
    train.define_common_flags()
    flags.adopt_module_key_flags(train)  # so that --help shows them as this binary's
    define_setting_flags(configs.Experiment, HELP, CHOICES)
    flags.DEFINE_integer("repeat_id", 0, "Number of the independent repeat.", lower_bound=0)
    run_app(main)
