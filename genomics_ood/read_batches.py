"""Reads of FASTA and FASTQ files by the thousand: `batches`, `paired`, `ahead`.

What sequence_files.records does record by record is done here for megabytes of text at once, by
NumPy. Text that is not as sequencers write it (records over several lines in FASTQ, carriage
returns, a character that is no nucleotide) goes through that parser from there on, so that both
read and refuse the same.
"""

import contextlib
import dataclasses
import io
import pathlib
import queue
import re
import threading
import zlib

import numpy as np

from genomics_ood import reads, sequence_files
from genomics_ood.sequence_files import CODES, INVALID

CHUNK = 2**22  # bytes of text that are parsed at once: 7500 FASTQ records of 250 bases
LONGEST = 2**25  # bytes of one FASTA record that are kept to parse it with others
AHEAD = 2  # batches that wait to be scored
DAMAGE = EOFError, OSError, zlib.error, ValueError  # of what is read, or is no record
NEWLINE, HEAD, AT, PLUS = b"\n>@+"
_WHITE = np.array([chr(code).isspace() for code in range(256)])


@dataclasses.dataclass
class Batch:
    """Some records of a file.

    Attributes:
        names: list of text, the first word of each title.
        bases: uint8 (total,), 0..3 or UNKNOWN, of one record after the other.
        starts: int64 (records + 1,), where in `bases` each begins, and the end.
        raw: bytes, the records as text. marks: int64 (records + 1,), where each begins there.
    """

    names: list
    bases: np.ndarray
    starts: np.ndarray
    raw: bytes
    marks: np.ndarray

    def __len__(self):
        return len(self.names)

    def part(self, first, last):
        """The records first .. last - 1 as a Batch."""
        starts, marks = self.starts[first : last + 1], self.marks[first : last + 1]
        return Batch(
            self.names[first:last], self.bases[starts[0] : starts[-1]], starts - starts[0],
            self.raw[marks[0] : marks[-1]], marks - marks[0],
        )  # fmt: skip


def batches(path):
    """Yields Batch after Batch of a file, gzip or not, of standard input ("-"), or of a data set's
    npz file, whose reads are called by their numbers.

    Raises:
        ValueError, FileNotFoundError: as sequence_files.records; what comes before is yielded.
    """
    if str(path).endswith(".npz"):
        yield from _of_arrays(path)
        return
    with sequence_files.opened(path) as handle:
        parse = _fasta if sequence_files.first_character(handle) == ">" else _fastq
        rest = b""
        while True:
            chunk, damage = _chunk(handle)
            last = not chunk and not damage
            data = (rest + chunk).lstrip()  # blank lines behind a record
            if last and data and data[-1] != NEWLINE:
                data += b"\n"
            parsed = parse(data, last)
            batch, rest = parsed or (None, data)
            if batch:
                yield batch
            if damage or not parsed:
                yield from _one_by_one(io.BufferedReader(_Joined(rest, handle, damage)))
                return
            if last:
                return


def _chunk(handle):
    """(CHUNK bytes, or fewer at the end, the error that stands behind them or None)."""
    parts, left = [], CHUNK
    try:
        while left and (part := handle.read1(left)):
            parts.append(part)
            left -= len(part)
    except DAMAGE as error:
        return b"".join(parts), error
    return b"".join(parts), None


