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
HELD = 2**28  # bytes of text that wait together: one chromosome
AT_ONCE = 2**14  # windows that are made of a batch at a time: a chromosome has a million
STEPS = 64  # of a window's size, at most, that have a threshold of their own where reads are cut
NOT_SCORED = "0\tNA\tNA\tNA\tNA\tNA"


@dataclasses.dataclass
class Rows:
    """What is said of some reads, or pairs of reads; arrays of one length.

    Attributes:
        names: list of text. lengths: bases. known: bases that are scored, 0 for none.
        gc: share of G and C among these. windows: number of windows that were scored.
        sizes: bases of a window, of those whose threshold is taken.
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
    sizes: np.ndarray
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
    """(owners, starts, sizes) of windows of at most `length` bases: as few as will do, alike in
    size, that cover each read once.

    >>> [part.tolist() for part in windows_of(np.array([10]), np.array([7]), 3)]
    [[0, 0, 0], [10, 12, 14], [2, 2, 3]]
    """
    counts = -(-sizes // length)
    owners = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    first, last = ((number + side) * sizes[owners] // counts[owners] for side in (0, 1))
    return owners, starts[owners] + first, last - first


def matrix(bases, starts, sizes, length):
    """uint8 (n, length): windows as rows, zeros behind those that are shorter."""
    where = starts[:, None] + np.arange(length)
    found = bases.take(where, mode="clip")
    found[np.arange(length) >= sizes[:, None]] = 0
    return found


def _scored(screen, bases, starts, sizes):
    """([float64 (windows, classes)] of each scorer, int (windows,) G and C), AT_ONCE at a time."""
    sums, gc = [], []
    for first in range(0, max(1, len(starts)), AT_ONCE):
        own = sizes[first : first + AT_ONCE]
        rows = matrix(bases, starts[first : first + AT_ONCE], own, screen.length)
        sums.append(screen.sums(rows, own))
        gc.append(((rows == 1) | (rows == 2)).sum(axis=1))
    return [np.concatenate(parts) for parts in zip(*sums, strict=True)], np.concatenate(gc)


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
    owners, sums, gc = [], [], []
    for bases, starts, sizes in parts:
        owner, *places = windows_of(starts, sizes, screen.length)
        values, letters = _scored(screen, bases, *places)
        owners.append(owner)
        sums.append(values)
        gc.append(letters)
    owner = np.concatenate(owners)
    summed = [_by_owner(np.concatenate(values), owner, count) for values in zip(*sums, strict=True)]
    windows = np.bincount(owner, minlength=count)
    known = sum(sizes for *_, sizes in parts)
    scored, labels = windows > 0, summed[0].argmax(axis=1)
    scores = score_of(summed) / np.maximum(known, 1)
    sizes = mean_sizes(known, windows, np.where(cut, screen.length, 0))
    thresholds = _thresholds(screen, sizes, windows, labels, scored)
    names = files[0].names
    return Rows(
        names=[mate_name(name) for name in names] if len(files) > 1 else names,
        lengths=sum(np.diff(batch.starts) for batch in files),
        known=known,
        gc=np.bincount(owner, np.concatenate(gc), count) / np.maximum(known, 1),
        windows=windows,
        sizes=sizes,
        trimmed=trimmed,
        cut=cut,
        alone=alone & scored,
        scores=scores,
        thresholds=thresholds,
        is_ood=scored & conformal.beyond(scores, thresholds),
        labels=labels,
        files=list(files),
    )


def mean_sizes(known, windows, length):
    """int (n,): bases of a window on average, 0 where there is none; for reads that are cut, one of
    STEPS sizes up to `length`, since every size has a threshold to be computed.

    >>> mean_sizes(np.array([0, 203, 280, 251]), np.array([0, 1, 2, 2]), np.array([0, 0, 0, 250]))
    array([  0, 203, 140, 124])
    """
    step = np.maximum(length // STEPS, 1)
    return length + (step * np.round((known / np.maximum(windows, 1) - length) / step)).astype(int)


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

    waiting, stopped = collections.deque(), None  # (bytes, future Rows)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        while True:
            try:
                files = next(found)
                size = sum(len(batch.raw) for batch in files)
                waiting.append((size, pool.submit(rows_of, files)))
            except StopIteration:
                break
            except ValueError as error:
                stopped = error
                break
            while len(waiting) > WAITING * workers or sum(size for size, _ in waiting) > HELD:
                yield waiting.popleft()[1].result()
        while waiting:
            yield waiting.popleft()[1].result()
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
