"""Fine-tunes one classifier in all ways, evaluates each, and compares them.

    python benchmarks/finetuning.py --run=output/classifier_ood/fashion/convnet --outliers=glyphs
        --out_dir=output/finetuning --evaluation=--ood_far=mnist,gaussian --seeds=0,1,2
        --doe_flags=--warm_up=1 -- --epochs=3 --batch_size=64                       # one line

What stands behind `--` goes to every `classifier_ood.finetune`. The loss constraint is estimated
first. Everything continues after a kill. Ends with OUT_DIR/comparison.
"""

import pathlib
import shlex
import subprocess
import sys

from absl import app, flags, logging

FLAGS = flags.FLAGS
OUTLIER = ["--outliers={outliers}"]
METHODS = {
    "control": ["--control"],
    "um": ["--um={um}"],
    "umap": ["--um={um}", "--prune_rate=0.8"],
    "oe": [*OUTLIER, "--oe_method=oe"],
    "oe_um": [*OUTLIER, "--oe_method=oe", "--um={um}"],
    "energy_oe": [*OUTLIER, "--oe_method=energy"],
    "poem": [*OUTLIER, "--oe_method=poem"],
    "doe": [*OUTLIER, "--oe_method=doe"],
}


def call(module, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    logging.info("%s", shlex.join(command))
    done = subprocess.run(command)
    if done.returncode:
        raise SystemExit(done.returncode)


def main(argv):
    base, out = pathlib.Path(FLAGS.run), pathlib.Path(FLAGS.out_dir)
    unknown = sorted(set(FLAGS.methods) - set(METHODS))
    if unknown:
        raise SystemExit(f"Unknown method {unknown[0]!r}. Known: {', '.join(METHODS)}.")
    data = [f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir else []
    if FLAGS.um == "auto":
        call("classifier_ood.estimate_loss", f"--run={base}", *data, *shlex.split(FLAGS.estimate))
    evaluate = [*data, *shlex.split(FLAGS.evaluation), f"--scores={FLAGS.scores}"]
    call("ood_suite.eval", f"--run={base}", f"--out={out}/base/report", *evaluate)
    reports = [f"{out}/base/report"]
    for name in FLAGS.methods:
        own = [part.format(um=FLAGS.um, outliers=FLAGS.outliers) for part in METHODS[name]]
        own += shlex.split(FLAGS.outlier_flags) if any("oe_method" in part for part in own) else []
        own += shlex.split({"poem": FLAGS.poem_flags, "doe": FLAGS.doe_flags}.get(name, ""))
        target = [f"--run={base}", f"--out_dir={out}", f"--name={name}", f"--seeds={FLAGS.seeds}"]
        call("classifier_ood.finetune", *target, *own, *data, *argv[1:])
        for checkpoint in FLAGS.checkpoints:
            run = [f"--run={out}/{name}", "--repeats", f"--checkpoint={checkpoint}"]
            call("ood_suite.eval", *run, *evaluate)
            reports.append(f"{out}/{name}/report" + f"_{checkpoint}" * (checkpoint != "last"))
    compared = [f"--reports={','.join(reports)}", f"--out={out}/comparison"]
    call("ood_suite.compare", *compared, f"--scores={FLAGS.compared}")


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of the classifier.")
    flags.DEFINE_string("out_dir", None, "Folder of the fine-tuned runs and the comparison.")
    flags.DEFINE_string("outliers", "glyphs", "Auxiliary outliers.")
    flags.DEFINE_string("um", "auto", "Loss constraint in nats, or auto.")
    flags.DEFINE_list("methods", list(METHODS), "Which to run.")
    flags.DEFINE_string("seeds", "0", "Independent repeats.")
    flags.DEFINE_list("checkpoints", ["last"], "Which models to evaluate: last, best, first.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_string("scores", "energy,msp", "Scores to evaluate.")
    flags.DEFINE_string("compared", "energy", "Scores to compare.")
    flags.DEFINE_string(
        "evaluation", "", "Further flags of ood_suite.eval, such as --ood_far=mnist."
    )
    flags.DEFINE_string("outlier_flags", "", "Further flags of all methods with outliers.")
    flags.DEFINE_string("poem_flags", "", "Further flags of poem, such as --pool_size=4000.")
    flags.DEFINE_string("doe_flags", "", "Further flags of doe, such as --warm_up=1.")
    flags.DEFINE_string("estimate", "", "Further flags of classifier_ood.estimate_loss.")
    flags.mark_flags_as_required(["run", "out_dir"])
    app.run(main)
