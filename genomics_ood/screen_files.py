"""Where a screening writes to: tables, and the reads that it accepts or calls OOD."""

import contextlib
import gzip
import pathlib
import sys

import numpy as np

from ood_suite.files import atomic_path

COMPRESSION = 4  # gzip's level: beyond it twice the time for a few percent


@contextlib.contextmanager
def writer(path):
    """A binary file that is there only when complete, gzip if it is called so; "-" is standard
    output.
    """
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    with atomic_path(path) as temporary, open(temporary, "wb") as plain:
        if not path.endswith(".gz"):
            yield plain
            return
        with gzip.GzipFile("", "wb", COMPRESSION, plain, mtime=0) as file:
            yield file


def paths_of(pattern, count):
    """The paths of a flag: with paired files those of both mates, # standing for their number.

    >>> paths_of("known#.fq", 2)
    ['known_1.fq', 'known_2.fq']
    """
    if count == 1:
        return [pattern]
    if "#" not in pattern:
        raise ValueError(
            "With --paired a # in the name of the file stands for the number of the mate, as in "
            f"known#.fq. Received: {pattern}."
        )
    return [pattern.replace("#", f"_{mate + 1}") for mate in range(count)]


def check_apart(written, read):
    """Refuses a file that two flags write, or that is read too.

    Args:
        written: {flag: paths}. read: paths of reads. "-" is standard output, or input.

    >>> check_apart({"out": ["-"], "kreport": ["k.txt"]}, ["-"])
    """
    owners = {pathlib.Path(path).resolve(): "read" for path in read if path != "-"}
    for flag, paths in written.items():
        for path in paths:
            key = path if path == "-" else pathlib.Path(path).resolve()
            if key in owners:
                what = "standard output" if path == "-" else path
                raise ValueError(
                    f"--{flag} must have a place of its own. Received: {what}, which is "
                    f"{owners[key]} as well."
                )
            owners[key] = f"written by --{flag}"


class ReadWriter:
    """Writes the records of reads that are, or are not, called OOD.

    Args:
        files: binary handles, one for each file of reads. is_ood: which are written.
    """

    def __init__(self, files, is_ood):
        self.files, self.is_ood = files, is_ood

    def add(self, rows):
        """Writes those of screening.Rows; what was not scored is with the OOD reads."""
        chosen = np.flatnonzero((rows.is_ood | (rows.windows == 0)) == self.is_ood)
        for file, batch in zip(self.files, rows.files, strict=True):
            spans = zip(batch.marks[chosen].tolist(), batch.marks[chosen + 1].tolist(), strict=True)
            file.write(b"".join([batch.raw[start:stop] for start, stop in spans]))
