"""What each ingredient of a leave-out ensemble buys, on its test sets, from one training.

    python -m classifier_ood.ablate_leave_out --run=output/classifier_ood/fashion/leave_out_convnet

The score of the paper, beside it with ODIN's perturbation rule, without a perturbation, with only
one of its two terms, with fewer members, and the maximum softmax of the members' mean. Prints
AUROCs with 95% intervals and writes all metrics to RUN/report/ablation.csv (of a checkpoint, to
report_<checkpoint>). Nothing is chosen here: temperature and epsilon are as given (choose them with
`ood_suite.eval --tune`).
"""

from absl import flags

from ood_suite.files import write_csv
from ood_suite.optional import quietly
from ood_suite.runs import cli
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS


def main(_):
    run = Run.load(cli.run_folder(), FLAGS.checkpoint)
    if run.kind != "ensemble":
        raise ValueError(f"{FLAGS.run} is no leave-out ensemble.")
    with quietly():  # not at the top: --help need not wait for Keras
        from classifier_ood import ablation

    rows = ablation.ablate(run, FLAGS.temperature, FLAGS.epsilon, cli.data_dir(), FLAGS.ood)
    suffix = "" if FLAGS.checkpoint == "last" else f"_{FLAGS.checkpoint}"
    write_csv(run.folder / f"report{suffix}" / "ablation.csv", rows)
    print(ablation.table(rows))


if __name__ == "__main__":
    cli.define_run("Run folder of a leave-out ensemble.")
    cli.define_data_dir("image_data")
    flags.DEFINE_float("temperature", 1000.0, "Of the softmax.")
    flags.DEFINE_float("epsilon", 0.002, "Step of the perturbation, in pixels / 255.")
    flags.DEFINE_list("ood", [], "OOD test sets in place of the run's.")
    cli.run_app(main)
