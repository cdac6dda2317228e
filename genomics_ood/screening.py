"""Screening of reads: which are like nothing that a density was trained on?"""

import contextlib
import dataclasses
import gzip
import sys

import numpy as np
from absl import logging

from genomics_ood import density  # noqa: F401 (the class of stored models)
from ood_suite import conformal
from ood_suite.evaluation import densities
from ood_suite.evaluation.groups import find_groups, is_background
from ood_suite.evaluation.read_figures import gc_content
from ood_suite.files import atomic_path
from ood_suite.training.stored_model import load_model

COLUMNS = ("read", "length", "scored_bases", "gc_content", "score", "threshold", "is_ood")
WINDOWS_AT_ONCE = 512
DRAWN_MEANS = 4000  # of validation reads, behind the threshold of longer reads


@dataclasses.dataclass
class Screen:
    """A density of reads, perhaps with a background, and its threshold for every length.

    Attributes:
        models: keras.Models, of the foreground and of the background if there is one.
        thresholds: float64 (length,), entry i for i + 1 bases, in nats.
        held_out: {class: float64 (n,)}, scores of whole validation reads, in nats.
        acceptance: share of in-distribution reads that a threshold accepts.
    """

    models: list
    thresholds: np.ndarray
    held_out: dict
    acceptance: float

    @classmethod
    def of(cls, folder, data_dir=None, acceptance=0.95):
        """The Screen of a run, or of a folder of runs; see groups.find_groups for errors."""
        group = find_groups(folder)[0]
        if group.foreground.kind != "density" or "length" not in group.foreground.settings:
            raise ValueError(f"{folder} is no density of reads.")
        if is_background(group.foreground):
            raise ValueError(f"{folder} is a background model: give the folder of the sweep.")
        material = densities.density(group, data_dir=data_dir)
        if material.notes:
            raise ValueError(
                f"The validation reads are not those that {group.foreground.folder} was trained "
                "with: give its --data_dir."
            )
        held_out, models = material.held_out, [load_model(group.foreground)]
        track = -held_out.log_prob_map.astype(np.float64)
        if material.chosen:
            models.append(load_model(material.chosen))
            track = track + held_out.background_log_prob_map
            how = "" if material.choice else " (the default: no validation OOD data chose)"
            logging.info("Log ratio to the background %s%s.", material.chosen.folder.name, how)
        else:
            logging.info("There is no background model: the score is the likelihood.")
        sums = np.cumsum(track, axis=1)
        thresholds = np.array([conformal.accepting(s, acceptance) for s in sums.T])
        labels = held_out.labels
        by_class = {int(label): sums[labels == label, -1] for label in np.unique(labels)}
        return cls(models, thresholds, by_class, acceptance)

    def threshold(self, size, windows):
        """Nats of the mean of so many windows of `size` bases."""
        if windows == 1:
            return self.thresholds[size - 1]
        if windows not in self._means:
            rng = np.random.default_rng(windows)
            share = DRAWN_MEANS / sum(map(len, self.held_out.values()))
            means = [
                rng.choice(own, (max(1, round(share * len(own))), windows)).mean(axis=1)
                for own in self.held_out.values()
            ]
            drawn = np.concatenate(means)
            self._means[windows] = conformal.accepting(drawn, self.acceptance)
        return self._means[windows]

    def __post_init__(self):
        self._means = {}  # windows -> threshold

    @property
    def length(self):
        return len(self.thresholds)

    def scores(self, windows):
        """float64 (n,), nats of each window (uint8 arrays of at most `length` bases)."""
        batch = np.zeros((WINDOWS_AT_ONCE, self.length), np.uint8)
        sizes = np.array([len(window) for window in windows])
        for row, window in zip(batch, windows, strict=False):
            row[: len(window)] = window
        # What stands behind a window does not matter: the models look back only.
        track = -self.models[0].predict_on_batch(batch).astype(np.float64)
        if len(self.models) > 1:
            track += self.models[1].predict_on_batch(batch)
        sums = np.cumsum(track, axis=1)
        return sums[np.arange(len(sizes)), sizes - 1]


