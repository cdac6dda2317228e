"""Draws reads from genomes in splits that share no region: `sample`.

Every record is cut into blocks; those of an in-distribution class are dealt out to the splits at
random, and a read lies within one block. A class draws from a generator of its own, seeded by the
seed, its role and its name: what other classes there are changes none of its reads.
"""

import array
import hashlib

import numpy as np

from genomics_ood import genome_table, reads, sequence_files
from genomics_ood.genome_table import ROLES
from ood_suite.progress import progress

ID_SPLITS = ("train", "val", "test")
SPLITS = (*ID_SPLITS, *ROLES[1:])


def generator(seed, *names):
    """numpy Generator for a seed and some names, independent of that for others."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()[:16]
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


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
    in which the files give them; {"unknown", "short", "copies"}, see `sample`).

    Raises:
        ValueError: two sources hold the same sequence (of a block's length at least).
    """
    numbers, counts, known = array.array("i"), array.array("q"), {}
    skipped = dict.fromkeys(("unknown", "short", "copies"), 0)
    records = dict.fromkeys(sources, 0)
    for number, title, bases in _all_records(sources, "counting"):
        records[sources[number]] += 1
        is_copy = False
        if len(bases) >= block:
            mark = hashlib.blake2b(bases.tobytes(), digest_size=16).digest()
            is_copy = mark in known
            other = known.setdefault(mark, number)
            if other != number:
                raise ValueError(
                    f"{sources[number].path} and {sources[other].path} hold the same sequence "
                    f"({genome_table.first_word(title)}): its reads would be in two sets."
                )
        parts = blocks_of(len(bases), block, window)
        skipped["short"] += not parts
        skipped["copies"] += is_copy
        for start, stop in parts:
            count = len(valid_starts(bases[start:stop], window))
            skipped["unknown"] += stop - start - window + 1 - count
            numbers.append(number)
            counts.append(0 if is_copy else count)  # else one place would be in two splits
    genome_table.say_what_is_one_class(records)
    return np.array(numbers, np.int32), np.array(counts, np.int64), skipped


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
        beside it, {"unknown", "short", "copies", "repeated"}: windows with other bases, records
        shorter than a window, records of a block's length at least that are another one of their
        file again, reads that were taken out because another one is the same.
    """
    numbers, counts, skipped = survey(sources, block, length)
    if not len(counts):
        raise ValueError(f"No record is as long as --length={length}.")
    roles = {s.class_name: s.role for s in sources}
    rngs = {name: generator(seed, role, name) for name, role in roles.items()}
    targets = _targets(sources, numbers, counts, wanted, rngs)
    names = {role: [n for n, r in roles.items() if r == role] for role in ROLES}
    drawn = _drawn(sources, length, block, targets, names, rngs)
    lineages = {s.class_name: s.lineage for s in sources}
    result = {}
    for split, (rows, labels, origins) in drawn.items():
        if not rows:
            continue
        # Of a generator of the split alone, so that OOD classes do not change the order of the ID.
        order = generator(seed, split).permutation(len(rows))
        own = names["id" if split in ID_SPLITS else split]
        result[split] = (
            np.stack(rows)[order], np.array(labels, np.int32)[order], own,
            [lineages[name] for name in own], [origins[i] for i in order],
        )  # fmt: skip
    return result, skipped | {"repeated": _drop_repeated(result)}


def _targets(sources, numbers, counts, wanted, rngs):
    """{block number: (split, ranks of the reads' starts among its valid ones)}."""
    sizes = np.array([wanted[split] for split in ID_SPLITS], float)
    splits, targets = dict(zip(ID_SPLITS, sizes / sizes.sum(), strict=True)), {}
    roles = {s.class_name: s.role for s in sources}
    for name, role in roles.items():
        shares = splits if role == "id" else {role: 1.0}
        of_class = np.array([s.class_name == name for s in sources])
        own = np.flatnonzero(of_class[numbers])
        for split, blocks in deal(own, counts, name, shares, wanted, rngs[name]).items():
            targets |= {b: (split, ranks) for b, ranks in blocks.items()}
    return targets


def _drawn(sources, length, block, targets, names, rngs):
    """{split: (reads, labels, origins)}, lists in the order of the files."""
    found = {split: ([], [], []) for split in SPLITS}
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
                strand = "+-"[rngs[source.class_name].integers(2)]
                read = bases[position : position + length]
                read = sequence_files.reverse_complement(read) if strand == "-" else read
                found[split][0].append(read.copy())
                found[split][1].append(label)
                found[split][2].append((title, int(position), strand))
    return found


def _drop_repeated(result):
    """Takes out of every split what it or an earlier one has already, on either strand; returns how
    many reads that were.
    """
    known, dropped = set(), 0
    for split in SPLITS:
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
    """Yields (source number, title, bases) of all records, with a progress bar.

    A file whose records are classes is read once, so their sources must stand together.
    """
    with progress(desc=title, unit="record") as bar:
        number = 0
        while number < len(sources):
            source, first = sources[number], number
            while number < len(sources) and sources[number].path == source.path:
                number += 1
            of_record = {s.record: first + i for i, s in enumerate(sources[first:number])}
            for name, bases in sequence_files.records(source.path):
                word = genome_table.first_word(name) if source.record else ""
                if word in of_record:
                    yield of_record[word], name, bases
                    bar.update()
