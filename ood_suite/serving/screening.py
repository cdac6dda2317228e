"""Decisions on files: one line for each image, at constant memory, continued after a kill."""

import collections
import dataclasses
import itertools
import json
import math
import pathlib
import re
import shutil
import sys
from functools import partial

import numpy as np

from ood_suite import conformal
from ood_suite.data.pixels import named_images
from ood_suite.files import RunError, atomic_path, fingerprint, locked
from ood_suite.progress import progress

COLUMNS = ("file", "class", "score", "p_value", "is_ood")
AT_ONCE = 64  # images that pass the network together


@dataclasses.dataclass
class Summary:
    """Counts of what was screened.

    Attributes:
        ranks: {class: (number of held-out scores, rank of the threshold among them)}; of one
            threshold for all classes {None: that}.
        false_share: of ID images among those called OOD, in expectation, if they were decided
            together. known: {class, or None: images that could be read}. alarms: those called OOD.
    """

    ranks: dict
    false_share: float | None = None
    images: int = 0
    unreadable: int = 0
    flagged: int = 0
    known: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    alarms: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    @classmethod
    def of(cls, detector, false_share=None):
        """A Summary of what a PixelDetector decides."""
        ranks = detector.ranks
        groups = detector.classes if len(ranks) > 1 else [None]
        return cls(dict(zip(groups, ranks, strict=True)), false_share)

    def add(self, row):
        """Counts a row of COLUMNS."""
        _, label, score, _, is_ood = row
        self.images += 1
        self.unreadable += score is None
        self.flagged += bool(is_ood)
        if score is not None:
            group = label if label in self.ranks else None
            self.known[group] += 1
            self.alarms[group] += bool(is_ood)

    @property
    def chance(self):
        """p-value of the number of alarms, were all images in-distribution: of several thresholds
        the smallest, times their number.
        """
        found = [
            conformal.alarms_p_value(self.alarms[group], count, *self.ranks[group])
            for group, count in self.known.items()
        ]
        return min(1.0, len(found) * min(found))

    @property
    def promised(self):
        """The share of alarms among in-distribution images, on average over held-out sets."""
        shares = [conformal.Promise.of(*self.ranks[group]).expected for group in self.known]
        return float(np.average(shares, weights=list(self.known.values())))

    @property
    def least(self):
        """The fewest images that can be called OOD together: k of m with k false_share / m >=
        1 / (n + 1), the smallest p-value.
        """
        held_out = max(count for count, _ in self.ranks.values())
        share = self.false_share * (held_out + 1) / (self.images - self.unreadable)
        return math.ceil(1.0 / share * conformal.DOWN)

    def lines(self):
        """What a reader wants to know at the end."""
        yield f"{self.images} images, {self.unreadable} of them unreadable."
        known = self.images - self.unreadable
        if not known:
            return
        yield f"{self.flagged} are OOD ({self.flagged / known:.2%})."
        if self.false_share is not None and not self.flagged:
            if self.least > 1:
                held_out = max(count for count, _ in self.ranks.values())
                yield (
                    f"With {held_out} held-out images fewer than {self.least} of {known} cannot be "
                    "called OOD together: calibrate with more, or raise --fdr."
                )
            return
        if self.false_share is not None:
            yield f"Of such a list at most {self.false_share:.3%} are in-distribution, on average."
            return
        verdict = (
            "more than in-distribution images give" if self.chance < 0.01 else "no more than chance"
        )
        yield (
            f"Of in-distribution images {self.promised:.2%} would be, on average: {verdict} "
            f"(p = {self.chance:.2g})."
        )


def screen(detector, paths, out="-", *, false_discoveries=None, form="tsv"):
    """Writes a line of COLUMNS for each image, NA for what cannot be read, and returns a Summary.

    Args:
        detector: PixelDetector. paths: see data.pixels.named_images.
        out: file that is not there yet, and only when whole; a killed screening of it continues,
            from the first image whose file has changed. "-": standard output.
        false_discoveries: share of ID examples among those called OOD, in expectation: is_ood is
            then decided for all images together (Benjamini and Hochberg), at the end.
        form: "tsv", or "jsonl" for one JSON object a line.
    """
    images = partial(named_images, paths, detector.image_shape, detector.transform)
    summary = Summary.of(detector, false_discoveries)
    if out == "-":
        bar = progress(images(), unit="image", desc="screening")
        rows = (row for _, row in _rows(detector, bar))
        _write(sys.stdout, rows if false_discoveries is None else list(rows), form, summary)
        return summary
    out = pathlib.Path(out)
    if out.exists():
        raise RunError(f"{out} is there already. Delete it, or choose another --out.")
    folder = out.with_name(f".partial-{out.name}")
    mark = [np.array(detector.thresholds), np.array([str(path) for path in paths])]
    with locked(folder):
        kept = _Kept(folder / "rows.jsonl", fingerprint(*mark, detector.detector.calibration_))
        kept.extend(detector, images)
        with atomic_path(out) as temporary, open(temporary, "w", encoding="utf-8") as file:
            _write(file, kept, form, summary)
    shutil.rmtree(folder)
    return summary


