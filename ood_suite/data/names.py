"""What a data set is called on a command line: NAME[:TRANSFORM][:SHIFT][@COUNT].

    dtd:squash             a transform of framing.TRANSFORMS, for the model's size of images
    cifar10:contrast_5     a shift of corruptions.CHANGES: its images under that corruption
    svhn_cropped@1000      1000 of its images, drawn with seed 0
    tfds:mnist@train       a split of TFDS: what follows @ is a split unless it is a whole number
    tfds:mnist@train@1000  1000 images of that split

The path of a file or folder that exists is that path, whatever it looks like.
"""

import dataclasses
import os
import re

import numpy as np

from ood_suite.data import corruptions
from ood_suite.data.framing import TRANSFORMS
from ood_suite.files import fingerprint

SEED = 0


@dataclasses.dataclass(frozen=True)
class Name:
    """A name in its parts; no transform or shift is "", all images are None."""

    bare: str
    transform: str = ""
    count: int | None = None
    shift: str = ""


def parse(name):
    """The parts of a name.

    Raises:
        ValueError: an unknown transform or shift, or a sample of no images.

    >>> parse("dtd:squash@1000")
    Name(bare='dtd', transform='squash', count=1000, shift='')
    >>> parse("tfds:mnist@train[80%:]").bare
    'tfds:mnist@train[80%:]'
    >>> parse("mnist:contrast_5").shift
    'contrast_5'
    """
    bare, transform, count, shift = name, "", None, ""
    if os.path.exists(bare):
        return Name(bare)
    sample = re.fullmatch(r"(.+)@([0-9]{1,18})", bare)
    if sample:
        bare, count = sample[1], int(sample[2])
        if not count:
            raise ValueError(f"A sample has at least one image. Received: {name}.")
    before, colon, last = bare.rpartition(":")
    if colon and last in corruptions.CHANGES:
        bare, shift = before, last
        before, colon, last = bare.rpartition(":")
    if colon and not os.path.exists(bare):
        if last in TRANSFORMS:
            bare, transform = before, last
        elif before.partition(":")[0] != "tfds":
            raise ValueError(
                f"There is no transform {last!r} ({name}). Known: {', '.join(TRANSFORMS)}; and "
                f"shifts, with a severity of 1 to 5: {', '.join(corruptions.SHIFTS)}; "
                f"{', '.join(corruptions.PERMUTED)}."
            )
    return Name(bare, transform, count, shift)


def shifted(name, shift):
    """The name of a data set under a shift.

    >>> shifted("mnist@1000", "contrast_5"), shifted("dtd:squash", "jpeg_1")
    ('mnist:contrast_5@1000', 'dtd:squash:jpeg_1')
    """
    count = parse(name).count
    ending = f"@{count}" if count else ""
    return f"{name.removesuffix(ending)}:{shift}{ending}"


def sample_rows(total, count, name):
    """(rows, note): ascending numbers of `count` images out of `total`, drawn without replacement
    by NumPy's default generator with seed 0, and what a report says of them.

    Raises:
        ValueError: there are fewer.
    """
    if count > total:
        raise ValueError(f"{name} has {total} images, of which {count} cannot be drawn.")
    rows = np.sort(np.random.default_rng(SEED).choice(total, count, replace=False))
    note = f"{count} of the {total} images of {name}, drawn with seed {SEED} (rows "
    return rows, f"{note}{rows[0]}..{rows[-1]}, fingerprint {fingerprint(rows)})"
