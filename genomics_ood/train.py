"""Trains one density of DNA reads: a foreground model, or with --mutation_rate and --reg_weight a
background model.

    python -m genomics_ood.train --exp=bacteria
    python -m genomics_ood.train --exp=bacteria --mutation_rate=0.1 --reg_weight=0.0001
    python -m genomics_ood.train --exp=bacteria --network=lstm --units=128 --out_dir=output/lstm

The run goes to OUT_DIR/EXP/reg<reg_weight>_mr<mutation_rate>[_repeat<repeat_id>]. The same command
continues an interrupted run; `python -m ood_suite.eval --run=OUT_DIR/EXP` compares what is there.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags, logging

from genomics_ood import configs, reads
from ood_suite.files import locked
from ood_suite.runs.cli import define_setting_flags, flag_overrides, run_app
from ood_suite.runs.run import Run
from ood_suite.training import devices

FLAGS = flags.FLAGS
EXTRACTOR = "genomics_ood.extract"
DEFAULT_OUT_DIR = "output/genomics_ood"
SWEEP_ONLY = ("mutation_rates", "reg_weights")

HELP = {
    "batch_size": "Reads per step.",
    "total_steps": "Optimiser steps.",
    "background_steps": "Steps of a background model; 0 for as many as the foreground.",
    "eval_every": "Steps between evaluations, which are also the checkpoints.",
    "eval_reads": "Validation reads per evaluation; 0 for all.",
    "random_seed": "Seed of weights, order and mutation; --repeat_id is added to it.",
    "learning_rate": "Adam's step size at the start.",
    "filter_label": "Train on this class alone; -1 for all.",
    "units": "Of the LSTM, or channels of the convolutions.",
    "num_layers": "Gated layers of the convolutional network.",
    "kernel_size": "Bases that each of them reads.",
    "embedding_dim": "Width of an embedding of the bases; 0 for one-hot.",
    "layer_norm": "Layer normalisation.",
    "dropout_p": "Dropout probability.",
    "reg_weight": "Penalty of the kernels, beside the mean nats per base.",
    "mutation_rate": "Probability that a base is replaced by another one in training.",
}
CHOICES = {
    "network": (["conv", "lstm"], "Dilated convolutions, or the paper's LSTM."),
    "reg_type": (["l1", "l2"], "reg_weight * sum |w|, or reg_weight * 0.5 * sum w**2."),
    "learning_rate_schedule": (["constant", "cosine"], "How it falls."),
    "dtype": (["float32", "mixed_bfloat16"], "Precision of the network."),
    "strategy": (["mirrored"], "Train on all devices of this machine (TensorFlow)."),
}
MODEL_OPTIONS = (
    "network", "units", "num_layers", "kernel_size", "embedding_dim", "layer_norm", "dropout_p",
    "reg_weight", "reg_type", "mutation_rate",
)  # fmt: skip


def define_common_flags():
    flags.DEFINE_string("exp", "bacteria", f"Experiment: {', '.join(configs.EXPERIMENTS)}.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: genomics_data.")
    flags.DEFINE_string("out_dir", DEFAULT_OUT_DIR, "Where the experiments' folders go.")
    flags.DEFINE_string("id_dataset", None, "Reads to train on, in place of the experiment's.")
    flags.DEFINE_list("ood_validation", None, "OOD sets to choose by; the first there is is taken.")
    flags.DEFINE_list("ood_test", None, "OOD sets of the result.")


def define_override_flags(without=()):
    define_setting_flags(configs.Experiment, HELP, CHOICES, without)


def experiment_from_flags():
    """The experiment named by --exp with the flags' values in place of its own; total_steps alone
    holds for a background too.
    """
    overrides = flag_overrides(configs.get(FLAGS.exp))
    for name in ("ood_validation", "ood_test"):
        if name in overrides:
            overrides[name] = tuple(overrides[name])
    if "total_steps" in overrides:
        overrides = {"background_steps": 0} | overrides
    return dataclasses.replace(configs.get(FLAGS.exp), **overrides)


def check(experiment):
    """ValueError for settings out of range, naming the flag."""
    from genomics_ood.density import check_options

    check_options({name: getattr(experiment, name) for name in MODEL_OPTIONS})
    limits = {"batch_size": 1, "total_steps": 1, "eval_every": 1, "background_steps": 0}
    for name, lowest in (limits | {"eval_reads": 0, "filter_label": -1}).items():
        value = getattr(experiment, name)
        if value < lowest:
            raise ValueError(f"--{name} must be at least {lowest}. Received: {value}.")
    if not 0.0 <= experiment.mutation_rate <= 1.0:
        value = experiment.mutation_rate
        raise ValueError(f"--mutation_rate must lie in [0, 1]. Received: {value}.")
    if not 0.0 < experiment.learning_rate < float("inf"):
        value = experiment.learning_rate
        raise ValueError(f"--learning_rate must be positive and finite. Received: {value}.")


def run_name(experiment, repeat_id=0):
    """Folder name of a run: reg0.0001_mr0.1, with _repeat1 and so on for further repeats."""
    name = f"reg{experiment.reg_weight:g}_mr{experiment.mutation_rate:g}"
    name += f"_class{experiment.filter_label}" if experiment.filter_label >= 0 else ""
    return f"{name}_repeat{repeat_id}" if repeat_id else name


def build_model(experiment, seed):
    """The compiled ReadDensity of an experiment."""
    from genomics_ood.density import ReadDensity

    options = {name: getattr(experiment, name) for name in MODEL_OPTIONS}
    model = ReadDensity(**options, seed=seed, dtype=experiment.dtype)
    compile_model(model, experiment, experiment.learning_rate, experiment.total_steps)
    return model


def compile_model(model, experiment, learning_rate, total_steps):
    """Adam with the experiment's schedule."""
    import keras

    from ood_suite.training import backend

    rate = learning_rate
    if experiment.learning_rate_schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, total_steps, alpha=0.02)
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=backend.jit_compile())


