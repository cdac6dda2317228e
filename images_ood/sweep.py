"""Trains a foreground model and the grid of background models: mutation_rates x reg_weights x
repeats.

    python -m images_ood.sweep --exp=fashion_small
    python -m images_ood.sweep --exp=fashion --mutation_rates=0.1,0.2,0.3 --reg_weights=0,10,100
    --repeats=10

What is finished is skipped, what was cut continues, and a run that fails does not stop the others.
"""

import dataclasses

from absl import flags, logging

from images_ood import train
from ood_suite.app import run_app
from ood_suite.runs import RunError

FLAGS = flags.FLAGS


def jobs(experiment, repeats):
    """(experiment, repeat_id) of every run: per repeat the foreground first, then the
    backgrounds.
    """
    grid = [(0.0, 0.0)] + [
        (rate, weight)
        for weight in experiment.reg_weights
        for rate in experiment.mutation_rates
        if rate > 0.0 or weight > 0.0
    ]
    return [
        (dataclasses.replace(experiment, mutation_rate=rate, reg_weight=weight), repeat_id)
        for repeat_id in range(repeats)
        for rate, weight in grid
    ]


def main(_):
    import keras

    experiment = train.experiment_from_flags()
    grid = {
        name: tuple(float(text) for text in FLAGS[name].value or getattr(experiment, name))
        for name in ("mutation_rates", "reg_weights")
    }
    todo = jobs(dataclasses.replace(experiment, **grid), FLAGS.repeats)
    failed = {}
    for position, (job, repeat_id) in enumerate(todo, start=1):
        name = train.run_name(job, repeat_id)
        logging.info("Run %d of %d: %s", position, len(todo), name)
        try:
            train.train(job, FLAGS.exp, FLAGS.out_dir, FLAGS.data_dir, repeat_id)
        except Exception as error:
            failed[name] = error
            logging.exception("%s failed: %s", name, error)
        keras.utils.clear_session()
    if failed:
        raise RunError(f"{len(failed)} of {len(todo)} runs failed: {', '.join(failed)}. See above.")
    logging.info("Next: python -m ood_suite.eval --run=%s/%s", FLAGS.out_dir, FLAGS.exp)


if __name__ == "__main__":
    train.define_common_flags()
    train.define_override_flags(without=("mutation_rate", "reg_weight"))
    flags.adopt_module_key_flags(train)  # so that --help shows them as this binary's
    flags.DEFINE_list("mutation_rates", None, "Mutation rates of the background models.")
    flags.DEFINE_list("reg_weights", None, "L2 weights of the background models.")
    flags.DEFINE_integer("repeats", 1, "Independent repeats of everything.", lower_bound=1)
    run_app(main)
