"""Saves the paper's data, from TFDS or from the reference's TFRecords, as npz.

    python -m genomics_ood.records_to_np --tfds --data_dir=FOLDER
    python -m genomics_ood.records_to_np --tfrecord_dir=FOLDER_OF_THE_FIVE --name=genomics_toy

Writes <name>_train, <name>_val, <name>_test, and <name>_ood_val and <name>_ood_test, as far as the
source has them, once all of it is read; so much memory is needed. TFDS downloads the data if it has
none yet; nothing else in this project ever downloads.
"""

import json
import pathlib

import numpy as np
from absl import flags, logging

from genomics_ood import reads, sequence_files
from ood_suite.progress import progress
from ood_suite.runs.cli import define_name, run_app

FLAGS = flags.FLAGS
# What it becomes -> (the reference's folder, TFDS's split).
PARTS = {
    "train": ("before_2011_in_tr", "train"),
    "val": ("between_2011-2016_in_val", "validation"),
    "test": ("after_2016_in_test", "test"),
    "ood_val": ("between_2011-2016_ood_val", "validation_ood"),
    "ood_test": ("after_2016_ood_test", "test_ood"),
}


def collect(found, limit=0):
    """(bases, labels as the source has them, origins) of (bases, label, origin) triples.

    Args:
        limit: reads to take; 0 for all.

    Raises:
        ValueError: no read, or reads of different lengths.
    """
    rows, labels, origins = [], [], []
    for bases, label, origin in progress(found, unit="read"):
        if rows and len(bases) != len(rows[0]):
            raise ValueError(f"Reads of {len(rows[0])} and of {len(bases)} bases in one set.")
        rows.append(bases)
        labels.append(label)
        origins.append(origin)
        if len(rows) == limit:
            break
    if not rows:
        raise ValueError("The source holds no reads.")
    return np.stack(rows), np.array(labels, np.int64), origins


def numbered(labels, known):
    """Labels as positions in the sorted list `known`; ValueError for others.

    >>> numbered(np.array([70, 12, 70]), [12, 70])
    array([1, 0, 1], dtype=int32)
    """
    strange = sorted(set(labels.tolist()) - set(known))
    if strange:
        raise ValueError(f"There are labels that the training reads have not: {strange[:10]}.")
    return np.searchsorted(known, labels).astype(np.int32)


def tfrecord_source(folder, part):
    """Triples of all files of one part of the reference's layout, or None if it is not there."""
    files = sorted((pathlib.Path(folder) / PARTS[part][0]).glob("*.tfrecord*"))
    if not files:
        return None
    return (triple for file in files for triple in sequence_files.tfrecord_reads(file))


def label_names(folder):
    """{label: name} of label_dict.json; {} if there is none."""
    path = pathlib.Path(folder) / "label_dict.json"
    if not path.exists():
        return {}
    return {number: name for name, number in json.loads(path.read_text(encoding="utf-8")).items()}


def main(_):
    if FLAGS.tfds == bool(FLAGS.tfrecord_dir):
        raise ValueError("Give either --tfds or --tfrecord_dir.")
    reads.write_set(FLAGS.data_dir, FLAGS.name, converted, FLAGS.overwrite)


def converted():
    """{part: arguments of reads.write_file} of what the source has; says what it has not."""
    result, missing, known = {}, [], []  # known: labels of the in-distribution set
    for part, (record_folder, split) in PARTS.items():
        if FLAGS.tfds:
            found, names = sequence_files.tfds_reads(split, FLAGS.tfds_dir)
            names = dict(enumerate(names))
        else:
            names = label_names(FLAGS.tfrecord_dir)
            found = tfrecord_source(FLAGS.tfrecord_dir, part)
        if found is None:
            missing.append(record_folder)
            continue
        bases, labels, origins = collect(found, FLAGS.limit)
        present = sorted(set(labels.tolist()))
        own = present if part.startswith("ood") else (known or present)
        known = known or own  # the first part is in-distribution
        class_names = [names.get(label, str(label)) for label in own]
        result[part] = bases, numbered(labels, own), class_names, (), origins
    if len(missing) == len(PARTS):
        raise FileNotFoundError(f"{FLAGS.tfrecord_dir} has none of {', '.join(missing)}.")
    if missing:
        logging.warning("Not there: %s.", ", ".join(missing))
    return result


if __name__ == "__main__":
    flags.DEFINE_bool("tfds", False, "Read TFDS's genomics_ood.")
    flags.DEFINE_string("tfds_dir", None, "TFDS's own folder; default: TFDS's.")
    flags.DEFINE_string("tfrecord_dir", None, "Read the reference's folders of TFRecords in here.")
    define_name("genomics", "Of the data set.")
    flags.DEFINE_string("data_dir", None, "Folder to write to; default: genomics_data.")
    flags.DEFINE_bool("overwrite", False, "Replace a set of that name.")
    flags.DEFINE_integer("limit", 0, "Reads of each part, from its beginning; 0 for all.")
    run_app(main, continues=False)
