"""Experiments on DNA reads: every setting of a training, as data.

`python -m genomics_ood.train --exp=NAME` trains the foreground model, `--mutation_rate` and
`--reg_weight` make it a background model, `python -m genomics_ood.sweep --exp=NAME` trains the
whole grid, `python -m genomics_ood.train_classifier --exp=NAME` the motif classifier.
"""

import dataclasses

from ood_suite.runs.density_settings import SWEEP_ONLY, DensityExperiment
from ood_suite.runs.settings import replaced, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(DensityExperiment):
    """One experiment with reads: see DensityExperiment, the help of each setting, and
    density.ReadDensity or, where the network is "kmer", kmers.KmerDensity.
    """

    ood_validation_split: str = "val"
    batch_size: int = setting(100, "Reads per step.", at_least=1)
    total_steps: int = setting(100_000, "Optimiser steps.", at_least=1)
    eval_reads: int = setting(2_000, "Validation reads per evaluation; 0 for all.", at_least=0)
    learning_rate: float = setting(5e-4, "Adam's step size at the start.", above=0)
    learning_rate_schedule: str = setting(
        "constant", "How it falls: not, or by a cosine to 2%.", choices=("constant", "cosine")
    )
    filter_label: int = setting(-1, "Train on this class alone; -1 for all.", at_least=-1)
    network: str = setting(
        "conv", "Dilated convolutions, the paper's LSTM, or no network: words that are counted.",
        choices=("conv", "lstm", "kmer"), model=True,
    )  # fmt: skip
    units: int = setting(64, "Of the LSTM, or channels of conv.", at_least=1, model=True)
    num_layers: int = setting(8, "Gated layers of conv.", at_least=1, model=True)
    kernel_size: int = setting(3, "Bases that each of them reads.", at_least=2, model=True)
    embedding_dim: int = setting(0, "Of the bases; 0 for one-hot.", at_least=0, model=True)
    layer_norm: bool = setting(False, "Layer normalisation.", model=True)
    reg_type: str = setting(
        "l2", "reg_weight * sum |w|, or 0.5 * sum w**2.", choices=("l1", "l2"), model=True
    )
    order: int = setting(8, "Bases that a word of kmer looks back.", at_least=0, at_most=11)
    concentration: float = setting(
        512.0, "Observations that the next lower order is worth in kmer.", above=0
    )
    per_class: bool = setting(True, "Count the words of kmer for every class by itself.")
    classifier_steps: int = setting(20_000, "Optimiser steps of the classifier.", at_least=1)
    classifier_learning_rate: float = setting(1e-4, "Its step size at the start.", above=0)
    motifs: int = setting(1_000, "Filters of its convolution.", at_least=1)
    motif_length: int = setting(20, "Bases that each of them reads.", at_least=1)
    hidden: int = setting(200, "Its features.", at_least=1)
    classifier_dropout_p: float = setting(0.1, "Its dropout probability.", at_least=0, below=1)
    mutation_rates: tuple = setting((0.1, 0.2), "Mutation rates of the background models.")
    reg_weights: tuple = setting((0.0, 1e-4), "Penalties of the background models.")


# Settings of the motif classifier alone, and of the densities alone.
CLASSIFIER_ONLY = (
    "classifier_steps", "classifier_learning_rate", "motifs", "motif_length", "hidden",
    "classifier_dropout_p",
)  # fmt: skip
KMER_ONLY = ("order", "concentration", "per_class")
NETWORK_ONLY = (
    "batch_size", "total_steps", "background_steps", "eval_every", "eval_reads", "learning_rate",
    "learning_rate_schedule", "units", "num_layers", "kernel_size", "embedding_dim", "layer_norm",
    "reg_type", "dropout_p", "dtype", "save_every", "strategy",
)  # fmt: skip
DENSITY_ONLY = (
    *SWEEP_ONLY, *KMER_ONLY, "total_steps", "background_steps", "eval_reads", "learning_rate",
    "filter_label",
    "network", "units", "num_layers", "kernel_size", "embedding_dim", "layer_norm", "dropout_p",
    "reg_weight", "reg_type", "mutation_rate", "dtype", "save_every", "strategy",
)  # fmt: skip

# Network -> settings that it does not have.
WITHOUT_EFFECT = {
    "conv": KMER_ONLY,
    "lstm": (*KMER_ONLY, "num_layers", "kernel_size"),
    "kmer": NETWORK_ONLY,
}

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

_KMERS = {"network": "kmer", "mutation_rates": (0.1, 0.5), "reg_weights": (0.0,)}


def adjusted(experiment, overrides):
    """The experiment with some values replaced, see settings.replaced.

    Raises:
        ValueError: a value that is another one than the experiment's, and that the network does not
            have.
    """
    found = replaced(experiment, overrides)
    for name in WITHOUT_EFFECT.get(found.network, ()):
        if getattr(found, name) != getattr(experiment, name) and name in overrides:
            raise ValueError(
                f"--{name} has no effect with --network={found.network}: leave it out."
            )
    return found


def trainer(experiment):
    """The function that trains an experiment's density, see runs.cli.trains."""
    module = "kmer_run" if experiment.network == "kmer" else "density_run"
    return f"genomics_ood.{module}:train"


EXPERIMENTS = {
    # python -m genomics_ood.train --exp=bacteria_kmers
    # make demo-genomics: the embedded reads, seconds.
    "bacteria_kmers": Experiment(**_BACTERIA | _KMERS),
    # python -m genomics_ood.sweep --exp=bacteria
    # The networks on the embedded reads, minutes on two cores.
    "bacteria": Experiment(**_BACTERIA | _SMALL),
    # python -m genomics_ood.fasta_to_np --table=genera.tsv --name=genera
    #     --reads=30000,2000,2000 --ood_reads=2000
    # python -m genomics_ood.train --exp=genera_kmers
    # Ten genomes, half a minute. The results: docs/genomics.md.
    "genera_kmers": Experiment(**_GENERA | _KMERS),
    # python -m genomics_ood.sweep --exp=genera
    # The networks on them, half an hour on two cores. The results: docs/genomics.md.
    "genera": Experiment(**_GENERA | _SMALL | _HOURS),
    # python -m genomics_ood.sweep --exp=genomics --data_dir=FOLDER
    # The paper's settings and data (its result is the checkpoint at step 900000 of a million; it
    # does not say how long the classifier trains): for a GPU. Expected there: likelihood AUROC
    # 0.626, ratio 0.755. Not run by us.
    "genomics": Experiment(**_GENOMICS | _PAPER),
}
