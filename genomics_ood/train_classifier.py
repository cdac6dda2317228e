"""Trains the motif classifier of an experiment, whose features and logits feed all scores of
classifiers.

    python -m genomics_ood.train_classifier --exp=bacteria
    python -m ood_suite.eval --run=output/genomics_ood/bacteria_classifier/motif_cnn

The run goes to OUT_DIR/EXP_classifier/motif_cnn[_repeat<repeat_id>]; the same command continues.
"""

from genomics_ood import configs
from ood_suite.runs import cli

if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "bacteria", "output/genomics_ood", "genomics_data",
        configs.Experiment, without=configs.DENSITY_ONLY,
    )  # fmt: skip
    cli.define_repeat_id()
    cli.run_app(cli.trains("genomics_ood.classifier_run:train_classifier", configs.EXPERIMENTS))
