"""Trains one PixelCNN++: a foreground model, or with --mutation_rate and --reg_weight a background
model.

    python -m images_ood.train --exp=fashion_small
    python -m images_ood.train --exp=fashion_small --mutation_rate=0.3 --reg_weight=10

The run goes to OUT_DIR/EXP/reg<reg_weight>_mr<mutation_rate>[_repeat<repeat_id>]. The same command
continues an interrupted run; `python -m ood_suite.eval --run=OUT_DIR/EXP` compares what is there.
"""

from absl import flags

from images_ood import configs
from ood_suite.runs import cli
from ood_suite.runs.density_settings import SWEEP_ONLY

if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "fashion", "output/images_ood", "image_data", configs.Experiment,
        without=SWEEP_ONLY,
    )  # fmt: skip
    cli.define_repeat_id()
    flags.DEFINE_bool("save_im", False, "Save the first training images, as mutated, as a PNG.")
    cli.run_app(cli.trains("images_ood.density_run:train", configs.EXPERIMENTS, more=["save_im"]))
