"""The settings that the experiments of all density models share."""

import dataclasses

from ood_suite.runs.settings import DTYPE_HELP, DTYPES, STRATEGY_HELP, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityExperiment:
    """One experiment; the field names are those of the flags (the reference's, where it has them).

    Attributes:
        id_dataset: trained on; its "val" split validates, its "test" split is the ID of the result.
        ood_validation: data sets to choose a background model with; the first that is there is
            taken, its split being `ood_validation_split`.
        ood_test: data sets of the result. They choose nothing.
        mutation_rates, reg_weights: the sweep's grid of background models.
    The others: see their help.
    """

    id_dataset: str = setting("", "Data set to train on.")
    ood_validation: tuple = setting((), "OOD sets to choose by; the first that is there is taken.")
    ood_test: tuple = setting((), "OOD sets of the result.")
    ood_validation_split: str = "test"
    batch_size: int = setting(32, "Examples per step.", at_least=1)
    total_steps: int = setting(50_000, "Optimiser steps.", at_least=1)
    background_steps: int = setting(0, "Steps of a background; 0: as the foreground.", at_least=0)
    eval_every: int = setting(1_000, "Steps between evaluations and checkpoints.", at_least=1)
    save_every: int | None = setting(
        None, "Steps between models kept for good (a multiple of --eval_every); 0: none.",
        at_least=0,
    )  # fmt: skip
    random_seed: int = setting(1234, "Of weights, order, mutation; adds --repeat_id.", at_least=0)
    learning_rate: float = setting(1e-4, "Adam's step size at the start.", above=0)
    reg_weight: float = setting(0.0, "Weight of the kernels' penalty.", at_least=0, model=True)
    mutation_rate: float = setting(
        0.0, "Share of symbols replaced in training.", at_least=0, at_most=1, model=True
    )
    dropout_p: float = setting(0.0, "Dropout probability.", at_least=0, below=1, model=True)
    dtype: str = setting("float32", DTYPE_HELP, choices=DTYPES)
    strategy: str | None = setting(None, STRATEGY_HELP, choices=("mirrored",))
    mutation_rates: tuple = setting((0.1, 0.2, 0.3), "Mutation rates of the background models.")
    reg_weights: tuple = setting((0.0, 10.0, 100.0), "Penalties of the background models.")

    def __post_init__(self):
        if self.save_every and self.save_every % max(self.eval_every, 1):
            raise ValueError(
                f"--save_every must be a multiple of --eval_every ({self.eval_every}), or 0, to "
                f"keep no model on the way. Received: {self.save_every}."
            )


SWEEP_ONLY = ("mutation_rates", "reg_weights")  # the sweep's settings, not those of one run


def recorded(experiment, **more):
    """What config.json says of a training: no settings of the sweep, and what is given besides."""
    settings = dataclasses.asdict(experiment)
    return {k: v for k, v in settings.items() if k not in SWEEP_ONLY} | more


def completed(experiment, dtype):
    """The experiment as it is trained: with its dtype, and the steps of a background."""
    if experiment.background_steps and (experiment.mutation_rate or experiment.reg_weight):
        experiment = dataclasses.replace(experiment, total_steps=experiment.background_steps)
    return dataclasses.replace(experiment, dtype=dtype)


def run_name(experiment, repeat_id=0):
    """Folder name of a run: reg10_mr0.3, with _repeat1 and so on for further repeats."""
    name = f"reg{experiment.reg_weight:g}_mr{experiment.mutation_rate:g}"
    name += (
        f"_class{experiment.filter_label}" if getattr(experiment, "filter_label", -1) >= 0 else ""
    )
    return f"{name}_repeat{repeat_id}" if repeat_id else name
