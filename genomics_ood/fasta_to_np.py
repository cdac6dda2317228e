"""Samples reads from genomes: FASTA or FASTQ files to npz, in splits that share no region.

    python -m genomics_ood.fasta_to_np --files=a.fna.gz,b.fna.gz --name=mine
    python -m genomics_ood.fasta_to_np --table=genomes.tsv --name=bacteria --length=250

--files makes each file a class (named after it) of the in-distribution set. --table is a file of
tab-separated columns `file` (relative to the table), `class`, `role` (id, ood_val, ood_test) and
perhaps `lineage` (domain;phylum;...;genus), with a header line; several files may be one class.
Written are NAME_train, NAME_val, NAME_test, and NAME_ood_val and NAME_ood_test where the table has
such roles.

Every record is cut into blocks; the blocks of an in-distribution class are dealt out to the three
splits at random, and a read lies within one block: no two splits share a position. (They may share
a sequence that a genome repeats, or that two strains of a class have in common: see the note in
genomics_data/README.md.) Reads start at random positions, none twice, on both strands. Windows with
bases other than A C G T are no candidates; their number is reported. Files are streamed, twice, one
record at a time (six times the longest one must fit into memory).

Short records, such as the reads of a FASTQ file, are blocks of their own: there, reads that overlap
in the genome can come to lie in different splits, which nothing here can see. Of identical reads
and reverse complements one is kept, in train rather than in val or test.
"""

import array
import csv
import dataclasses
import hashlib
import pathlib
import re

import numpy as np
from absl import flags, logging

from genomics_ood import reads, sequence_files
from ood_suite.progress import progress
from ood_suite.runs.cli import define_name, run_app

FLAGS = flags.FLAGS
ROLES = ("id", "ood_val", "ood_test")
ID_SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of one class."""

    path: pathlib.Path
    class_name: str
    role: str
    lineage: str = ""


def read_table(path):
    """The Sources of a table; ValueError for missing columns, unknown roles or a class in two
    roles.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    with open(path, newline="", encoding="utf-8-sig") as file:  # Excel writes a mark at its start
        table = [[cell.strip() for cell in row] for row in csv.reader(file, "excel-tab")]
    rows = [dict(zip(table[0], cells, strict=False)) for cells in table[1:] if any(cells)]
    columns = set(rows[0]) if rows else set()
    if not {"file", "class", "role"} <= columns:
        raise ValueError(
            f"{path} must have the tab-separated columns file, class and role. Received: "
            f"{sorted(map(str, columns))}."
        )
    found, roles = [], {}
    for row in rows:
        if row["role"] not in ROLES:
            raise ValueError(f"{path}: role must be one of {', '.join(ROLES)}. Received: {row}.")
        if roles.setdefault(row["class"], row["role"]) != row["role"]:
            raise ValueError(f"{path}: the class {row['class']} has two roles.")
        source = path.parent / row["file"], row["class"], row["role"], row.get("lineage") or ""
        found.append(Source(*source))
    return check_sources(found)


def file_sources(paths):
    """The Sources of files that are a class each, called as the file is without its endings."""
    paths = [pathlib.Path(text) for text in paths]
    names = [re.sub(r"(\.(fa|fasta|fna|fq|fastq))?(\.gz)?$", "", path.name) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"Two --files would be the same class: {', '.join(names)}. Use --table.")
    return check_sources([Source(p, name, "id") for p, name in zip(paths, names, strict=True)])


def check_sources(sources):
    """The sources, if all files are there and none is given twice."""
    known = set()
    for source in sources:
        if not source.path.is_file():
            raise FileNotFoundError(f"There is no file {source.path}.")
        if source.path.resolve() in known:
            raise ValueError(f"{source.path} is given twice: its reads would be in two splits.")
        known.add(source.path.resolve())
    return sources


