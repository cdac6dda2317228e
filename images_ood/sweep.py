"""Trains a foreground model and the grid of background models: mutation_rates x reg_weights x
repeats.

    python -m images_ood.sweep --exp=fashion_small
    python -m images_ood.sweep --exp=fashion --mutation_rates=0.1,0.2 --repeats=10

What is finished is skipped, what was cut continues, and a run that fails does not stop the others.
"""

from absl import flags

from images_ood import configs
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(_):
    from images_ood import density_run  # loads Keras, which --help need not wait for
    from ood_suite.runs.sweep import sweep

    engine = cli.engine()
    sweep(
        cli.experiment(configs.EXPERIMENTS),
        train="images_ood.density_run:train",
        run_name=density_run.run_name,
        name=FLAGS.exp,
        out_dir=FLAGS.out_dir,
        data_dir=FLAGS.data_dir,
        repeats=FLAGS.repeats,
        engine=engine,
    )


if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "fashion", "output/images_ood", "image_data",
        configs.Experiment, without=("mutation_rate", "reg_weight"),
    )  # fmt: skip
    cli.define_sweep()
    cli.run_app(main)
