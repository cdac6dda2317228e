"""Trains one density of DNA reads: a foreground model, or with --mutation_rate and --reg_weight a
background model.

    python -m genomics_ood.train --exp=bacteria_kmers
    python -m genomics_ood.train --exp=bacteria
    python -m genomics_ood.train --exp=bacteria --mutation_rate=0.1 --reg_weight=0.0001
    python -m genomics_ood.train --exp=bacteria --network=lstm --units=128 --out_dir=output/lstm

The run goes to OUT_DIR/EXP/reg<reg_weight>_mr<mutation_rate>[_repeat<repeat_id>]. The same command
continues an interrupted run; `python -m ood_suite.eval --run=OUT_DIR/EXP` compares what is there.
"""

from genomics_ood import configs
from ood_suite.runs import cli
from ood_suite.runs.density_settings import SWEEP_ONLY

if __name__ == "__main__":
    cli.define_experiment(
        configs.EXPERIMENTS, "bacteria", "output/genomics_ood", "genomics_data",
        configs.Experiment, without=(*SWEEP_ONLY, *configs.CLASSIFIER_ONLY),
    )  # fmt: skip
    cli.define_repeat_id()
    cli.run_app(cli.trains(configs.trainer, configs.EXPERIMENTS, configs.adjusted))
