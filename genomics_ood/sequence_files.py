"""Streams sequences out of files: FASTA and FASTQ, plain or gzip, also from standard input; the
TFRecords of the genomics_ood reference; TFDS.

Bases are uint8: A 0, C 1, G 2, T (or U) 3, in either case, and UNKNOWN for the other codes of the
IUPAC alphabet and gaps. One record is in memory at a time.
"""

import contextlib
import gzip
import io
import pathlib
import sys
import zlib

import numpy as np

from ood_suite.optional import optional

BASES = "ACGT"
UNKNOWN = 255
RECORDS_AT_ONCE = 1000
MOST_BASES = 2**28  # of one record; the longest human chromosome has 249 million
AMBIGUOUS = "NXRYSWKMBDHV.-"  # IUPAC codes of several bases, masks, and gaps
INVALID = 254  # in CODES, of a character that stands for no nucleotide

CODES = np.full(256, INVALID, np.uint8)
for _codes, _value in [*zip(("Aa", "Cc", "Gg", "TtUu"), range(4), strict=True)] + [
    (AMBIGUOUS + AMBIGUOUS.lower(), UNKNOWN)
]:
    CODES[np.frombuffer(_codes.encode(), np.uint8)] = _value


def encode(sequence, where="the sequence"):
    """uint8 (length,) of a string of bases.

    Raises:
        ValueError: a character that stands for no nucleotide.

    >>> encode("ACgtN")
    array([  0,   1,   2,   3, 255], dtype=uint8)
    """
    codes = np.frombuffer(sequence.encode("latin-1", "replace"), np.uint8)
    found = CODES[codes]
    if (found == INVALID).any():
        position = int(np.argmax(found == INVALID))
        raise ValueError(
            f"{where} must be nucleotides (IUPAC codes). Received: {chr(codes[position])!r} at "
            f"base {position + 1}."
        )
    return found


def decode(bases):
    """The string of uint8 bases (length,), N for UNKNOWN.

    >>> decode(np.array([0, 1, 2, 3, 255], np.uint8))
    'ACGTN'
    """
    return "".join((BASES + "N")[min(int(base), 4)] for base in bases)


def reverse_complement(bases):
    """The other strand, in its reading direction; bases 0..3 along the last axis.

    >>> decode(reverse_complement(np.array([0, 0, 1], np.uint8)))
    'GTT'
    """
    return 3 - bases[..., ::-1]


def records(path):
    """Yields (title, bases) of every record of a FASTA or FASTQ file.

    Args:
        path: a file, gzip or not, or "-" for standard input.

    Raises:
        ValueError: a file that is empty, truncated, or neither; a character that is no nucleotide.
        FileNotFoundError: no such file.
    """
    with opened(path) as handle, contextlib.closing(texts(handle)) as found:
        for title, sequence, _ in found:
            yield title, encode(sequence, f"record {title.split(' ')[0]!r}")


def texts(handle):
    """Yields (title, sequence, qualities, None in FASTA) of every record behind a binary handle
    that can be peeked into; ValueError for what is neither format.
    """
    fasta, fastq = optional("Bio.SeqIO.FastaIO"), optional("Bio.SeqIO.QualityIO")
    first, lines = first_character(handle), io.TextIOWrapper(handle, encoding="latin-1")
    parser = fasta.SimpleFastaParser if first == ">" else fastq.FastqGeneralIterator
    try:
        for title, sequence, *qualities in parser(_Lines(lines, first)):
            yield title, sequence, qualities[0] if qualities else None
    finally:
        lines.detach()  # the handle is the caller's to close


