"""Experiments on DNA reads: every setting of a training, as data.

`python -m genomics_ood.train --exp=NAME` trains the foreground model, `--mutation_rate` and
`--reg_weight` make it a background model, `python -m genomics_ood.sweep --exp=NAME` trains the
whole grid, `python -m genomics_ood.train_classifier --exp=NAME` the motif classifier.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment; the field names are those of the flags (the reference's, where it has them).

    Attributes:
        id_dataset: trained on; its "val" split validates, its "test" split is the ID of the result.
        ood_validation: data sets to choose a background model with; the first that is there is
            taken.
        ood_validation_split: which split of it.
        ood_test: data sets of the result. They choose nothing.
        mutation_rates, reg_weights: the sweep's grid of background models.
        background_steps: steps of a background model (mutation_rate or reg_weight not 0); 0 for
            total_steps.
        learning_rate_schedule: "constant" or "cosine" (to 2%).
        eval_reads: validation reads per evaluation, spread evenly over the split; 0 for all.
        filter_label: train on this class alone; -1 for all.
        network ... reg_type: see density.ReadDensity.
        strategy: None, or "mirrored" for all devices of the machine, see training.devices.
        classifier_steps, classifier_learning_rate, motifs, motif_length, hidden: of the motif
            classifier.
    """

    id_dataset: str
    ood_validation: tuple
    ood_test: tuple
    ood_validation_split: str = "val"
    batch_size: int = 100
    total_steps: int = 100_000
    background_steps: int = 0
    eval_every: int = 1_000
    eval_reads: int = 2_000
    random_seed: int = 1234
    learning_rate: float = 5e-4
    learning_rate_schedule: str = "constant"
    filter_label: int = -1
    network: str = "conv"
    units: int = 64
    num_layers: int = 8
    kernel_size: int = 3
    embedding_dim: int = 0
    layer_norm: bool = False
    dropout_p: float = 0.0
    reg_weight: float = 0.0
    reg_type: str = "l2"
    mutation_rate: float = 0.0
    dtype: str = "float32"
    strategy: str | None = None
    classifier_steps: int = 20_000
    classifier_learning_rate: float = 1e-4
    motifs: int = 1_000
    motif_length: int = 20
    hidden: int = 200
    classifier_dropout_p: float = 0.1
    mutation_rates: tuple = (0.1, 0.2)
    reg_weights: tuple = (0.0, 1e-4)


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


def get(name):
    """The experiment of that name; ValueError lists the known names."""
    if name not in EXPERIMENTS:
        raise ValueError(f"Unknown experiment {name!r}. Known: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
