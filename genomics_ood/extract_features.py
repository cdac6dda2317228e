"""What a motif classifier says of a set of reads: features, logits, and on demand ODIN's perturbed
logits. `python -m ood_suite.extract` and `python -m ood_suite.eval` call this.
"""

import numpy as np

from genomics_ood import reads
from genomics_ood.read_extraction import (  # noqa: F401 (Extractor)
    check_length,
    extraction,
    hashes,
    load_reads,
)
from ood_suite.files import example_hashes
from ood_suite.outputs import Outputs
from ood_suite.runs.extraction import Parts, joined, kept, perturbed_parts
from ood_suite.training import input_gradients
from ood_suite.training.stored_model import load_model

SCORES: tuple[str, ...] = ()
PERTURBED: dict[str, str] = {"odin": "cross_entropy"}


def extract(
    run, names, split, *, data_dir=None, parts=Parts(), batch_size=100, shard=None
) -> Outputs:
    """Outputs of a finished run on one set of reads. An epsilon of `parts.perturbations` moves the
    one-hot bases, which lie in 0..1. See runs.extraction.Extractor.
    """
    if parts.inner_layers or parts.fields:
        raise ValueError("--inner_layers and --fields are for classifiers of images.")
    network = load_model(run)
    kernel, bias = network.get_layer("logits").get_weights()
    source = load_reads(run, names, split, data_dir)
    check_length(source, network.input_shape[1])
    job = extraction(run, source, split, batch_size, shard)

    def main_part(bases):
        outputs = network.predict(one_hot(bases), batch_size=batch_size, verbose=0)
        arrays = {name: outputs[name] for name in ("features", "logits")}
        return arrays | {"bases": bases, "example_hashes": example_hashes(reads.canonical(bases))}

    def perturbed(temperature, epsilons, rule):
        move = kept(
            run, ("odin", temperature, epsilons, rule),
            lambda: input_gradients.odin(network, temperature, epsilons, rule, scale=1.0),
        )  # fmt: skip
        return lambda bases: move(one_hot(bases))

    main = job.part(None, main_part, {"head_kernel": kernel, "head_bias": bias})
    return joined([main, *perturbed_parts(job, parts.perturbations, perturbed)])


def one_hot(bases):
    """float32 (n, length, 4)."""
    return np.eye(4, dtype=np.float32)[bases]
