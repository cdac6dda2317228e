"""Trains a foreground model and the grid of background models: mutation_rates x reg_weights x
repeats.

    python -m genomics_ood.sweep --exp=bacteria
    python -m genomics_ood.sweep --exp=bacteria --mutation_rates=0.05,0.1,0.2 --reg_weights=0,0.0001

What is finished is skipped, what was cut continues, and a run that fails does not stop the others.
"""

from absl import flags

from genomics_ood import configs
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(_):
    from genomics_ood import density_run  # loads Keras, which --help need not wait for
    from ood_suite.runs.sweep import sweep

    engine = cli.engine()
    sweep(
        cli.experiment(configs.EXPERIMENTS),
        train="genomics_ood.density_run:train",
        run_name=density_run.run_name,
        name=FLAGS.exp,
        out_dir=FLAGS.out_dir,
        data_dir=FLAGS.data_dir,
        repeats=FLAGS.repeats,
        engine=engine,
    )


if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "bacteria", "output/genomics_ood", "genomics_data",
        configs.Experiment, without=("mutation_rate", "reg_weight", *configs.CLASSIFIER_ONLY),
    )  # fmt: skip
    cli.define_sweep()
    cli.run_app(main)
