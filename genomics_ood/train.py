"""Trains one density of DNA reads: a foreground model, or with --mutation_rate and --reg_weight a
background model.

    python -m genomics_ood.train --exp=bacteria
    python -m genomics_ood.train --exp=bacteria --mutation_rate=0.1 --reg_weight=0.0001
    python -m genomics_ood.train --exp=bacteria --network=lstm --units=128 --out_dir=output/lstm

The run goes to OUT_DIR/EXP/reg<reg_weight>_mr<mutation_rate>[_repeat<repeat_id>]. The same command
continues an interrupted run; `python -m ood_suite.eval --run=OUT_DIR/EXP` compares what is there.
"""

from absl import flags

from genomics_ood import configs
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(_):
    from genomics_ood import density_run  # loads Keras, which --help need not wait for

    density_run.train(
        cli.experiment(configs.EXPERIMENTS), FLAGS.exp, FLAGS.out_dir, FLAGS.data_dir,
        FLAGS.repeat_id,
    )  # fmt: skip


if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "bacteria", "output/genomics_ood", "genomics_data",
        configs.Experiment, without=(*configs.SWEEP_ONLY, *configs.CLASSIFIER_ONLY),
    )  # fmt: skip
    cli.define_repeat_id()
    cli.run_app(main)