def load_data(experiment, data_dir):
    """(training, validation) ReadSets, of --filter_label alone if it is set.

    Raises:
        ValueError: lengths that differ, too few reads, a class that is not there.
    """
    training, validation = (
        reads.load(experiment.id_dataset, split, data_dir) for split in ("train", "val")
    )
    if training.bases.shape[1] != validation.bases.shape[1]:
        raise ValueError(
            f"The reads of {validation.name} (val) have {validation.bases.shape[1]} bases, those "
            f"of {training.name} (train) {training.bases.shape[1]}."
        )
    label = experiment.filter_label
    training, validation = reads.filtered(training, label), reads.filtered(validation, label)
    if experiment.batch_size > len(training):
        raise ValueError(
            f"--batch_size must be at most {len(training)}, the number of training reads. "
            f"Received: {experiment.batch_size}."
        )
    return training, validation


def open_run(experiment, settings, name, sets, folder, extractor):
    """The Run of a training, whose lock the caller holds, with its notes logged."""
    import keras

    recorded = {k: v for k, v in dataclasses.asdict(experiment).items() if k not in SWEEP_ONLY}
    recorded |= settings | {"exp": name, "backend": keras.backend.backend()}
    prints = {f"{s.name}_{s.split}": s.fingerprint for s in sets}
    run = Run.open(folder, recorded, extractor, prints)
    if run.is_finished:
        logging.info("%s is finished: nothing to do.", folder)
    else:
        for note in filter(None, (s.note for s in sets)):
            logging.info("Data: %s.", note)
    return run


def train(experiment, name, out_dir, data_dir=None, repeat_id=0):
    """Trains one density, or continues it, or finds it finished; returns its Run."""
    from ood_suite.training import backend
    from ood_suite.training import fit as trainer

    check(experiment)
    if experiment.background_steps and (experiment.mutation_rate or experiment.reg_weight):
        experiment = dataclasses.replace(experiment, total_steps=experiment.background_steps)
    training, validation = load_data(experiment, data_dir)
    folder = pathlib.Path(out_dir) / name / run_name(experiment, repeat_id)
    seed = experiment.random_seed + repeat_id
    backend.set_seed(seed)
    with devices.scope(experiment.strategy, experiment.batch_size):
        model = build_model(experiment, seed)
        with locked(folder):
            sets = (training, validation)
            settings = {"repeat_id": repeat_id, "length": int(training.bases.shape[1])}
            run = open_run(experiment, settings, name, sets, folder, EXTRACTOR)
            if run.is_finished:
                return run
            count = min(experiment.eval_reads or len(validation), len(validation))
            rows = np.linspace(0, len(validation) - 1, count).astype(int)
            trainer.fit(
                model,
                lambda step: trainer.batches([training.bases], experiment.batch_size, seed, step),
                run,
                total_steps=experiment.total_steps,
                eval_every=experiment.eval_every,
                batch_size=experiment.batch_size,
                validation=validation.bases[rows],
                monitor="bits_per_base",
            )
    return run


def main(_):
    experiment = experiment_from_flags()
    train(experiment, FLAGS.exp, FLAGS.out_dir, FLAGS.data_dir, FLAGS.repeat_id)


if __name__ == "__main__":
    define_common_flags()
    define_override_flags()
    flags.DEFINE_integer("repeat_id", 0, "Number of the independent repeat.", lower_bound=0)
    run_app(main)
