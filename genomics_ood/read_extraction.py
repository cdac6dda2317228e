"""What the extraction modules of reads share: which reads a run speaks of, and their files."""

from genomics_ood import reads
from ood_suite.outputs import Outputs
from ood_suite.runs.extraction import Extraction, hashes_of


def hashes(run, names, split, *, data_dir=None) -> Outputs | None:
    """Outputs with labels and hashes of the reads alone. See runs.extraction.Extractor."""
    source = load_reads(run, names, split, data_dir)
    return hashes_of(source, source.bases, reads.canonical)


def load_reads(run, names, split, data_dir=None):
    """The first ReadSet there is; of ID reads only the class that the run was trained on, if it
    was one.

    Raises:
        ValueError: a density, and reads of another length than those of its training.
    """
    source = reads.first_available(names, split, data_dir)
    check_length(source, run.settings.get("length", source.bases.shape[1]))
    if [*names] == [run.settings["id_dataset"]]:
        source = reads.filtered(source, run.settings["filter_label"])
    return source


def check_length(source, length):
    """Refuses reads of another length than a model's: what it says of them would tell their length
    (ValueError).
    """
    own = source.bases.shape[1]
    if own != length:
        raise ValueError(
            f"The reads of {source.name} ({source.split}) have {own} bases, those of the training "
            f"{length}: scores would tell their length. Make a set with fasta_to_np --length="
            f"{length}."
        )


def extraction(run, source, split, batch_size, shard, **identity):
    """The Extraction of a run on a ReadSet; identity: see Extraction."""
    return Extraction(
        run, source, split, source.bases,
        extra={"class_names": list(source.class_names), "lineages": list(source.lineages)},
        unit="read",
        batch_size=batch_size,
        shard=shard,
        identity=identity,
    )  # fmt: skip
