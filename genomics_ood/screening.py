"""Decisions on reads, a batch at a time: `judge`, `decisions`, `text_of`."""

import collections
import concurrent.futures
import dataclasses

import numpy as np

from genomics_ood.read_batches import mate_name
from genomics_ood.screen_model import score_of
from ood_suite import conformal

COLUMNS = (
    "read", "length", "scored_bases", "gc_content", "score", "threshold", "is_ood", "class",
)  # fmt: skip
SECOND = ("second_score", "second_threshold", "second_is_ood")
WAITING = 2  # batches a thread that are scored before their rows are wanted
NOT_SCORED = "0\tNA\tNA\tNA\tNA\tNA"


@dataclasses.dataclass
class Rows:
    """What is said of some reads, or pairs of reads; arrays of one length.

    Attributes:
        names: list of text. lengths: bases. known: bases that are scored, 0 for none.
        gc: share of G and C among these. windows: number of windows that were scored.
        trimmed: bool, unknown bases were left out. cut: bool, a read is several windows. alone:
            bool, one read of the pair was not scored.
        scores, thresholds: nats per base. is_ood: bool. labels: predicted classes.
        second: Rows of a second opinion, or None.
        files: the Batches that the reads are of.
    """

    names: list
    lengths: np.ndarray
    known: np.ndarray
    gc: np.ndarray
    windows: np.ndarray
    trimmed: np.ndarray
    cut: np.ndarray
    alone: np.ndarray
    scores: np.ndarray
    thresholds: np.ndarray
    is_ood: np.ndarray
    labels: np.ndarray
    files: list
    second: "Rows | None" = None

    def __len__(self):
        return len(self.names)