def blocks_of(length, block, window):
    """(start, stop) of the blocks of a record: of `block` bases each, the last one perhaps longer
    by less than that; none if the record is shorter than a window.

    >>> blocks_of(25, 10, 4)
    [(0, 10), (10, 25)]
    """
    if length < window:
        return []
    count = max(1, length // block)
    stops = [block * i for i in range(1, count)] + [length]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def valid_starts(bases, window):
    """Positions at which a window of known bases begins.

    >>> valid_starts(np.array([0, 1, 255, 2, 3, 0], np.uint8), 2)
    array([0, 3, 4])
    """
    unknown = np.concatenate([[0], np.cumsum(bases > 3)])
    return np.flatnonzero(unknown[window:] == unknown[:-window])


def survey(sources, block, window):
    """Counts the valid starts of every block: (numbers of the blocks' sources, counts, in the order
    in which the files give them; windows with other bases; records too short).

    Raises:
        ValueError: two sources hold the same sequence (of a block's length at least).
    """
    numbers, counts, unknown, short, known = array.array("i"), array.array("q"), 0, 0, {}
    for number, title, bases in _all_records(sources, "counting"):
        if len(bases) >= block:
            mark = hashlib.blake2b(bases.tobytes(), digest_size=16).digest()
            other = known.setdefault(mark, number)
            if other != number:
                raise ValueError(
                    f"{sources[number].path} and {sources[other].path} hold the same sequence "
                    f"({title.split(' ')[0]}): its reads would be in two sets."
                )
        parts = blocks_of(len(bases), block, window)
        short += not parts
        for start, stop in parts:
            count = len(valid_starts(bases[start:stop], window))
            unknown += stop - start - window + 1 - count
            numbers.append(number)
            counts.append(count)
    return np.array(numbers, np.int32), np.array(counts, np.int64), unknown, short


def deal(own, counts, class_name, shares, wanted, rng):
    """{split: {block number: sorted ranks among its valid starts}} of one class.

    Args:
        own: numbers of the class's blocks. counts: valid starts of all blocks.
        shares: {split: share of the blocks}. wanted: {split: number of reads}.

    Raises:
        ValueError: too few windows for the reads that are wanted.
    """
    order = rng.permutation(own)
    cuts = np.round(np.cumsum(list(shares.values())) * len(order)).astype(int)
    chosen = {}
    for split, part in zip(shares, np.split(order, cuts[:-1]), strict=True):
        part = np.sort(part)
        ends = np.cumsum(counts[part])
        available = int(ends[-1]) if len(part) else 0
        if available < wanted[split]:
            raise ValueError(
                f"{class_name} has {available} windows for {split}, in {len(part)} blocks, and "
                f"{wanted[split]} reads are wanted. Give more sequence, fewer --reads, or a "
                "smaller --block."
            )
        drawn = np.sort(rng.choice(available, wanted[split], replace=False))
        where = np.searchsorted(ends, drawn, side="right")
        chosen[split] = {
            int(part[i]): drawn[where == i] - (ends[i - 1] if i else 0) for i in np.unique(where)
        }
    return chosen


def sample(sources, length, wanted, block=10_000, seed=0):
    """{data set and split, as in "train" or "ood_val": (bases uint8 (n, length), labels,
    class names, lineages, origins)}, origins being (record title, start, strand) of each read.

    Args:
        sources: list of Source. wanted: {"train", "val", "test", "ood_val", "ood_test": reads per
            class}.

    Returns:
        beside it, {"unknown", "short", "repeated"}: windows with other bases, records shorter than
        a window, reads that were taken out because another one is the same.
    """
    rng = np.random.default_rng(seed)
    numbers, counts, unknown, short = survey(sources, block, length)
    if not len(counts):
        raise ValueError(f"No record is as long as --length={length}.")
    sizes = np.array([wanted[split] for split in ID_SPLITS], float)
    targets = {}  # block number -> (split, ranks)
    roles = {s.class_name: s.role for s in sources}
    for name, role in roles.items():
        splits = dict(zip(ID_SPLITS, sizes / sizes.sum(), strict=True))
        shares = splits if role == "id" else {role: 1.0}
        of_class = np.array([s.class_name == name for s in sources])
        own = np.flatnonzero(of_class[numbers])
        for split, blocks in deal(own, counts, name, shares, wanted, rng).items():
            targets |= {b: (split, ranks) for b, ranks in blocks.items()}
    names = {role: [n for n, r in roles.items() if r == role] for role in ROLES}
    found = {split: ([], [], []) for split in (*ID_SPLITS, *ROLES[1:])}
    block_number = -1
    for number, title, bases in _all_records(sources, "sampling"):
        source = sources[number]
        label = names[source.role].index(source.class_name)
        for start, stop in blocks_of(len(bases), block, length):
            block_number += 1
            if block_number not in targets:
                continue
            split, ranks = targets[block_number]
            starts = start + valid_starts(bases[start:stop], length)[ranks]
            for position in starts:
                strand = "+-"[rng.integers(2)]
                read = bases[position : position + length]
                read = sequence_files.reverse_complement(read) if strand == "-" else read
                found[split][0].append(read.copy())
                found[split][1].append(label)
                found[split][2].append((title, int(position), strand))
    lineages = {s.class_name: s.lineage for s in sources}
    result = {}
    for split, (rows, labels, origins) in found.items():
        if not rows:
            continue
        order = rng.permutation(len(rows))
        own = names["id" if split in ID_SPLITS else split]
        result[split] = (
            np.stack(rows)[order], np.array(labels, np.int32)[order], own,
            [lineages[name] for name in own], [origins[i] for i in order],
        )  # fmt: skip
    repeated = _drop_repeated(result)
    return result, {"unknown": unknown, "short": short, "repeated": repeated}


def _drop_repeated(result):
    """Takes out of every split what it or an earlier one has already, on either strand; returns how
    many reads that were.
    """
    known, dropped = set(), 0
    for split in (*ID_SPLITS, *ROLES[1:]):
        if split not in result:
            continue
        bases, labels, names, lineages, origins = result[split]
        kept = []
        for row, read in enumerate(reads.canonical(bases)):
            if (mark := read.tobytes()) not in known:
                known.add(mark)
                kept.append(row)
        dropped += len(bases) - len(kept)
        origins = [origins[row] for row in kept]
        result[split] = bases[kept], labels[kept], names, lineages, origins
    return dropped


def _all_records(sources, title):
    """Yields (source number, title, bases) of all records, with a progress bar."""
    with progress(desc=title, unit="record") as bar:
        for number, source in enumerate(sources):
            for name, bases in sequence_files.records(source.path):
                yield number, name, bases
                bar.update()


def main(_):
    if bool(FLAGS.table) == bool(FLAGS.files):
        raise ValueError("Give either --files or --table.")
    if FLAGS.table:
        sources = read_table(FLAGS.table)
    else:
        sources = file_sources(FLAGS.files)
    if not any(source.role == "id" for source in sources):
        raise ValueError("No source has the role id.")
    if FLAGS.block < FLAGS.length:
        raise ValueError(f"--block must be at least --length. Received: {FLAGS.block}.")
    counts = [int(text) if text.isdigit() else 0 for text in FLAGS.reads]
    if len(counts) != 3 or min(counts) < 1:
        raise ValueError(f"--reads must be three positive numbers. Received: {FLAGS.reads}.")
    wanted = dict(zip(ID_SPLITS, counts, strict=True))
    wanted |= {"ood_val": FLAGS.ood_reads, "ood_test": FLAGS.ood_reads}
    folder = pathlib.Path(FLAGS.data_dir or reads.GENOMICS_DATA)
    splits = ("val", "test", "ood_val", "ood_test", "train")  # train last: then the set is whole
    paths = {split: folder / f"{FLAGS.name}_{split}.npz" for split in splits}
    there = [path for path in paths.values() if path.exists()]
    if there and not FLAGS.overwrite:
        raise ValueError(f"{there[0]} is there already. Another --name, or --overwrite.")
    found, skipped = sample(sources, FLAGS.length, wanted, FLAGS.block, FLAGS.seed)
    for path in there:  # a mixture of two samplings would share positions
        path.unlink()
    for split, path in paths.items():
        if split not in found:
            continue
        bases, labels, names, lineages, origins = found[split]
        places = [
            f"{title.split(' ')[0]}:{start + 1}-{start + FLAGS.length}({strand})"
            for title, start, strand in origins
        ]
        reads.write_file(path, bases, labels, names, lineages, places)
        logging.info("%s: %d reads of %d classes.", path, len(bases), len(names))
    logging.info(
        "%d windows with other bases than A C G T and %d records shorter than %d bases were "
        "skipped, and %d reads that another one repeats.", skipped["unknown"], skipped["short"],
        FLAGS.length, skipped["repeated"],
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_list("files", [], "FASTA or FASTQ files (gzip or not), each a class.")
    flags.DEFINE_string("table", None, "Table of files, classes and roles.")
    define_name("bacteria", "Of the data set.")
    flags.DEFINE_string("data_dir", None, "Folder to write to; default: genomics_data.")
    flags.DEFINE_integer("length", 250, "Bases of a read.", lower_bound=1)
    flags.DEFINE_list("reads", ["10000", "1000", "1000"], "Per class: train, val, test.")
    flags.DEFINE_integer("ood_reads", 1000, "Per OOD class.", lower_bound=1)
    flags.DEFINE_integer("block", 10_000, "Bases that stay together in one split.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Replace a set of that name.")
    flags.DEFINE_integer("seed", 0, "Of blocks, positions and strands.")
    run_app(main)
