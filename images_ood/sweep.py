"""Trains a foreground model and the grid of background models: mutation_rates x reg_weights x
repeats.

    python -m images_ood.sweep --exp=fashion_small
    python -m images_ood.sweep --exp=fashion --mutation_rates=0.1,0.2 --repeats=10

What is finished is skipped, what was cut continues, and a run that fails does not stop the others.
"""

from images_ood import configs
from ood_suite.runs import cli

if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "fashion", "output/images_ood", "image_data", configs.Experiment,
        without=("mutation_rate", "reg_weight"),
    )  # fmt: skip
    cli.define_sweep()
    cli.run_app(cli.sweeps("images_ood.density_run:train", configs.EXPERIMENTS))
