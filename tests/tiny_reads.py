"""Tiny sets of reads under the names of the experiments with embedded reads."""

import numpy as np

from genomics_ood import reads, sequence_files

LENGTH = 24


def write_data(folder):
    """Tiny sets under the names of the experiment; OOD reads hold more G and C."""
    rng = np.random.default_rng(5)
    lineages = {"a": "L;P;a", "b": "L;P;b", "v": "L;P;v", "near": "L;P;near", "far": "L;Q;far"}
    for name, count, classes, p in (
        ("bacteria_train", 96, "ab", (0.4, 0.1, 0.1, 0.4)),
        ("bacteria_val", 32, "ab", (0.4, 0.1, 0.1, 0.4)),
        ("bacteria_test", 32, "ab", (0.4, 0.1, 0.1, 0.4)),
        ("bacteria_ood_val", 24, "v", (0.1, 0.4, 0.4, 0.1)),
        ("bacteria_ood_test", 24, ("near", "far"), (0.1, 0.4, 0.4, 0.1)),
    ):  # fmt: skip
        bases = rng.choice(4, (count, LENGTH), p=p).astype(np.uint8)
        labels = np.arange(count) % len(classes)
        own = [lineages[c] for c in classes]
        reads.write_file(folder / f"{name}.npz", bases, labels, list(classes), own)
    return folder


def fasta(bases):
    return "".join(f">r{i} x\n{sequence_files.decode(row)}\n" for i, row in enumerate(bases))
