"""Runs of densities of reads: a foreground model, or with mutation_rate and reg_weight a background
model, is trained in a run folder.
"""

import pathlib

import keras
import numpy as np

from genomics_ood import reads
from genomics_ood.configs import KMER_ONLY
from genomics_ood.density import ReadDensity
from ood_suite.runs.density_settings import completed, recorded, run_name
from ood_suite.runs.run import opened
from ood_suite.runs.settings import check, model_options
from ood_suite.training import backend, devices
from ood_suite.training.fit import batches, fit, keep_every

EXTRACTOR = "genomics_ood.extract"


def train(experiment, exp, out_dir, data_dir=None, repeat_id=0):
    """Trains one density, or continues it, or finds it finished; returns its Run.

    Args:
        experiment: configs.Experiment. exp: its name. repeat_id: is added to its seed.

    Raises:
        ValueError: settings or data that do not fit, before anything is written.
    """
    check(experiment)
    folder = pathlib.Path(out_dir) / exp / run_name(experiment, repeat_id)
    experiment = completed(experiment, backend.dtype_of(experiment.dtype, folder))
    training, validation = sets = load_data(experiment, data_dir)
    seed = experiment.random_seed + repeat_id
    backend.set_seed(seed)
    with devices.scope(experiment.strategy, experiment.batch_size):
        model = build_model(experiment, seed)
        settings = settings_of(experiment, exp, repeat_id)
        settings["length"] = int(training.bases.shape[1])
        with opened(
            folder,
            kind="density",
            extractor=EXTRACTOR,
            settings=settings,
            fingerprints=reads.fingerprints(sets),
            notes=[s.note for s in sets],
            data_dir=data_dir,
        ) as run:
            if not run.is_finished:
                count = min(experiment.eval_reads or len(validation), len(validation))
                rows = np.linspace(0, len(validation) - 1, count).astype(int)
                fit(
                    model,
                    lambda step: batches([training.bases], experiment.batch_size, seed, step),
                    run,
                    total_steps=experiment.total_steps,
                    eval_every=experiment.eval_every,
                    batch_size=experiment.batch_size,
                    validation=validation.bases[rows],
                    monitor="bits_per_base",
                    keep=keep_every(model, run, experiment.save_every),
                )
    return run


def build_model(experiment, seed):
    """The compiled ReadDensity of an experiment."""
    model = ReadDensity(**model_options(experiment), seed=seed, dtype=experiment.dtype)
    compile_model(model, experiment, experiment.learning_rate, experiment.total_steps)
    return model


def compile_model(model, experiment, learning_rate, total_steps):
    """Adam with the experiment's schedule."""
    rate = learning_rate
    if experiment.learning_rate_schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, total_steps, alpha=0.02)
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=backend.jit_compile())


def load_data(experiment, data_dir):
    """(training, validation) ReadSets, of --filter_label alone if it is set.

    Raises:
        ValueError: lengths that differ, too few reads, a class that is not there.
    """
    training, validation = reads.training_and_validation(
        experiment.id_dataset, experiment.filter_label, data_dir
    )
    if experiment.batch_size > len(training):
        raise ValueError(
            f"--batch_size must be at most {len(training)}, the number of training reads. "
            f"Received: {experiment.batch_size}."
        )
    return training, validation


def settings_of(experiment, exp, repeat_id):
    """What config.json says of a training."""
    found = recorded(experiment, exp=exp, repeat_id=repeat_id, backend=keras.backend.backend())
    return {name: value for name, value in found.items() if name not in KMER_ONLY}
