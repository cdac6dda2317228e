"""Trains a classifier in a run folder.

    python -m classifier_ood.train --exp=fashion
    python -m classifier_ood.train --exp=cifar10_wrn --options=depth=28,width=10 --epochs=200
    python -m classifier_ood.train --exp=fashion --normalization=logit --name=logitnorm

The run goes to OUT_DIR/EXP/NAME[_repeat<repeat_id>], NAME being the backbone's unless given. The
same command continues an interrupted run. Models are kept on the way in checkpoints/: first.keras
(before the first step), best.keras (highest accuracy on the held-out split, never on the test set),
epoch_<n>.keras with --save_every; model.keras is the last. `python -m ood_suite.eval --run=RUN`
makes a detector of it, `--checkpoint=best` of another of them.
"""

from classifier_ood import configs
from ood_suite.runs import cli

if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "fashion", "output/classifier_ood", "image_data", configs.Experiment
    )
    cli.define_name(None, "Name of the run; default: that of the backbone.")
    cli.define_repeat_id()
    train = "classifier_ood.classifier_run:train"
    cli.run_app(cli.trains(train, configs.EXPERIMENTS, configs.replaced, more=["name"]))