def longest_known(bases):
    """The longest part without unknown bases, the first of several.

    >>> longest_known(np.array([0, 255, 1, 2, 255], np.uint8))
    array([1, 2], dtype=uint8)
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[True], bases > 3, [True]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return bases[:0]
    best = int(np.argmax(stops - starts))
    return bases[starts[best] : stops[best]]


def windows_of(bases, length):
    """Windows of `length` bases; the last one ends where the bases end, if that overlaps another.

    >>> [len(window) for window in windows_of(np.zeros(7, np.uint8), 3)]
    [3, 3, 3]
    """
    if len(bases) <= length:
        return [bases]
    starts = [*range(0, len(bases) - length, length), len(bases) - length]
    return [bases[start : start + length] for start in starts]


def screened(screen, records, min_length):
    """Yields one tuple of COLUMNS for each (title, bases), with None for what is not known."""
    waiting = []  # (title, bases, known part, its windows)
    pending, stopped = 0, []
    for title, bases in _flushed(records, stopped):
        known = longest_known(bases)
        windows = windows_of(known, screen.length) if len(known) >= min_length else []
        waiting.append((title, bases, known, windows))
        pending += len(windows)
        if pending >= WINDOWS_AT_ONCE or len(waiting) >= 8 * WINDOWS_AT_ONCE:
            yield from _rows(screen, waiting)
            waiting, pending = [], 0
    yield from _rows(screen, waiting)
    for error in stopped:
        raise error


def _flushed(records, stopped):
    """The records; an error among them ends them and goes to `stopped`, so that what came before is
    scored first.
    """
    try:
        yield from records
    except ValueError as error:
        stopped.append(error)


def _rows(screen, waiting):
    windows = [window for *_, own in waiting for window in own]
    starts = range(0, len(windows), WINDOWS_AT_ONCE)
    scored = [screen.scores(windows[start : start + WINDOWS_AT_ONCE]) for start in starts]
    scored = np.concatenate(scored) if scored else np.zeros(0)
    position = 0
    for title, bases, known, own in waiting:
        name = title.split()[0] if title.split() else "unnamed"
        if not own:
            yield name, len(bases), 0, None, None, None, None
            continue
        size, gc = len(own[0]), float(gc_content(known[None])[0])
        score = scored[position : position + len(own)].mean() / size
        threshold = screen.threshold(size, len(own)) / size
        position += len(own)
        yield name, len(bases), len(known), gc, score, threshold, int(score > threshold)


@contextlib.contextmanager
def writer(path):
    """A text file that is there only when complete, gzip if it is called so; "-" is standard
    output.
    """
    if path == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    with atomic_path(path) as temporary:
        opened = gzip.open if path.endswith(".gz") else open
        with opened(temporary, "wt", encoding="utf-8") as file:
            yield file


def text_of(row):
    """The row as text: six digits, NA for None."""
    cells = [f"{x:.6g}" if isinstance(x, float) else "NA" if x is None else str(x) for x in row]
    return "\t".join(cells)


class Summary:
    """Counts of what was screened."""

    def __init__(self):
        self.reads, self.ood, self.scored, self.trimmed, self.cut = 0, 0, 0, 0, 0
        self.gc = {0: [0, 0.0], 1: [0, 0.0]}  # is_ood -> reads, sum of their GC contents

    def add(self, row, length):
        """Counts a row; `length` is that of the training reads."""
        _, size, known, gc, _, _, is_ood = row
        self.reads += 1
        if is_ood is None:
            return
        self.trimmed += known < size
        self.cut += known > length
        self.scored += 1
        self.ood += is_ood
        self.gc[is_ood][0] += 1
        self.gc[is_ood][1] += gc

    def lines(self, acceptance):
        left = self.reads - self.scored
        yield f"{self.reads} reads, {self.scored} scored, {left} with too few known bases."
        if self.trimmed:
            yield f"{self.trimmed} with unknown bases: their longest known part was scored."
        if self.cut:
            yield f"{self.cut} longer than the training reads: cut into windows."
        if self.scored:
            share = self.ood / self.scored
            yield (
                f"{self.ood} are OOD ({share:.1%}); of in-distribution reads {1 - acceptance:.1%} "
                "would be."
            )
        for is_ood, title in ((0, "accepted"), (1, "OOD")):
            count, total = self.gc[is_ood]
            if count:
                yield f"GC content of the {title} reads: {total / count:.1%}."
