"""Trains a foreground model and the grid of background models: mutation_rates x reg_weights x
repeats.

    python -m images_ood.sweep --exp=fashion_small
    python -m images_ood.sweep --exp=fashion --mutation_rates=0.1,0.2,0.3 --reg_weights=0,10,100
    --repeats=10

What is finished is skipped, what was cut continues, and a run that fails does not stop the others.
"""

from absl import flags

from images_ood import train
from ood_suite import sweep
from ood_suite.app import run_app


def main(_):
    sweep.sweep(train, train.experiment_from_flags())


if __name__ == "__main__":
    train.define_common_flags()
    train.define_override_flags(without=("mutation_rate", "reg_weight"))
    flags.adopt_module_key_flags(train)  # so that --help shows them as this binary's
    sweep.define_flags()
    run_app(main)