def longest_known(bases):
    """(start, stop) of the longest part without unknown bases, the first of several.

    >>> longest_known(np.array([0, 255, 1, 2, 255], np.uint8))
    (2, 4)
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[True], bases > 3, [True]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    best = int(np.argmax(stops - starts))
    return int(starts[best]), int(stops[best])


def known_parts(batch):
    """(starts, sizes) in `batch.bases` of the longest known part of each record."""
    starts, sizes = batch.starts[:-1].copy(), np.diff(batch.starts)
    unknown = np.flatnonzero(batch.bases > 3)
    affected = np.unique(np.searchsorted(batch.starts, unknown, side="right") - 1)
    for row in affected:
        first, last = longest_known(batch.bases[batch.starts[row] : batch.starts[row + 1]])
        starts[row], sizes[row] = batch.starts[row] + first, last - first
    return starts, sizes


def windows_of(starts, sizes, length):
    """(owners, starts, sizes) of windows of at most `length` bases; the last one of a read ends
    where the read ends, if that overlaps another.

    >>> windows_of(np.array([10]), np.array([7]), 3)[1]
    array([10, 13, 14])
    """
    counts = -(-sizes // length)
    owners = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    own = np.minimum(sizes, length)[owners]
    return owners, starts[owners] + np.minimum(number * length, sizes[owners] - own), own


def matrix(bases, starts, sizes, length):
    """uint8 (n, length): windows as rows, zeros behind those that are shorter."""
    where = starts[:, None] + np.arange(length)
    found = bases.take(where, mode="clip")
    found[np.arange(length) >= sizes[:, None]] = 0
    return found


def judge(screen, files, min_length):
    """Rows of the reads of one Batch, or of the pairs of two.

    Args:
        screen: screen_model.Screen. files: [Batch], or the two of the mates.
        min_length: known bases that a read needs to be scored.
    """
    count, parts = len(files[0]), []
    trimmed, cut, alone = np.zeros((3, count), bool)
    for batch in files:
        starts, sizes = known_parts(batch)
        trimmed |= (min_length <= sizes) & (sizes < np.diff(batch.starts))
        sizes[sizes < min_length] = 0
        cut |= sizes > screen.length
        alone |= sizes == 0
        parts.append((batch.bases, starts, sizes))
    # The windows of all reads, those of a pair together.
    owners, sums, taken, gc = [], [], [], np.zeros(count)
    for bases, starts, sizes in parts:
        owner, where, own = windows_of(starts, sizes, screen.length)
        owners.append(owner)
        taken.append(own)
        sums.append(screen.sums(matrix(bases, where, own, screen.length), own))
        gc += _sums_between((bases == 1) | (bases == 2), starts, sizes)
    owner, own = np.concatenate(owners), np.concatenate(taken)
    summed = [_by_owner(np.concatenate(values), owner, count) for values in zip(*sums, strict=True)]
    windows, used = (_by_owner(v[:, None], owner, count)[:, 0] for v in (np.ones(len(own)), own))
    scored, labels = windows > 0, summed[0].argmax(axis=1)
    per_base = np.maximum(used, 1)  # overlapping windows count twice
    scores = score_of(summed) / per_base
    mean_size = np.round(used / np.maximum(windows, 1)).astype(int)
    thresholds = _thresholds(screen, mean_size, windows.astype(int), labels, scored)
    known = sum(sizes for *_, sizes in parts)
    names = files[0].names
    return Rows(
        names=[mate_name(name) for name in names] if len(files) > 1 else names,
        lengths=sum(np.diff(batch.starts) for batch in files),
        known=known,
        gc=gc / np.maximum(known, 1),
        windows=windows.astype(int),
        trimmed=trimmed,
        cut=cut,
        alone=alone & scored,
        scores=scores,
        thresholds=thresholds,
        is_ood=scored & conformal.beyond(scores, thresholds),
        labels=labels,
        files=list(files),
    )


def _thresholds(screen, size, windows, labels, scored):
    """float64 (n,), nats per base."""
    found = np.zeros(len(size))
    keys = np.stack([size, windows], axis=1)[scored]
    if len(keys):
        different, which = np.unique(keys, axis=0, return_inverse=True)
        table = np.stack([screen.threshold(*key) / np.prod(key) for key in different.tolist()])
        found[scored] = table[which.ravel(), labels[scored]]
    return found


def _by_owner(values, owner, count):
    """(count, columns): sums of the rows of each owner."""
    if len(owner) == count and (owner == np.arange(count)).all():
        return values
    columns = [np.bincount(owner, column, minlength=count) for column in values.T]
    return np.stack(columns, axis=1)


def _sums_between(flags, starts, sizes):
    """float64 (n,): how many flags are set in each part."""
    known = np.concatenate([[0], np.cumsum(flags)])
    return (known[starts + sizes] - known[starts]).astype(np.float64)


def decisions(screens, found, min_length, threads=1):
    """Yields Rows for each group of Batches, in order, scored by several threads.

    Args:
        screens: one Screen, or a second one for a second opinion.
        found: iterator of tuples of Batch: one, or the two of paired files. An error in it comes
            after the rows of what is before it.
    """
    workers = threads if all(screen.threads for screen in screens) else 1

    def rows_of(files):
        rows, *others = [judge(screen, files, min_length) for screen in screens]
        rows.second = others[0] if others else None
        return rows

    waiting, stopped = collections.deque(), None
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        while True:
            try:
                waiting.append(pool.submit(rows_of, next(found)))
            except StopIteration:
                break
            except ValueError as error:
                stopped = error
                break
            if len(waiting) > WAITING * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    if stopped:
        raise stopped


def text_of(rows, screen):
    """The rows as lines of tab-separated values in the order of COLUMNS, NA for the unknown."""
    classes = screen.names_of(range(screen.classes)) if screen.classes > 1 else ["NA"]
    classes = [name.replace("\t", " ") for name in classes]
    second = [""] * len(rows)
    if rows.second is not None:
        second = [
            f"\t{score:.6g}\t{threshold:.6g}\t{is_ood:d}" if windows else "\tNA\tNA\tNA"
            for windows, score, threshold, is_ood in _listed(
                rows.second, "windows", "scores", "thresholds", "is_ood"
            )
        ]
    columns = _listed(
        rows, "names", "lengths", "known", "gc", "scores", "thresholds", "is_ood", "labels"
    )
    return "".join([
        f"{name}\t{length}\t{known}\t{gc:.6g}\t{score:.6g}\t{threshold:.6g}\t{is_ood:d}\t"
        f"{classes[label]}{more}\n"
        if known
        else f"{name}\t{length}\t{NOT_SCORED}{more}\n"
        for (name, length, known, gc, score, threshold, is_ood, label), more in zip(
            columns, second, strict=True
        )
    ])  # fmt: skip


def _listed(rows, *names):
    values = (getattr(rows, name) for name in names)
    return zip(*(v if isinstance(v, list) else v.tolist() for v in values), strict=True)
