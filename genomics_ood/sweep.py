"""Trains a foreground model and the grid of background models: mutation_rates x reg_weights x
repeats.

    python -m genomics_ood.sweep --exp=bacteria
    python -m genomics_ood.sweep --exp=bacteria --mutation_rates=0.05,0.1,0.2 --reg_weights=0,0.0001

What is finished is skipped, what was cut continues, and a run that fails does not stop the others.
"""

from genomics_ood import configs
from ood_suite.runs import cli

if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "bacteria", "output/genomics_ood", "genomics_data", configs.Experiment,
        without=("mutation_rate", "reg_weight", *configs.CLASSIFIER_ONLY),
    )  # fmt: skip
    cli.define_sweep()
    cli.run_app(cli.sweeps(configs.trainer, configs.EXPERIMENTS, configs.adjusted))
