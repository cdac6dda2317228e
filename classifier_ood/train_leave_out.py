"""Trains an ensemble of leave-out classifiers, each a normal run folder.

    python -m classifier_ood.train_leave_out --exp=fashion
    python -m classifier_ood.train_leave_out --exp=cifar10_leave_out --partition=cifar10_pairs

Member k sees its part of the classes as outliers: CE + beta * max(margin + mean entropy of ID -
mean entropy of outliers, 0). The ensemble goes to OUT_DIR/EXP/leave_out_NAME[_repeat<repeat_id>],
its members to member<k> in it, one after another, or with --engine=ray side by side; the same
command continues. Started several times, each takes the members that no other is training;
--members=0,2 trains only those. `python -m ood_suite.eval --run=ENSEMBLE` makes a detector of it
(score leave_out), `--tune` chooses temperature and epsilon on validation data, `python -m
classifier_ood.ablate_leave_out` shows what each ingredient buys.
"""

import dataclasses

from absl import flags

from classifier_ood import configs
from ood_suite.optional import quietly
from ood_suite.runs import cli, jobs

FLAGS = flags.FLAGS


def main(_):
    experiment = cli.experiment(configs.EXPERIMENTS, configs.replaced)
    settings = dataclasses.replace(configs.LeaveOut(), **cli.overrides(configs.LeaveOut))
    engine = cli.engine()
    members = cli.numbers("members", int)
    with quietly():  # not at the top: --help need not wait for Keras
        from classifier_ood import leave_out_run

    leave_out_run.train_ensemble(
        experiment,
        settings,
        FLAGS.exp,
        FLAGS.out_dir,
        data_dir=cli.data_dir(),
        repeat_id=FLAGS.repeat_id,
        name=FLAGS.name,
        members=members,
        engine=engine,
    )


if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "fashion", "output/classifier_ood", "image_data",
        configs.Experiment,
        without=("label_smoothing", "normalization", "temperature"),
    )  # fmt: skip
    cli.define_settings(configs.LeaveOut)
    cli.define_name(None, "Name of the run; default: that of the backbone.")
    cli.define_repeat_id()
    flags.DEFINE_list("members", [], "Train only these members, such as 0,2; default: all.")
    cli.define_settings(jobs.Engine)
    cli.run_app(main)
