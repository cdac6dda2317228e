"""Makes runs of the likelihood-ratio authors' TensorFlow 1 checkpoints: foreground and backgrounds
in our network, ready for ood_suite.eval.

    python -m images_ood.convert --model_dir=testmodels/expfashion/rescaleFalse --ckpt_step=50000

Each reg<weight>_mr<rate> folder of MODEL_DIR becomes a run in OUT_DIR/<exp>_converted_step<n>.
Sizes and settings come from its params.json; every variable must find its place and every layer its
variables. With --data_dir the fingerprints of the data that they were trained on go on record, and
an evaluation on other data says so.
"""

from absl import flags

from ood_suite.optional import quietly
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(_):
    with quietly():  # not at the top: --help need not wait for Keras
        from images_ood.conversion import convert

    convert(
        FLAGS.model_dir,
        ckpt_step=FLAGS.ckpt_step,
        repeat_id=FLAGS.repeat_id,
        data_dir=cli.data_dir(),
        out_dir=FLAGS.out_dir,
        name=FLAGS.name,
    )


if __name__ == "__main__":
    flags.DEFINE_string("model_dir", None, "Folder that holds reg<weight>_mr<rate> folders.")
    flags.DEFINE_integer("ckpt_step", None, "Step of the checkpoints.", lower_bound=1)
    flags.DEFINE_integer(
        "repeat_id", 0, "Which run of each folder, by name; -1: model/ lies directly beneath it.",
        lower_bound=-1,
    )  # fmt: skip
    cli.define_data_dir("none, and no fingerprints")
    flags.DEFINE_string("out_dir", "output/images_ood", "Where the experiments' folders go.")
    cli.define_name(None, "Name of the folder of runs; default: <exp>_converted_step<n>.")
    flags.mark_flags_as_required(["model_dir", "ckpt_step"])
    cli.run_app(main)