class _Kept:
    """Rows on disk behind their images' stamps, in the order of the images: what a kill leaves is a
    shorter file.
    """

    def __init__(self, path, mark):
        self.path, first = path, json.dumps(mark).encode() + b"\n"
        if not path.exists():
            path.write_bytes(first)
        with open(path, "r+b") as file:
            if file.readline() != first:  # of another screening
                if file.readline():
                    print(f"Warning: what {path.parent} has is of another detector, or of other "
                          "paths: it is begun anew.", file=sys.stderr)  # fmt: skip
                file.truncate(0)
                file.seek(0)
                file.write(first)
            end = file.tell()
            while (line := file.readline()).endswith(b"\n"):
                end += len(line)
            file.truncate(end)  # what a kill cut

    def extend(self, detector, images):
        """Adds the rows of all images behind those that are there, in the batches of a screening
        that was never killed: a network rounds otherwise in others.

        Args:
            images: function without arguments, see data.pixels.named_images.
        """
        count = self._whole_batches(images())
        rest = itertools.islice(images(), count, None)
        with open(self.path, "a", buffering=1, encoding="utf-8") as file:  # each line at once
            bar = progress(rest, unit="image", desc="screening", initial=count)
            for stamp, row in _rows(detector, bar):
                file.write(json.dumps([stamp, *row]) + "\n")

    def _whole_batches(self, images):
        """Number of rows that are of the first images, in whole batches; the rows behind them, and
        from where images were added, replaced or taken away, are cut off.
        """
        with open(self.path, "r+b") as file:
            end, count = len(file.readline()), 0
            alike = itertools.takewhile(
                lambda pair: json.loads(pair[0])[:2] == [pair[1][1], pair[1][0]],
                zip(iter(file.readline, b""), images, strict=False),
            )
            while len(lines := [line for line, _ in itertools.islice(alike, AT_ONCE)]) == AT_ONCE:
                end, count = end + sum(map(len, lines)), count + AT_ONCE
            file.truncate(end)
        return count

    def __iter__(self):
        with open(self.path, encoding="utf-8") as file:
            next(file)
            yield from (tuple(json.loads(line)[1:]) for line in file)


def _rows(detector, images):
    """Yields (stamp, tuple of COLUMNS), with None for what is not known of an image that cannot be
    read or decided.
    """
    images = iter(images)  # once: a bar that is begun anew closes the generator below it
    while batch := [(*known, load()) for *known, load in itertools.islice(images, AT_ONCE)]:
        readable = [(name, image) for name, _, image in batch if not isinstance(image, ValueError)]
        found = iter(_decided(detector, readable) if readable else ())
        for name, stamp, image in batch:
            decided = image if isinstance(image, ValueError) else next(found)
            if isinstance(decided, ValueError):
                print(f"Warning: {_plain(str(decided))}.", file=sys.stderr)
                yield stamp, (name, None, None, None, None)
            else:
                score, p_value, is_ood, label = decided
                yield stamp, (name, detector.classes[label], score, p_value, is_ood)


def _decided(detector, named):
    """[(score, p_value, is_ood, label)] of pairs (name, image); in its place the ValueError of an
    image that the score cannot take, such as one on which a network in float16 overflows.
    """
    try:
        found = detector(np.stack([image for _, image in named]))
        return list(zip(*(values.tolist() for values in found), strict=True))
    except ValueError as error:
        if len(named) == 1:
            return [ValueError(f"{named[0][0]} cannot be decided on ({str(error).rstrip('.')})")]
        return [decided for pair in named for decided in _decided(detector, [pair])]


def _write(file, rows, form, summary):
    """Writes the rows, decided anew if for all together, and counts them."""
    together = None
    if summary.false_share is not None:
        values = np.array([row[3] for row in rows if row[3] is not None])
        together = iter(conformal.discoveries(values, summary.false_share).is_ood.tolist())
    if form == "tsv":
        print("\t".join(COLUMNS), file=file)
    for row in rows:
        if together and row[3] is not None:
            row = (*row[:4], next(together))
        summary.add(row)
        print(_text(row, form), file=file)


def _text(row, form):
    if form == "jsonl":
        return json.dumps(dict(zip(COLUMNS, row, strict=True)))
    name, label, score, p_value, is_ood = row
    if score is None:
        return f"{_plain(name)}\tNA\tNA\tNA\tNA"
    return f"{_plain(name)}\t{_plain(label)}\t{score!r}\t{p_value:.6g}\t{int(is_ood)}"


def _plain(text):
    """Text that can neither break a line of a table nor steer a terminal: a space for each control
    character; what is not UTF-8 in a file's name as \\udcXX.
    """
    plain = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)
    return plain.encode(errors="backslashreplace").decode()
