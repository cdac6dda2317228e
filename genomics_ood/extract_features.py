"""Writes what a motif classifier says of sets of reads: features, logits, and on demand ODIN's
perturbed logits.

    python -m genomics_ood.extract_features --run=output/genomics_ood/bacteria_classifier/motif_cnn

`ood_suite.eval` calls `extract` by itself.
"""

import numpy as np
from absl import flags, logging

from genomics_ood import reads
from genomics_ood.extract import hashes, job_of, load_model, load_reads  # noqa: F401 (hashes: eval)
from ood_suite.runs import extraction
from ood_suite.runs.cli import run_app
from ood_suite.runs.extraction import example_hashes, joined, short
from ood_suite.runs.run import Run
from ood_suite.training import input_gradients

FLAGS = flags.FLAGS
_COMPILED = {}  # gradients, kept from one data set to the next


def extract(
    run, names, split, data_dir=None, odin=(), inner_layers=(), mahalanobis_epsilons=(),
    batch_size=100, shard=None,
):  # fmt: skip
    """Outputs of a finished run on one set of reads; what is on file of the same model and data is
    not computed again.

    Args:
        odin: pairs (temperature, epsilon); epsilon moves the one-hot bases, which lie in 0..1.
        The others are those of genomics_ood.extract.
    """

    if inner_layers or any(mahalanobis_epsilons):
        raise ValueError("--inner_layers are for classifiers of images.")
    run.require_finished()
    network = load_model(run)
    kernel, bias = network.get_layer("logits").get_weights()
    constants = {"head_kernel": kernel, "head_bias": bias}
    found = load_reads(run, names, split, data_dir)
    job = job_of(run, found, split, "genomics_ood.extract_features", batch_size, shard)

    def main_part(bases):
        outputs = network.predict(one_hot(bases), batch_size=batch_size, verbose=0)
        arrays = {name: outputs[name] for name in ("features", "logits")}
        return arrays | {"bases": bases, "example_hashes": example_hashes(reads.canonical(bases))}

    def perturbed(key):
        if key not in _COMPILED:
            _COMPILED[key] = input_gradients.odin(network, key[1], key[2:], scale=1.0)
        return lambda bases: {
            f"logits_perturbed/{k}": v for k, v in _COMPILED[key](one_hot(bases)).items()
        }

    parts = [job.part(None, main_part, constants)]
    for temperature in dict.fromkeys(t for t, _ in odin):
        epsilons = sorted({e for t, e in odin if t == temperature})
        function = perturbed((id(network), temperature, *epsilons))
        parts.append(job.part(f"odin_T{temperature:g}_{short(epsilons)}", function))
    return joined(parts)


def one_hot(bases):
    """float32 (n, length, 4)."""
    return np.eye(4, dtype=np.float32)[bases]


def data_sets(settings):
    """{role: (data sets in order of preference, split)} of a run, see classifier_ood.extract."""
    own = (settings["id_dataset"],)
    roles = {"training": (own, "train"), "held_out": (own, "val"), "id_test": (own, "test")}
    if settings["ood_validation"]:
        split = settings["ood_validation_split"]
        roles["validation_ood"] = tuple(settings["ood_validation"]), split
    return roles | {f"ood:{name}": ((name,), "test") for name in settings["ood_far"]}


def main(_):
    run = Run.load(FLAGS.run)
    common = {"data_dir": FLAGS.data_dir, "odin": ((1000.0, 0.0014),)}
    listed = [
        {"names": names, "split": split} | common
        for role, (names, split) in data_sets(run.settings).items()
        if role != "training"
    ]
    for outputs in extraction.compute("genomics_ood.extract_features:extract", run, listed):
        meta = outputs.meta
        logging.info("%s (%s): %d reads", meta["dataset"], meta["split"], len(outputs))


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of a finished classifier.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: genomics_data.")
    extraction.define_flags()
    flags.adopt_module_key_flags(extraction)
    flags.mark_flag_as_required("run")
    run_app(main)
