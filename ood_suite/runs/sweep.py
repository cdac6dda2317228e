"""Many independent trainings: a foreground model and its grid of background models, repeated."""

import dataclasses
import pathlib

from absl import logging

from ood_suite.runs import jobs, settings
from ood_suite.runs.density_settings import run_name
from ood_suite.runs.run import next_step


def trainings(experiment, repeats):
    """(experiment, repeat_id) of every run: per repeat the foreground first, then the
    backgrounds.
    """
    grid = [(0.0, 0.0)] + [
        (rate, weight)
        for weight in experiment.reg_weights
        for rate in experiment.mutation_rates
        if (rate, weight) != (0.0, 0.0)
    ]
    return [
        (dataclasses.replace(experiment, mutation_rate=rate, reg_weight=weight), repeat_id)
        for repeat_id in range(repeats)
        for rate, weight in grid
    ]


def sweep(experiment, *, train, exp, out_dir, data_dir, repeats, engine):
    """Trains all of an experiment; one that fails does not stop the others.

    Args:
        experiment: with `mutation_rates` and `reg_weights`, the grid of backgrounds.
        train: "package.module:function", see `jobs.Job`; it takes experiment, exp, out_dir,
            data_dir and repeat_id.
        exp: name of the experiment. engine: a jobs.Engine.

    Raises:
        ValueError: a setting out of range, before anything is trained.
        RunError: some failed.
    """
    folder = pathlib.Path(out_dir) / exp
    if experiment.dtype == "auto":  # decided once: machines differ, and runs are compared
        asked = {"wanted": "auto", "folder": folder / run_name(experiment)}
        dtype = jobs.call(jobs.Job("dtype", "ood_suite.training.backend:dtype_of", asked))
        experiment = dataclasses.replace(experiment, dtype=dtype)
    todo = trainings(experiment, repeats)
    for training, _ in todo:
        settings.check(training)
    common = {"exp": exp, "out_dir": out_dir, "data_dir": data_dir}
    listed = [
        jobs.Job(
            run_name(training, repeat_id),
            train,
            common | {"experiment": training, "repeat_id": repeat_id},
        )
        for training, repeat_id in todo
    ]
    if not jobs.run(listed, folder, engine):
        logging.info("All of %s is trained. Next: %s", exp, next_step(folder, data_dir))
