"""Many independent trainings: a foreground model and its grid of background models, repeated."""

import dataclasses
import pathlib

from absl import flags, logging

from ood_suite.runs import jobs
from ood_suite.runs.cli import run_app

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # what is defined here belongs to the binary, also in --help


def run(branch):
    """What the binary of a branch does.

    Args:
        branch: its module `train`, with `train(experiment, name, out_dir, data_dir, repeat_id)`,
            `run_name(experiment, repeat_id)`, `check(experiment)`, `experiment_from_flags()` and
            the definitions of its flags.
    """
    branch.define_common_flags()
    branch.define_override_flags(without=("mutation_rate", "reg_weight"))
    flags.adopt_module_key_flags(branch)  # so that --help shows them as this binary's
    flags.DEFINE_list("mutation_rates", None, "Mutation rates of the background models.")
    flags.DEFINE_list("reg_weights", None, "Penalties of the background models.")
    flags.DEFINE_integer("repeats", 1, "Independent repeats of everything.", lower_bound=1)
    jobs.define_flags()
    flags.adopt_module_key_flags(jobs)
    run_app(lambda _: sweep(branch, branch.experiment_from_flags(), jobs.engine_from_flags()))


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


def sweep(branch, experiment, engine):
    """Trains all of an experiment, with the grid of the flags; one that fails does not stop the
    others.

    Raises:
        RunError: some failed.
    """
    grid = {
        name: tuple(
            dict.fromkeys(
                _number(name, text) for text in FLAGS[name].value or getattr(experiment, name)
            )
        )
        for name in ("mutation_rates", "reg_weights")
    }
    todo = trainings(dataclasses.replace(experiment, **grid), FLAGS.repeats)
    for training, _ in todo:
        branch.check(training)
    common = {"name": FLAGS.exp, "out_dir": FLAGS.out_dir, "data_dir": FLAGS.data_dir}
    listed = [
        jobs.Job(
            branch.run_name(training, repeat_id),
            f"{branch.__name__}:train",
            common | {"experiment": training, "repeat_id": repeat_id},
        )
        for training, repeat_id in todo
    ]
    folder = pathlib.Path(FLAGS.out_dir) / FLAGS.exp
    if not jobs.run(listed, folder, engine):
        logging.info("Next: python -m ood_suite.eval --run=%s", folder)


def _number(name, text):
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"--{name} must be numbers. Received: {text!r}.") from error
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"--{name} must be 0 or more, and finite. Received: {text}.")
    return value