def _fastq(data, last):
    """(Batch of the whole records of four lines each, the rest); None if there are others."""
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == NEWLINE)
    # Of a record that others may follow nobody knows yet whether it goes on.
    ends = ends[: (len(ends) // 4 if last else max(0, len(ends) // 4 - 1)) * 4]
    stop = int(ends[-1]) + 1 if len(ends) else 0
    if data[stop:].strip() and (last or text[stop] != AT):
        return None  # a record that is cut, or goes on
    lines = np.concatenate([[0], ends[:-1] + 1])[: len(ends)].reshape(-1, 4)
    ends = ends.reshape(-1, 4)
    sizes = ends - lines
    if (
        (text[lines[:, 0]] != AT).any()
        or (text[lines[:, 2]] != PLUS).any()
        or (sizes[:, 1] != sizes[:, 3]).any()
        or (_WHITE[text[ends[:, 3] - 1]] & (sizes[:, 3] > 0)).any()
        or not _titles_agree(text, lines, sizes)
        or len(data) - stop > LONGEST
        or b"\r" in data
    ):
        return None
    starts, letters = _gathered(text, lines[:, 1], sizes[:, 1])
    bases = CODES[letters]
    if (bases == INVALID).any():
        return None
    names = _names(data, lines[:, 0], sizes[:, 0])
    marks = np.append(lines[:, 0], stop)
    return Batch(names, bases, starts, data[:stop], marks), data[stop:]


def _gathered(text, begins, sizes):
    """(where each part begins in the second array, the parts of `text` behind one another)."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return starts, text[np.arange(starts[-1]) + np.repeat(begins - starts[:-1], sizes)]


def _titles_agree(text, lines, sizes):
    """Whether what stands behind each +, if anything, is the title again."""
    again = sizes[:, 2] > 1
    if not again.any():
        return True
    first, second = (
        _gathered(text, lines[again, line] + 1, sizes[again, line] - 1) for line in (0, 2)
    )
    return all(np.array_equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


def _fasta(data, last):
    """(Batch of the whole records, the rest); None for text that needs more care, or a record of
    LONGEST bytes and more, such as a chromosome.
    """
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == NEWLINE)
    lines = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    is_head = text[lines] == HEAD
    heads, head_ends = lines[is_head], ends[is_head]
    if not last and len(heads):  # the last record may go on
        heads, stop = heads[:-1], int(heads[-1])
        head_ends = head_ends[:-1]
    else:
        stop = len(data) if last else 0
    if len(data) - stop > LONGEST or b"\r" in data:
        return None
    if not len(heads):
        empty = np.zeros(1, np.int64)
        return Batch([], np.zeros(0, np.uint8), empty, b"", empty), data[stop:]
    text = text[:stop]
    edges = np.zeros(stop + 1, np.int8)
    edges[heads] += 1
    edges[head_ends] -= 1
    counted = (np.cumsum(edges[:-1], dtype=np.int8) == 0) & (text != NEWLINE)
    bases = CODES[text[counted]]
    if (bases == INVALID).any():
        return None
    sizes = np.add.reduceat(counted, heads, dtype=np.int64)
    starts, marks = np.concatenate([[0], np.cumsum(sizes)]), np.append(heads, stop)
    return Batch(_names(data, heads, head_ends - heads), bases, starts, data[:stop], marks), data[
        stop:
    ]


def _of_arrays(path):
    """Batches of an npz file, as FASTA."""
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"There is no file {path}.")
    bases, letters = reads.read_file(path)["bases"], np.frombuffer(b"ACGT\n", np.uint8)
    count = max(1, CHUNK // (bases.shape[1] + 10))
    for first in range(0, len(bases), count):
        part = letters[np.pad(bases[first : first + count], ((0, 0), (0, 1)), constant_values=4)]
        rows = enumerate(part, first)
        yield _fasta(b"".join([b">%d\n" % i + row.tobytes() for i, row in rows]), last=True)[0]


def _names(data, begins, sizes):
    """The first word of each title; a title stands behind one character."""
    text = data.decode("latin-1")
    titles = [text[a + 1 : a + n] for a, n in zip(begins.tolist(), sizes.tolist(), strict=True)]
    return [(title.split(None, 1) or ["unnamed"])[0] for title in titles]


def _one_by_one(handle):
    """Batches of the records behind a handle, by the careful parser."""
    kept, size, stopped = [], 0, None
    with contextlib.closing(sequence_files.texts(handle)) as records:
        while True:
            try:
                title, sequence, qualities = next(records)
                where = f"record {title.split(' ')[0]!r}"
                kept.append((title, sequence, qualities, sequence_files.encode(sequence, where)))
            except StopIteration:
                break
            except DAMAGE as error:  # what comes before it is scored first
                stopped = error
                break
            size += len(title) + len(sequence) + len(qualities or "")
            if size > CHUNK:
                yield _batch_of(kept)
                kept, size = [], 0
    if kept:
        yield _batch_of(kept)
    if stopped:
        raise stopped


def _batch_of(kept):
    raws = [
        f">{title}\n{sequence}\n"
        if qualities is None
        else f"@{title}\n{sequence}\n+\n{qualities}\n"
        for title, sequence, qualities, _ in kept
    ]
    sizes, lengths = [len(bases) for *_, bases in kept], [len(raw) for raw in raws]
    return Batch(
        names=[(title.split(None, 1) or ["unnamed"])[0] for title, *_ in kept],
        bases=np.concatenate([bases for *_, bases in kept]),
        starts=np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
        raw="".join(raws).encode("latin-1", "replace"),
        marks=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
    )


class _Joined(io.RawIOBase):
    """Bytes, and behind them an error, if there is one, or what a handle still has."""

    def __init__(self, begun, handle, damage=None):
        self.begun, self.handle, self.damage = io.BytesIO(begun), handle, damage

    def readable(self):
        return True

    def readinto(self, buffer):
        taken = self.begun.read(len(buffer))
        if self.damage and not taken:
            raise self.damage
        taken = taken or self.handle.read1(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)


def paired(first, second):
    """Yields pairs of Batches of equal length, of two files' mates.

    Args:
        first, second: iterators of Batch.

    Raises:
        ValueError: names that do not agree (but for /1 and /2 behind them), or one file has more.
    """
    ours, theirs, number = None, None, 0
    while True:
        ours = ours if ours and len(ours) else next(first, None)
        theirs = theirs if theirs and len(theirs) else next(second, None)
        if ours is None or theirs is None:
            break
        count = min(len(ours), len(theirs))
        pair = ours.part(0, count), theirs.part(0, count)
        _check_mates(*pair, number)
        yield pair
        ours, theirs = ours.part(count, len(ours)), theirs.part(count, len(theirs))
        number += count
    if ours or theirs:
        raise ValueError(
            f"The {'first' if ours else 'second'} of the paired files has more reads than the "
            f"other, which ends after {number}."
        )


def _check_mates(ours, theirs, number):
    if ours.names == theirs.names:
        return
    for a, b in zip(ours.names, theirs.names, strict=True):
        number += 1
        if mate_name(a) != mate_name(b):
            raise ValueError(
                f"Paired files must hold mates in the same order. Received: {a!r} and {b!r} as "
                f"reads {number}."
            )


def mate_name(name):
    """A read's name without the number of the mate.

    >>> mate_name("read7/1")
    'read7'
    """
    return re.sub(r"/[12]$", "", name)


def ahead(iterator):
    """The iterator, run in a thread, AHEAD items early: to read and decompress while others
    compute. An error comes where it came.
    """
    waiting: queue.Queue = queue.Queue(AHEAD)

    def run():
        try:
            for item in iterator:
                waiting.put((item, None))
            waiting.put((None, None))
        except Exception as error:  # handed over, not swallowed
            waiting.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        item, error = waiting.get()
        if error:
            raise error
        if item is None:
            return
        yield item
