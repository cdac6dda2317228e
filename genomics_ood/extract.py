"""Writes what a trained density says of sets of reads: log-probabilities and per-base maps.

    python -m genomics_ood.extract --run=output/genomics_ood/bacteria/reg0_mr0
    python -m genomics_ood.extract --run=RUN --dataset=bacteria_ood --split=test

One npz a data set in the run's outputs/ (see ood_suite.outputs), batch by batch: the same command
goes on where a killed one stopped. `ood_suite.eval` calls `extract` by itself.
"""

import numpy as np
from absl import flags, logging

from genomics_ood import reads
from ood_suite.files import RunError
from ood_suite.outputs import Outputs
from ood_suite.runs import extraction
from ood_suite.runs.cli import run_app
from ood_suite.runs.extraction import example_hashes
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS
CHUNK_BYTES = 2**18  # of bases between two moves of the progress bar
_MODELS = {}  # evaluation asks for several data sets of several runs in turn


def extract(run, names, split, data_dir=None, maps=True, batch_size=100, shard=None):
    """Outputs of a finished run on one set of reads: log_prob, log_prob_map, bases, labels,
    example_hashes; from its file if that is of the same model and data.

    Args:
        names: data sets in order of preference; the first that is there is taken.
        split: "train", "val" or "test".
        maps: has no effect: a map is four bytes a base, and is always there.
        shard: see extraction.Extraction.

    Raises:
        RunError: an unfinished run, or a model file that cannot be read.
    """
    run.require_finished()
    model = load_model(run)

    def main_part(bases):
        found = model.predict(bases, batch_size=batch_size, verbose=0)
        return {
            "log_prob_map": found,
            "log_prob": found.sum(axis=1, dtype=np.float64),
            "bases": bases,
            "example_hashes": example_hashes(reads.canonical(bases)),
        }

    found = load_reads(run, names, split, data_dir)
    job = job_of(run, found, split, "genomics_ood.extract", batch_size, shard)
    return job.part(None, main_part)


def load_reads(run, names, split, data_dir=None):
    """The first ReadSet there is; of ID reads only the class that the run was trained on, if it
    was one.
    """
    found = reads.first_available(names, split, data_dir)
    if found.name == run.settings["id_dataset"]:
        found = reads.filtered(found, run.settings["filter_label"])
    return found


def hashes(run, names, split, data_dir=None):
    """Outputs with nothing but labels and hashes of the reads, without running the model."""
    found = load_reads(run, names, split, data_dir)
    meta = {"dataset": found.name, "split": split, "fingerprint": found.fingerprint}
    marks = example_hashes(reads.canonical(found.bases))
    return Outputs(labels=found.labels, example_hashes=marks, meta=meta)


def job_of(run, found, split, module, batch_size, shard):
    """The Extraction of a run on a ReadSet."""
    return extraction.Extraction(
        run, found, split, found.bases,
        f"python -m {module} --run={run.folder} --dataset={found.name} --split={split}",
        extra={"class_names": list(found.class_names), "lineages": list(found.lineages)},
        unit="read",
        chunk_bytes=CHUNK_BYTES,
        batch_size=batch_size,
        shard=shard,
    )  # fmt: skip


def load_model(run):
    """The run's keras.Model; loaded models are kept."""
    import keras

    from genomics_ood import density, motif_cnn  # noqa: F401 (registers the classes)

    key = (str(run.model_path), run.model_path.stat().st_mtime_ns)
    if key not in _MODELS:
        try:
            _MODELS[key] = keras.saving.load_model(run.model_path, compile=False, safe_mode=True)
        except Exception as error:
            raise RunError(
                f"The model {run.model_path} cannot be read ({error}). Delete it and repeat the "
                "training command: it continues from the last checkpoint."
            ) from error
    return _MODELS[key]


def main(_):
    run = Run.load(FLAGS.run)
    settings = run.settings
    own = (settings["id_dataset"],)
    wanted = [(own, "val"), (own, "test")]
    wanted += [(tuple(settings["ood_validation"]), settings["ood_validation_split"])]
    wanted += [((name,), "test") for name in settings["ood_test"]]
    if FLAGS.dataset:
        wanted = [(tuple(FLAGS.dataset), FLAGS.split)]
    common = {"data_dir": FLAGS.data_dir, "batch_size": FLAGS.batch_size}
    listed = [{"names": names, "split": split} | common for names, split in wanted]
    for outputs in extraction.compute("genomics_ood.extract:extract", run, listed):
        logging.info(
            "%s (%s): %d reads, mean log p %.2f nats%s",
            outputs.meta["dataset"], outputs.meta["split"], len(outputs), outputs.log_prob.mean(),
            f" [{outputs.meta['note']}]" if outputs.meta["note"] else "",
        )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of a finished training.")
    flags.DEFINE_list(
        "dataset",
        [],
        "Data set or npz file, or several in order of preference; default: the experiment's.",
    )
    flags.DEFINE_enum("split", "test", reads.SPLITS, "Split of --dataset.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: genomics_data.")
    flags.DEFINE_integer("batch_size", 100, "Reads per step.", lower_bound=1)
    extraction.define_flags()
    flags.adopt_module_key_flags(extraction)
    flags.mark_flag_as_required("run")
    run_app(main)