@contextlib.contextmanager
def opened(path):
    """A binary handle that can be peeked into, of what a file or standard input ("-") holds, gzip
    (BGZF too) or not; within the block, errors of reading name the file.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        with contextlib.ExitStack() as stack:
            standard = str(path) == "-"
            raw = sys.stdin.buffer if standard else stack.enter_context(open(path, "rb"))
            raw = raw if hasattr(raw, "peek") else io.BufferedReader(raw)
            if raw.peek(2)[:2] == b"\x1f\x8b":
                raw = stack.enter_context(gzip.GzipFile(fileobj=raw))
            yield raw
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder: give files.") from error
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise ValueError(f"{name} cannot be read: {str(error)[:500].rstrip('.')}.") from error


def first_character(handle):
    """The character that records begin with, behind white space: > of FASTA, @ of FASTQ; ValueError
    for any other.
    """
    while (peeked := handle.peek(1)[:1]).isspace():
        handle.read(1)
    if peeked not in (b">", b"@"):
        got = f"{peeked.decode('latin-1')!r} at its beginning" if peeked else "an empty file"
        raise ValueError(f"it must begin with '>' (FASTA) or '@' (FASTQ), and has {got}")
    return peeked.decode()


class _Lines:
    """The lines of a handle, none of whose records is longer than MOST_BASES: a few megabytes of
    gzip may hold gigabytes of one record, which the parsers would gather in memory.

    Args:
        first: character that a record begins with.
    """

    def __init__(self, handle, first):
        self.handle, self.first, self.size = handle, first, 0

    def __iter__(self):
        return self

    def __next__(self):
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def read(self, size):
        """As of the handle; a parser asks for nothing, to see whether text comes."""
        return self.handle.read(size)

    def readline(self):
        line = self.handle.readline(MOST_BASES + 1)
        self.size = len(line) if line.startswith((self.first, "+")) else self.size + len(line)
        if self.size > MOST_BASES:
            raise ValueError(
                f"a record is longer than {MOST_BASES} characters: cut it into pieces first"
            )
        return line


def tfrecord_reads(path):
    """Yields (bases, label, origin) of a TFRecord file of the reference: `x`, bases as digits with
    spaces between them; `y`, the label; `z`, the origin, which may be absent.

    Raises:
        ValueError: a damaged or foreign file.
    """
    tf = optional("tensorflow")
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"There is no file {path}.")
    layout = {
        "x": tf.io.FixedLenFeature([], tf.string),
        "y": tf.io.FixedLenFeature([], tf.int64),
        "z": tf.io.FixedLenFeature([], tf.string, ""),
    }
    _check_lengths(pathlib.Path(path))
    try:
        for batch in tf.data.TFRecordDataset(str(path)).batch(RECORDS_AT_ONCE):
            parsed = tf.io.parse_example(batch, layout)
            columns = (parsed[name].numpy() for name in ("x", "y", "z"))
            for text, label, origin in zip(*columns, strict=True):
                digits = np.frombuffer(text.replace(b" ", b""), np.uint8) - ord("0")
                if not len(digits) or digits.max() > 3:
                    raise ValueError("`x` must be digits 0 to 3 with spaces between them")
                yield digits, int(label), origin.decode("utf-8", "replace")
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as reads: {str(error)[:200]}.") from error


def _check_lengths(path):
    """ValueError if a record of a TFRecord file reaches beyond its end: TensorFlow takes a length
    of 2**60 for granted, and dies of it.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError(f"{path} cannot be read as reads: it is no regular file.")
    with open(path, "rb") as file:
        while (here := file.tell()) < size:  # length, its checksum, content, its checksum
            end = here + 16 + int.from_bytes(file.read(8), "little")
            if end > size:
                raise ValueError(
                    f"{path} cannot be read as reads: the record at byte {here} ends at byte {end} "
                    f"of {size}. It is damaged or truncated."
                )
            file.seek(end)


def tfds_reads(split, tfds_dir=None):
    """(iterator of (bases, label, origin), names of all labels) of a split of TFDS's set."""
    tfds = optional("tensorflow_datasets")
    dataset, info = tfds.load(
        "genomics_ood", split=split, data_dir=tfds_dir, shuffle_files=False, with_info=True
    )
    reads = (
        (
            encode(example["seq"].decode(), f"a read of {split}"),
            int(example["label"]),
            example["seq_info"].decode(),
        )
        for example in tfds.as_numpy(dataset)
    )
    return reads, info.features["label"].names
