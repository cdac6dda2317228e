"""Experiments on DNA reads: every setting of a training, as data.

`python -m genomics_ood.train --exp=NAME` trains the foreground model, `--mutation_rate` and
`--reg_weight` make it a background model, `python -m genomics_ood.sweep --exp=NAME` trains the
whole grid, `python -m genomics_ood.train_classifier --exp=NAME` the motif classifier.
"""

import dataclasses

from ood_suite.runs.settings import DTYPE_HELP, DTYPES, STRATEGY_HELP, setting


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment; the field names are those of the flags (the reference's, where it has them).

    Attributes:
        id_dataset: trained on; its "val" split validates, its "test" split is the ID of the result.
        ood_validation: data sets to choose a background model with; the first that is there is
            taken, its split being `ood_validation_split`.
        ood_test: data sets of the result. They choose nothing.
        mutation_rates, reg_weights: the sweep's grid of background models.
        classifier_steps, classifier_learning_rate, motifs, motif_length, hidden: of the motif
            classifier.
    The others: see their help, and density.ReadDensity.
    """

    id_dataset: str = setting("", "Reads to train on, in place of the experiment's.")
    ood_validation: tuple = setting((), "OOD sets to choose by; the first that is there is taken.")
    ood_test: tuple = setting((), "OOD sets of the result.")
    ood_validation_split: str = "val"
    batch_size: int = setting(100, "Reads per step.", at_least=1)
    total_steps: int = setting(100_000, "Optimiser steps.", at_least=1)
    background_steps: int = setting(
        0, "Steps of a background model; 0 for as many as the foreground.", at_least=0
    )
    eval_every: int = setting(
        1_000, "Steps between evaluations, which are also the checkpoints.", at_least=1
    )
    eval_reads: int = setting(
        2_000, "Validation reads per evaluation, spread over the split; 0 for all.", at_least=0
    )
    random_seed: int = setting(
        1234, "Seed of weights, order and mutation; --repeat_id is added to it.", at_least=0
    )
    learning_rate: float = setting(5e-4, "Adam's step size at the start.", above=0)
    learning_rate_schedule: str = setting(
        "constant", "How it falls: not, or by a cosine to 2%.", choices=("constant", "cosine")
    )
    filter_label: int = setting(-1, "Train on this class alone; -1 for all.", at_least=-1)
    network: str = setting(
        "conv",
        "Dilated convolutions, or the paper's LSTM.",
        choices=("conv", "lstm"),
        model=True,
    )
    units: int = setting(
        64, "Of the LSTM, or channels of the convolutions.", at_least=1, model=True
    )
    num_layers: int = setting(
        8, "Gated layers of the convolutional network.", at_least=1, model=True
    )
    kernel_size: int = setting(3, "Bases that each of them reads.", at_least=2, model=True)
    embedding_dim: int = setting(
        0, "Width of an embedding of the bases; 0 for one-hot.", at_least=0, model=True
    )
    layer_norm: bool = setting(False, "Layer normalisation.", model=True)
    dropout_p: float = setting(0.0, "Dropout probability.", at_least=0, below=1, model=True)
    reg_weight: float = setting(
        0.0, "Penalty of the kernels, beside the mean nats per base.", at_least=0, model=True
    )
    reg_type: str = setting(
        "l2",
        "reg_weight * sum |w|, or reg_weight * 0.5 * sum w**2.",
        choices=("l1", "l2"),
        model=True,
    )
    mutation_rate: float = setting(
        0.0,
        "Probability that a base is replaced by another one in training.",
        at_least=0,
        at_most=1,
        model=True,
    )
    dtype: str = setting("float32", DTYPE_HELP, choices=DTYPES)
    strategy: str | None = setting(None, STRATEGY_HELP, choices=("mirrored",))
    classifier_steps: int = setting(20_000, "Optimiser steps of the classifier.", at_least=1)
    classifier_learning_rate: float = setting(
        1e-4, "Adam's step size at the start, of the classifier.", above=0
    )
    motifs: int = setting(1_000, "Filters of the convolution.", at_least=1)
    motif_length: int = setting(20, "Bases that each of them reads.", at_least=1)
    hidden: int = setting(200, "Features of the classifier.", at_least=1)
    classifier_dropout_p: float = setting(
        0.1, "Dropout probability of the classifier.", at_least=0, below=1
    )
    mutation_rates: tuple = setting((0.1, 0.2), "Mutation rates of the background models.")
    reg_weights: tuple = setting((0.0, 1e-4), "Penalties of the background models.")


# Settings of the motif classifier, of the densities alone, and of their sweep alone.
CLASSIFIER = (
    "batch_size", "eval_every", "random_seed", "learning_rate_schedule", "classifier_steps",
    "classifier_learning_rate", "motifs", "motif_length", "hidden", "classifier_dropout_p",
)  # fmt: skip
CLASSIFIER_ONLY = CLASSIFIER[4:]
SWEEP_ONLY = ("mutation_rates", "reg_weights")

_PAPER = {
    "network": "lstm",
    "units": 2_000,
    "dropout_p": 0.1,
    "total_steps": 900_000,
    "mutation_rates": (0.1,),
    "reg_weights": (0.0, 1e-4),
}
_SMALL = {
    "total_steps": 600,
    "background_steps": 150,
    "eval_every": 150,
    "eval_reads": 600,
    "learning_rate": 2e-3,
    "learning_rate_schedule": "cosine",
    "units": 32,
    "classifier_steps": 400,
    "classifier_learning_rate": 1e-3,
    "motifs": 200,
    "hidden": 100,
    "classifier_dropout_p": 0.1,
    "mutation_rates": (0.1, 0.3),
    "reg_weights": (0.0, 1e-3),
}
_HOURS = {
    "total_steps": 2_500,
    "background_steps": 500,
    "eval_every": 250,
    "eval_reads": 1_000,
    "units": 48,
    "mutation_rates": (0.1, 0.2),
    "reg_weights": (0.0, 1e-3),
    "classifier_steps": 2_000,
}
_BACTERIA = {
    "id_dataset": "bacteria",
    "ood_validation": ("bacteria_ood",),
    "ood_test": ("bacteria_ood",),
}
_GENERA = {
    "id_dataset": "genera",
    "ood_validation": ("genera_ood",),
    "ood_test": ("genera_ood",),
}
_GENOMICS = {
    "id_dataset": "genomics",
    "ood_validation": ("genomics_ood",),
    "ood_test": ("genomics_ood",),
}

EXPERIMENTS = {
    # python -m genomics_ood.sweep --exp=bacteria
    # make demo-genomics: the embedded reads, minutes on two cores.
    "bacteria": Experiment(**_BACTERIA | _SMALL),
    # python -m genomics_ood.fasta_to_np --table=genera.tsv --name=genera
    #     --reads=30000,2000,2000 --ood_reads=2000
    # python -m genomics_ood.sweep --exp=genera
    # Ten genomes, half an hour on two cores. The results: benchmarks/RESULTS.md.
    "genera": Experiment(**_GENERA | _SMALL | _HOURS),
    # python -m genomics_ood.sweep --exp=genomics --data_dir=FOLDER
    # The paper's settings and data (its result is the checkpoint at step 900000 of a million; it
    # does not say how long the classifier trains): for a GPU. Expected there: likelihood AUROC
    # 0.626, ratio 0.755. Not run by us.
    "genomics": Experiment(**_GENOMICS | _PAPER),
}
