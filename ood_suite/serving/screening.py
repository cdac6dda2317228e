"""Decisions on files: one line for each image, at constant memory, continued after a kill."""

import dataclasses
import itertools
import json
import pathlib
import shutil
import sys

import numpy as np
from scipy import stats

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
        promised: share of false alarms. false_share: of discoveries, if that is what is_ood means.
    """

    promised: float
    false_share: float | None = None
    images: int = 0
    unreadable: int = 0
    flagged: int = 0

    def add(self, row):
        self.images += 1
        self.unreadable += row[2] is None
        self.flagged += bool(row[4])

    def lines(self):
        """What a reader wants to know at the end."""
        yield f"{self.images} images, {self.unreadable} of them unreadable."
        known = self.images - self.unreadable
        if not known:
            return
        yield f"{self.flagged} are OOD ({self.flagged / known:.2%})."
        if self.false_share is not None and not self.flagged:
            return
        if self.false_share is not None:
            yield f"At most {self.false_share:.2%} of these are in-distribution, in expectation."
            return
        chance = stats.binomtest(self.flagged, known, self.promised, alternative="greater").pvalue
        verdict = (
            "more than in-distribution images give" if chance < 0.01 else "no more than chance"
        )
        yield (
            f"Of in-distribution images {self.promised:.2%} would be: {verdict} (binomial test, "
            f"p = {chance:.2g})."
        )


def screen(detector, paths, out="-", *, false_discoveries=None, form="tsv"):
    """Writes a line of COLUMNS for each image, NA for what cannot be read, and returns a Summary.

    Args:
        detector: PixelDetector. paths: see data.pixels.named_images.
        out: file that is not there yet, and only when whole; a killed screening of it continues.
            "-": standard output.
        false_discoveries: share of ID examples among those called OOD, in expectation: is_ood is
            then decided for all images together (Benjamini and Hochberg), at the end.
        form: "tsv", or "jsonl" for one JSON object a line.
    """
    images = named_images(paths, detector.image_shape)
    alarms = 1.0 - detector.detector.acceptance
    if out == "-":
        rows = _rows(detector, progress(images, unit="image", desc="screening"))
        rows = rows if false_discoveries is None else list(rows)
        return _written(sys.stdout, rows, form, alarms, false_discoveries)
    out = pathlib.Path(out)
    if out.exists():
        raise RunError(f"{out} is there already. Delete it, or choose another --out.")
    folder = out.with_name(f".partial-{out.name}")
    mark = [np.array(detector.thresholds), np.array([str(path) for path in paths])]
    with locked(folder):
        kept = _Kept(folder / "rows.jsonl", fingerprint(*mark, detector.detector.calibration_))
        kept.extend(detector, images)
        with atomic_path(out) as temporary, open(temporary, "w", encoding="utf-8") as file:
            summary = _written(file, kept, form, alarms, false_discoveries)
    shutil.rmtree(folder)
    return summary


class _Kept:
    """Rows on disk, in the order of the images: what a kill leaves is a shorter file."""

    def __init__(self, path, mark):
        self.path, self.mark = path, mark
        self.count = max(0, self._whole_lines() - 1)

    def _whole_lines(self):
        """Number of lines that are of this screening; what follows them is cut off."""
        if not self.path.exists():
            self.path.write_text(json.dumps(self.mark) + "\n")
        with open(self.path, "r+b") as file:
            if file.readline() != json.dumps(self.mark).encode() + b"\n":
                file.truncate(0)
                file.seek(0)
                file.write(json.dumps(self.mark).encode() + b"\n")
                return 1
            lines, end = 1, file.tell()
            while (line := file.readline()).endswith(b"\n"):
                lines, end = lines + 1, end + len(line)
            file.truncate(end)
        return lines

    def extend(self, detector, images):
        """Adds the rows of all images behind those that are there."""
        rest = itertools.islice(images, self.count, None)
        with open(self.path, "a", encoding="utf-8") as file:
            bar = progress(rest, unit="image", desc="screening", initial=self.count)
            for row in _rows(detector, bar):
                file.write(json.dumps(row) + "\n")

    def __iter__(self):
        with open(self.path, encoding="utf-8") as file:
            next(file)
            yield from (tuple(json.loads(line)) for line in file)


def _rows(detector, images):
    """Yields tuples of COLUMNS, with None for what is not known of an unreadable image."""
    while batch := [(name, load()) for name, load in itertools.islice(images, AT_ONCE)]:
        readable = [image for _, image in batch if not isinstance(image, ValueError)]
        found = zip(*(v.tolist() for v in detector(np.stack(readable)))) if readable else iter(())
        for name, image in batch:
            if isinstance(image, ValueError):
                print(f"Warning: {image}.", file=sys.stderr)
                yield name, None, None, None, None
            else:
                score, p_value, is_ood, label = next(found)
                yield name, detector.classes[label], score, p_value, is_ood


def _written(file, rows, form, alarms, false_discoveries):
    """Writes the rows, decided anew if for all together; returns the Summary."""
    together, false_share = None, None
    if false_discoveries is not None:
        values = np.array([row[3] for row in rows if row[3] is not None])
        found = conformal.discoveries(values, false_discoveries)
        together, false_share = iter(found.is_ood.tolist()), found.false_share
    summary = Summary(alarms, false_share)
    if form == "tsv":
        print("\t".join(COLUMNS), file=file)
    for row in rows:
        if together and row[3] is not None:
            row = (*row[:4], next(together))
        summary.add(row)
        print(_text(row, form), file=file)
    return summary


def _text(row, form):
    if form == "jsonl":
        return json.dumps(dict(zip(COLUMNS, row, strict=True)))
    name, label, score, p_value, is_ood = row
    if score is None:
        return f"{_plain(name)}\tNA\tNA\tNA\tNA"
    return f"{_plain(name)}\t{_plain(label)}\t{score:.6g}\t{p_value:.6g}\t{int(is_ood)}"


def _plain(text):
    """Text that cannot break a line of a table."""
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")
