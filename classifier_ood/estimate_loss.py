"""Estimates the loss constraint of Unleashing Mask from randomly masked weights.

    python -m classifier_ood.estimate_loss --run=output/classifier_ood/fashion/convnet

The mean cross entropy of the network with masked kernels on the ID training set, averaged over
masks, see classifier_ood/loss_constraint.py. It goes to RUN/loss_constraint[_CHECKPOINT].json,
where `python -m classifier_ood.finetune --um=auto` reads it.
"""

import dataclasses
import shlex

from absl import flags, logging

from classifier_ood import configs
from ood_suite.data import layouts
from ood_suite.files import locked
from ood_suite.optional import quietly
from ood_suite.runs import cli
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS


def main(_):
    run = Run.load(cli.run_folder(), FLAGS.checkpoint)
    settings = dataclasses.replace(configs.Estimate(), **cli.overrides(configs.Estimate))
    with quietly():  # not at the top: --help need not wait for Keras
        from classifier_ood import loss_constraint

    with locked(run.folder):
        result = loss_constraint.estimate(run, settings, cli.data_dir())
    made_with = result["made_with"]
    print(
        f"um = {result['um']:.4f} nats (standard deviation {result['std']:.4f} over "
        f"{made_with['masks']} masks that keep {made_with['kept']:.1%} of each kernel); without "
        f"masks {result['unmasked']:.4f}. {made_with['images']} training images, "
        f"{made_with['conditions']} conditions."
    )
    logging.info("Wrote %s.", loss_constraint.result_path(run))
    words = ["python", "-m", "classifier_ood.finetune", f"--run={run.folder}", "--um=auto"]
    logging.info("Next: %s", shlex.join([*words, *layouts.flags(cli.data_dir())]))


if __name__ == "__main__":
    cli.define_run("Run folder of a trained or converted classifier.")
    cli.define_data_dir("image_data")
    cli.define_settings(configs.Estimate)
    cli.run_app(main)
