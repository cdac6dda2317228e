"""False alarms of reads that are longer than those of the training: cut into windows, they are
compared with sums over as many validation reads.

    python benchmarks/read_lengths.py --genomes=FOLDER      # with the files of genomes.tsv

Reads of the three training genomes of the shipped DNA model (pretrained/dna_kmers), both strands,
of the blocks of 10000 bases that its validation reads are from, by which its thresholds are set,
and of those of the test reads, at the 5% threshold. Writes benchmarks/read_lengths.json and prints
the table of docs/genomics.md; a minute.
"""

import pathlib
import sys

import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from genomics_ood import read_batches, screening, sequence_files  # noqa: E402
from genomics_ood.screen_model import Screen  # noqa: E402
from genomics_ood.screen_summary import share_interval  # noqa: E402
from ood_suite.files import load_npz, write_json  # noqa: E402
from ood_suite.progress import progress  # noqa: E402

FLAGS = flags.FLAGS
LENGTHS = (250, 251, 275, 300, 350, 400, 500, 501, 750, 1000, 1500, 3000)
BLOCK = 10_000  # fasta_to_np's --block
READS = 4_000  # of each genome and length


def main(_):
    screen, records, found = Screen.of(ROOT / "pretrained" / "dna_kmers"), genomes(), {}
    for title, split in (("validation regions", "val"), ("test regions", "test")):
        blocks = blocks_of(split)
        for length in progress(LENGTHS, desc=title, unit="length"):
            rng = np.random.default_rng(length)
            reads = [drawn(record, blocks, length, rng) for record in records]
            rows = screening.judge(screen, [batch(np.concatenate(reads))], min_length=50)
            alarms = int(rows.is_ood.sum())
            low, high = share_interval(alarms, len(rows.is_ood))
            found.setdefault(title, {})[length] = [alarms / len(rows.is_ood), low, high]
    record = {"reads": READS * len(records), "called_ood": found}
    write_json(ROOT / "benchmarks" / "read_lengths.json", record)
    print("| bases | " + " | ".join(map(str, LENGTHS)) + " |\n|" + "---|" * (1 + len(LENGTHS)))
    for title, row in found.items():
        print(f"| {title} | " + " | ".join(f"{share:.1%}" for share, *_ in row.values()) + " |")


def genomes():
    """[(name, bases)] of the first record of each training genome."""
    table = (ROOT / "genomics_data" / "genomes.tsv").read_text().splitlines()[1:]
    files = [line.split("\t")[0] for line in table if line.split("\t")[2] == "id"]
    found = []
    for file in files:
        title, bases = next(iter(sequence_files.records(pathlib.Path(FLAGS.genomes) / file)))
        found.append((title.split()[0], bases))
    return found


def blocks_of(split):
    """{(record, number of a block)} that the embedded reads of a split are from."""
    origins = load_npz(ROOT / "genomics_data" / "samples" / f"bacteria_{split}.npz")["origins"]
    places = (origin.rpartition(":") for origin in origins)
    return {(title, (int(place.split("-")[0]) - 1) // BLOCK) for title, _, place in places}


def drawn(record, blocks, length, rng):
    """uint8 (READS, length): reads within blocks of a record, half of them of the other strand."""
    name, bases = record
    own = np.array([number for title, number in sorted(blocks) if title == name])
    starts = BLOCK * rng.choice(own, READS) + rng.integers(0, BLOCK - length + 1, READS)
    reads = bases[np.minimum(starts, len(bases) - length)[:, None] + np.arange(length)]
    reads[::2] = [sequence_files.reverse_complement(read) for read in reads[::2]]
    return reads


def batch(reads):
    """Reads of one length as the Batch of a file."""
    count, length = reads.shape
    names, marks = [str(i) for i in range(count)], np.zeros(count + 1, np.int64)
    return read_batches.Batch(names, reads.ravel(), length * np.arange(count + 1), b"", marks)


if __name__ == "__main__":
    flags.DEFINE_string("genomes", None, "Folder of the genomes of genomes.tsv.", required=True)
    app.run(main)
