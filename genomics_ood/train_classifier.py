"""Trains the motif classifier of an experiment, whose features and logits feed all scores of
classifiers.

    python -m genomics_ood.train_classifier --exp=bacteria
    python -m ood_suite.eval --run=output/genomics_ood/bacteria_classifier/motif_cnn

The run goes to OUT_DIR/EXP_classifier/motif_cnn[_repeat<repeat_id>]; the same command continues.
"""

from absl import flags

from genomics_ood import configs
from ood_suite.runs import cli

FLAGS = flags.FLAGS
OF_DENSITIES = sorted(
    set(configs.Experiment.__dataclass_fields__)
    - {"id_dataset", "ood_validation", "ood_test", *configs.CLASSIFIER}
)


def main(_):
    from genomics_ood import classifier_run  # loads Keras, which --help need not wait for

    classifier_run.train_classifier(
        cli.experiment(configs.EXPERIMENTS), FLAGS.exp, FLAGS.out_dir, FLAGS.data_dir,
        FLAGS.repeat_id,
    )  # fmt: skip


if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "bacteria", "output/genomics_ood", "genomics_data",
        configs.Experiment, without=OF_DENSITIES,
    )  # fmt: skip
    cli.define_repeat_id()
    cli.run_app(main)
