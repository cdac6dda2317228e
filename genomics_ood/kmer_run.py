"""Runs of k-mer densities: words are counted, and the model is a file of a run folder like any
other density. No network, no Keras: seconds.
"""

import pathlib

import numpy as np
from absl import logging

from genomics_ood import kmers, reads
from genomics_ood.configs import CLASSIFIER_ONLY, NETWORK_ONLY
from ood_suite.files import write_csv
from ood_suite.runs.density_settings import recorded, run_name
from ood_suite.runs.run import opened
from ood_suite.runs.settings import check

EXTRACTOR = "genomics_ood.extract_kmers"


def train(experiment, exp, out_dir, data_dir=None, repeat_id=0):
    """Counts the words of one density, or finds it finished; returns its Run. The same settings
    and reads give the same file, to the last bit.

    Args:
        experiment: configs.Experiment with network "kmer". exp: its name.
        repeat_id: is added to the seed, which decides the mutations of a background alone.

    Raises:
        ValueError: settings or data that do not fit, before anything is written.
    """
    check(experiment)
    if experiment.reg_weight:
        raise ValueError(
            "--reg_weight is a penalty of networks. Received: "
            f"{experiment.reg_weight:g} with --network=kmer, which has --concentration."
        )
    training, validation = sets = reads.training_and_validation(
        experiment.id_dataset, experiment.filter_label, data_dir
    )
    settings = recorded(experiment, exp=exp, repeat_id=repeat_id)
    others = (*NETWORK_ONLY, *CLASSIFIER_ONLY)
    settings = {name: value for name, value in settings.items() if name not in others}
    settings["length"] = int(training.bases.shape[1])
    model = counted(experiment, *sets, experiment.random_seed + repeat_id)
    with opened(
        pathlib.Path(out_dir) / exp / run_name(experiment, repeat_id),
        kind="density",
        extractor=EXTRACTOR,
        settings=settings,
        fingerprints=reads.fingerprints(sets),
        notes=[s.note for s in sets],
        data_dir=data_dir,
    ) as run:
        if not run.is_finished:
            write_csv(run.folder / "logs" / "history.csv", history(model, validation.bases))
            model.save(run.model_path)  # last: what is there is finished
    return run


def counted(experiment, training, validation, seed):
    """The KmerDensity of an experiment's reads; those of a background are mutated first.

    Raises:
        ValueError: labels that are no classes, or reads that are too short for the order.
    """
    labels = np.zeros(len(training), np.int32)
    if experiment.per_class and experiment.filter_label < 0:
        reads.check_labels(training, validation, at_least=1)
        labels = training.labels
    bases = mutated(training.bases, experiment.mutation_rate, seed)
    parts = [kmers.count(bases[labels == k], experiment.order) for k in range(labels.max() + 1)]
    counts, starts = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    return kmers.KmerDensity(counts, starts, experiment.concentration)


def mutated(bases, rate, seed):
    """Reads with each base replaced, with probability `rate`, by one of the three others."""
    if not rate:
        return bases
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 4, bases.shape, np.uint8) * (rng.random(bases.shape) < rate)
    return (bases + steps.astype(np.uint8)) % 4


def history(model, bases):
    """One row per order up to the model's: bits per base of validation reads."""
    rows = []
    for order in range(model.order + 1):
        nats = [
            kmers.mixture(model.base_log_probs(part, order).sum(axis=1, dtype=np.float64))
            for part in model.parts(bases)
        ]
        bits = -np.concatenate(nats).mean() / np.log(2.0) / bases.shape[1]
        rows.append({"step": order, "val_bits_per_base": float(bits)})
    logging.info(
        "Words of order %d, %d classes: %.4f bits per base of the validation reads.", model.order,
        model.classes, rows[-1]["val_bits_per_base"],
    )  # fmt: skip
    return rows
