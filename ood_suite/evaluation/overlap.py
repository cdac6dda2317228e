"""Data sets that must not share examples: OOD with ID data, tests with what was chosen by."""

import itertools
from typing import Any, NamedTuple

import numpy as np

from ood_suite import metrics
from ood_suite.data.likeness import lookalikes
from ood_suite.evaluation.material import asked_roles, require_typed
from ood_suite.runs.extraction import extractor_of

SHARED_ID = 0.01  # of an ID set, that another may hold: public data sets have some duplicates
SHARED_VALIDATION = 0.02  # of the validation OOD set: some images of CIFAR-10 are grey already
SHOWN_PAIRS = 5


class Shown(NamedTuple):
    """The data that a run has seen, as Outputs with hashes; None where they are not known.

    Attributes:
        held_out, training: ID examples. selection: the OOD examples that chose anything.
        fingerprints: {data set: fingerprint} of what the run was made with.
    """

    held_out: Any
    training: Any
    selection: Any
    fingerprints: dict


def require_separate(run, request, chooses, data_dir=None):
    """Refuses OOD sets that nobody knows, and data sets that overlap, before anything is extracted
    or trained; see material.require_typed, refuse_early.
    """
    extractor = extractor_of(run)
    require_typed(extractor, run, request, data_dir)
    refuse_early(
        run, extractor, asked_roles(run.roles, request), data_dir=data_dir,
        chooses=chooses, allowed=request.allow_overlap,
    )  # fmt: skip


def refuse_early(run, extractor, roles, *, data_dir=None, chooses=True, allowed=False):
    """Opens every data set of an evaluation and refuses overlaps, before anything is extracted or
    trained: what can be read at once, that is, and no folders of files.

    Args:
        roles: {role: Role}, see Run.roles. chooses: whether validation OOD data choose something.

    Raises:
        ValueError: as refuse_overlap does. FileNotFoundError: the ID test set is absent.
    """

    def hashes(role):
        if role not in roles:
            return None
        try:
            return extractor.hashes(run, roles[role].names, roles[role].split, data_dir=data_dir)
        except FileNotFoundError:
            if role == "id_test":
                raise
            return None  # a note of the report, or there when the run was made

    ood = {role: hashes(role) for role in roles if role.startswith("ood:")}
    ood_tests = {found.meta["dataset"]: found for found in ood.values() if found}
    id_test, selection = hashes("id_test"), hashes("validation_ood") if chooses else None
    if id_test is None:
        return
    shown = Shown(hashes("held_out"), hashes("training"), selection, run.config["fingerprints"])
    refuse_overlap(shown, id_test, ood_tests, allowed, likeness=False)


def refuse_overlap(material, id_test, ood_tests, allowed, likeness=True):
    """Notes on pairs of ID parts that share some examples, and, with `likeness`, on
    near-duplicates.

    Args:
        material: Material, or Shown.

    Raises:
        ValueError: an OOD set is another set again or shares examples with ID data, or two parts of
            the ID data are largely the same.
    """
    known = {id_test.meta["fingerprint"]: f"ID set {id_test.meta['dataset']}"}
    trained_on = {mark: title for title, mark in material.fingerprints.items()}
    for name, outputs in ood_tests.items():
        mark = outputs.meta["fingerprint"]
        if mark in known:
            raise ValueError(f"The OOD set {name} is the {known[mark]} itself.")
        if mark in trained_on:
            raise ValueError(
                f"The OOD set {name} was used in training (as {trained_on[mark]}): to train on, or "
                "to choose by."
            )
        known[mark] = f"OOD set {name}"
    id_parts = {
        "training set": material.training,
        "held-out ID set": material.held_out,
        "ID test set": id_test,
    }
    ood_parts = {f"OOD set {name}": outputs for name, outputs in ood_tests.items()}
    id_parts, ood_parts, validation = (
        {title: o for title, o in parts.items() if o and o.example_hashes is not None}
        for parts in (id_parts, ood_parts, {"validation OOD set": material.selection})
    )
    notes = []
    for title, outputs in (ood_parts | validation).items():
        for other, source in (id_parts | (validation if title in ood_parts else {})).items():
            count = shared(outputs, source)
            tolerated = SHARED_VALIDATION * len(outputs) if title in validation else 0
            if count > tolerated and not allowed:
                raise ValueError(
                    f"{count} of the {len(outputs)} examples of the {title} are in the {other} "
                    "too. Remove them, or accept them with --allow_overlap."
                )
            if count:
                notes.append(f"{count} examples of the {title} are in the {other} too")
            if title in ood_parts and likeness:
                notes += near_duplicates(title, outputs, other, source)
    for (first, source), (second, outputs) in itertools.combinations(id_parts.items(), 2):
        count = shared(outputs, source)
        if count > SHARED_ID * len(outputs) and not allowed:
            raise ValueError(
                f"{count} of the {len(outputs)} examples of the {second} are in the {first} too. "
                "Give other data, or accept them with --allow_overlap."
            )
        if count:
            notes.append(f"{count} examples of the {second} are in the {first} too")
    return notes


def shared(outputs, source):
    """How many examples of `outputs` are in `source`."""
    return int(np.isin(outputs.example_hashes, source.example_hashes).sum())


def near_duplicates(title, outputs, other, source):
    """A note if images of an OOD set look like some of another without being the same: scaled,
    encoded again or shifted by a pixel. Not between parts of the ID data, where pictures of one
    kind look alike, and not of the validation OOD set, which may be made of ID images.
    """
    if outputs.perceptual_hashes is None or source.perceptual_hashes is None:
        return []  # reads, or extracted before such hashes were recorded
    new = np.flatnonzero(~np.isin(outputs.example_hashes, source.example_hashes))
    rows, partners = lookalikes(outputs.perceptual_hashes[new], source.perceptual_hashes)
    if not len(rows):
        return []
    pairs = [f"{new[i]} like {j}" for i, j in zip(rows[:SHOWN_PAIRS], partners, strict=False)]
    return [
        f"{len(rows)} of the {len(outputs)} images of the {title} look like images of the {other} "
        "(scaled, encoded again or shifted by a pixel?), by rows from 0: "
        f"{', '.join(pairs)}{', ...' if len(rows) > SHOWN_PAIRS else ''}"
    ]


def trained_on_held_out(material, id_test):
    """A note if the classifier does much better on held-out than on test data: then it was probably
    trained on them, and what they set is optimistic.
    """
    sets = [material.held_out, id_test]
    if not all(is_labelled(o) for o in sets):
        return []
    held_out, test = (metrics.accuracy(o.logits, o.labels) for o in sets)
    spread = sum(a * (1.0 - a) / len(o) for a, o in zip((held_out, test), sets, strict=True)) ** 0.5
    if held_out - test <= max(5.0 * spread, 0.01):
        return []
    return [
        f"the classifier is right on {held_out:.2%} of the held-out and {test:.2%} of the test "
        "examples, so it was probably trained on the held-out ones: thresholds accept less ID data "
        "than they should (column accepted), and temperatures and tuned parameters are off"
    ]


def is_labelled(outputs):
    """Whether these are a classifier's outputs on examples with labels."""
    labels = outputs.labels
    return outputs.logits is not None and labels is not None and labels.min() >= 0
