"""From a trained classifier to a PixelDetector: which score, which threshold, and what is said of
them (the model card). Validation data alone decide; no test set is opened.
"""

import dataclasses
from typing import Any

import numpy as np
from absl import logging

from ood_suite import conformal, data, intervals, metrics, scores
from ood_suite.data import framing, synthetic
from ood_suite.data.transforms import to_shape
from ood_suite.detector import AT_CHANCE, Detector
from ood_suite.evaluation.classifier import perturbation_rules, perturbations
from ood_suite.evaluation.groups import find_groups
from ood_suite.evaluation.verdict import OF_PIXELS, halves
from ood_suite.files import RunError
from ood_suite.progress import progress
from ood_suite.runs.extraction import Parts, extractor_of
from ood_suite.runs.run import versions
from ood_suite.scores import FUSION
from ood_suite.serving.pixel_detector import PixelDetector, repeated
from ood_suite.serving.request import Calibration
from ood_suite.training import backend, input_gradients

# What --score=auto chooses from: one or two of each kind, none that needs gradients.
CANDIDATES = (
    FUSION, "energy", "gen", "knn", "mahalanobis", "max_logit", "msp", "nnguide", "react+energy",
    "relative_mahalanobis", "residual", "vim",
)  # fmt: skip
AT_ONCE = 100  # images whose gradients are taken together
COUNT, SEED = 1000, 20  # of generated validation OOD images; test sets are of seed 0
RESAMPLES = 1000  # of the examples that choose a score
# Validation OOD that needs no data: {name: function(held-out images) -> images}.
GENERATED = {
    "blobs": lambda images: synthetic.blobs(len(images), images.shape[1:], SEED),
    "jigsaw": lambda images: synthetic.jigsaw(images, SEED),
    "mixed": lambda images: synthetic.mixed(images, SEED),
    "rademacher": lambda images: synthetic.rademacher(len(images), images.shape[1:], SEED),
}


@dataclasses.dataclass
class _Outputs:
    """What the network says of each part of the data; validation is {name: Outputs}."""

    held_out: Any
    training: Any
    validation: dict


def calibrate(folder, wanted=Calibration(), *, data_dir=None):
    """A PixelDetector of a run of a classifier of images.

    Args:
        folder: of the run. wanted: Calibration.

    Raises:
        RunError: no such run, or one of another kind.
        ValueError: too few held-out examples for what is promised; an unknown score.
    """
    # Stage 1: the run, its network, and what that says of held-out, training and validation data.
    run = find_groups(folder, wanted.checkpoint)[0].foreground
    extractor: Any = extractor_of(run)
    if run.kind != "classifier" or not hasattr(extractor, "load_classifier"):
        raise RunError(f"{folder} is no run of a classifier of images, but of kind {run.kind}.")
    classifier = extractor.load_classifier(run)
    role = run.roles.get("held_out")
    if role is None:
        raise RunError(f"{folder} names no held-out data, which set the threshold.")
    images = data.first_available(role.names, role.split, data_dir, classifier.image_shape)
    names = CANDIDATES if wanted.score == ("auto",) else ("&".join(scores.read(wanted.score)),)
    _require_enough(len(images), len(names) > 1, wanted)
    _require_possible(names, wanted, getattr(images.images, "classes", None), classifier)
    steps = perturbations(perturbation_rules(extractor, names), {})
    outputs = _extracted(run, steps, wanted.ood_validation, data_dir)
    outputs.validation |= _generated(classifier, images, steps, is_chosen=len(names) > 1)

    # Stage 2: the score, on validation data, and its threshold.
    choosing, outputs = _parted(outputs) if len(names) > 1 else (outputs, outputs)
    values, rows = _compared(names, choosing, wanted)
    chosen, *others = _ordered(rows)
    fitted = Detector(chosen, 1.0 - wanted.false_alarms).fit(outputs.held_out, outputs.training)

    # Stage 3: all of it as one thing, with its card.
    about = {
        "run": str(run.folder), "score": chosen, "false_alarms": wanted.false_alarms,
        "fingerprints": run.config["fingerprints"], "chosen_of": list(rows),
    }  # fmt: skip
    detector = PixelDetector(
        network=classifier.network,
        head=classifier.head,
        detector=fitted,
        classes=list(wanted.classes) or getattr(images.images, "classes", None),
        pixel_range=wanted.pixel_range,
        transform=_transform(role.names[0], images.images.shape, classifier.image_shape),
        confidence=wanted.confidence,
        held_out_classes=outputs.held_out.logits.argmax(axis=1),
        by_class=wanted.by_class,
        about=about,
    )
    caught = _caught(detector, outputs.validation)
    about["validation"] = {k: row | {"caught": caught[k]} for k, row in rows[chosen].items()}
    notes = [f"WARNING: {AT_CHANCE}"] if _is_at_chance(outputs.held_out) else []
    if others:
        lead, low, high = _lead(values[chosen], values[others[0]], wanted)
        notes.append(
            f"{chosen} catches {lead:.1%} more of a validation set on average than {others[0]}, "
            f"the next (95% of resampled examples: {low:.1%} to {high:.1%})"
        )
    for note in notes:
        logging.info("%s.", note)
    detector.card = model_card(detector, outputs, rows, notes)
    logging.info("Score: %s. %s.", chosen, detector.promise)
    return detector


def _transform(name, shape, image_shape):
    """How the held-out images, (n, *shape), came to the network's size, for files to follow: arrays
    without a transform in their name are squashed to it, whatever their proportions (to_shape).
    """
    is_squashed = shape[1] * image_shape[1] != shape[2] * image_shape[0]
    return data.names.parse(name).transform or ("squash" if is_squashed else framing.COVER)


def _require_enough(count, is_chosen, wanted):
    """Refuses too few held-out images (ValueError) before anything is computed."""
    calibrating = count // 2 if is_chosen else count
    try:
        conformal.rank_for(calibrating, wanted.false_alarms, wanted.confidence)
    except ValueError as error:
        half = f" Half of {count} held-out images choose the score: name one with --score."
        raise ValueError(f"{error}{half if is_chosen else ''}") from error


def _require_possible(names, wanted, folders, classifier):
    """Refuses (ValueError) before anything is extracted what no detector of pixels has, and names
    of classes that are not the network's.
    """
    for name in names:
        if missing := sorted(set(scores.get(name).needs) - OF_PIXELS):
            raise ValueError(
                f"A detector of pixels cannot have {name}, which needs {', '.join(missing)}. Those "
                "that --score=auto compares can be had, and odin."
            )
    classes, count = wanted.classes or folders, classifier.network.output["logits"].shape[1]
    if classes and len(classes) != count:
        raise ValueError(
            f"The network has {count} classes. Received {len(classes)}: {', '.join(classes[:20])} "
            "(--classes, or the sub-folders of the held-out images)."
        )
    if twice := repeated(classes or ()):
        raise ValueError(f"Each of --classes must have a name of its own. Received twice: {twice}.")


def _parted(outputs):
    """The same with half of the held-out examples each: to choose a score by, and to calibrate."""
    return (
        dataclasses.replace(outputs, held_out=outputs.held_out.take(rows))
        for rows in halves(len(outputs.held_out))
    )


def _is_at_chance(held_out):
    is_labelled = held_out.labels.min() >= 0
    return is_labelled and metrics.is_at_chance(held_out.logits, held_out.labels)


def _extracted(run, steps, asked, data_dir):
    """The _Outputs of a run's files, with logits perturbed by `steps` but for the training data."""

    def of(names, split, moves=tuple(steps)):
        parts = Parts(perturbations=moves)
        return extractor_of(run).extract(run, names, split, data_dir=data_dir, parts=parts)

    roles, validation = run.roles, {}
    known = roles.get("validation_ood")
    split = known.split if known else "val"
    named = [((name,), split) for name in asked] or ([(known.names, split)] if known else [])
    for names, split in named:
        found = of(names, split)
        title = found.meta["dataset"]
        if title in validation or title in GENERATED:
            raise ValueError(f"Two sets of validation OOD data are called {title}: rename one.")
        validation[title] = found
    held_out, training = roles["held_out"], roles.get("training")
    learned = of(training.names, training.split, moves=()) if training else None
    return _Outputs(of(held_out.names, held_out.split), learned, validation)


def _generated(classifier, images, steps, is_chosen):
    """{name: Outputs} of images generated of some held-out ones: those of the half that chooses a
    score, and of all classes, as files are often sorted by class.
    """
    rows = halves(len(images))[0] if is_chosen else np.arange(len(images))
    rows = np.sort(np.random.default_rng(SEED).permutation(rows)[:COUNT])
    shown, _ = to_shape(images.images[rows], classifier.image_shape)
    found = {}
    for name, generate in progress(GENERATED.items(), desc="generated OOD", unit="set"):
        made, moved = generate(shown), {}
        for temperature, epsilon, rule in steps:
            move = input_gradients.odin(classifier.network, temperature, (epsilon,), rule)
            moved |= backend.in_batches(move, made, AT_ONCE)
        plain = classifier.outputs(made)
        found[name] = dataclasses.replace(plain, logits_perturbed=moved or None)
    return found


def _compared(names, outputs, wanted):
    """({score: (held-out scores, [scores of each validation set])}, {score: {validation set:
    figures}}); of several scores those that cannot be fitted are left out, with a log line.
    """
    found, rows = {}, {}
    for name in progress(names, desc="scores", unit="score", disable=len(names) < 2):
        try:
            detector = Detector(name, 1.0 - wanted.false_alarms)
            detector.fit(outputs.held_out, outputs.training)
        except ValueError as error:
            if len(names) == 1:
                raise
            logging.warning("%s is left out: %s", name, error)
            continue
        own, rows[name] = detector.calibration_, {}
        found[name] = own, [detector.score(ood) for ood in outputs.validation.values()]
        threshold = conformal.threshold(own, wanted.false_alarms, wanted.confidence)
        for title, values in zip(outputs.validation, found[name][1], strict=True):
            low, high = intervals.auroc_interval(own, values)
            rows[name][title] = {
                "auroc": metrics.auroc(metrics.Counts.of(own, values)), "low": low, "high": high,
                "caught": float(np.mean(conformal.beyond(values, threshold))),
            }  # fmt: skip
    if not found:
        raise ValueError(f"None of the scores can be fitted: {', '.join(names)}.")
    return found, rows


def _ordered(rows):
    """The scores, the best first: what catches most at the promise that was asked for, averaged
    over the validation sets; of those that catch as much the one of the larger AUROC. A score of
    the best AUROC may be poor there: few ID examples far out cost it its threshold.
    """
    return sorted(rows, key=lambda name: (-_mean(rows[name], "caught"), -_mean(rows[name])))


def _caught(detector, validation):
    """{validation set: share that a PixelDetector calls OOD}."""
    return {
        title: float(np.mean(detector.is_ood(detector.detector.score(ood), ood.logits.argmax(1))))
        for title, ood in validation.items()
    }


def _mean(figures, key="auroc"):
    """Mean over the validation sets."""
    return float(np.mean([row[key] for row in figures.values()]))


def _lead(first, second, wanted):
    """By how much one score catches a larger share than another, averaged over validation sets.

    Args:
        first, second: (held-out scores, [scores of each validation set]), of the same examples.

    Returns:
        The difference, and the 2.5% and 97.5% quantiles of those of RESAMPLES, in which held-out
        and validation examples are drawn again, with replacement, the same for both.
    """
    pairs = zip(*((own, *ood) for own, ood in (first, second)), strict=True)
    held_out, *sets = (np.stack(pair) for pair in pairs)
    count, rng = held_out.shape[1], np.random.default_rng(SEED)
    rank = conformal.rank_for(count, wanted.false_alarms, wanted.confidence) - 1

    def lead(draw):
        thresholds = np.partition(draw(held_out), rank)[:, rank, None]
        shares = [conformal.beyond(draw(part), thresholds).mean(axis=1) for part in sets]
        return np.subtract(*np.mean(shares, axis=0))

    def resampled(part):
        return part[:, rng.integers(part.shape[1], size=part.shape[1])]

    low, high = np.quantile([lead(resampled) for _ in range(RESAMPLES)], [0.025, 0.975])
    return lead(lambda part: part), low, high


BY_CLASS = """, for each predicted class (what is promised above is said of the class with
the widest interval)"""
SPLIT = """The table is of the half of the held-out images that chose the score; the other half set
the threshold. """
CARD = """# Detector: {score}

Calls an image out-of-distribution (OOD) where the score of its network's outputs is above the
threshold. Higher = more OOD.

## What it guarantees

{promise}. Asked for: at most {alarms:.2%}{confidence}{by_class}. This holds for new images that are
drawn as the held-out ones were, and says nothing of any other: after a change of camera, users or
season, calibrate again. How many OOD images are found depends on what they are; see below.

## What it was fitted to

- run: {run}
- held-out: {held_out}, {count} images, accuracy {accuracy}
- pixels: bytes, or floats in {pixel_range}; shape {shape}; image files: {framed}
- classes: {classes}
- made with: {versions}

## How it did on validation OOD data

{table}
"caught" is the share above {one} of what is asked for above, by which scores are chosen.
{split}This detector catches: {caught}. "blobs" and "rademacher" are generated; "jigsaw" has the
held-out images' patches in another order, "mixed" are means of two of them. No test set was opened.
{notes}"""


def model_card(detector, outputs, rows, notes):
    """card.md: what the detector is, promises, was fitted to, and how it did."""
    about, held_out = detector.about, outputs.held_out
    titles = list(outputs.validation)
    lines = ["| score | " + " | ".join(f"{t}: AUROC, caught" for t in titles) + " | mean |"]
    lines.append("|---" * (len(titles) + 2) + "|")
    for name in _ordered(rows):
        cells = [
            f"{r['auroc']:.3f} [{r['low']:.3f}, {r['high']:.3f}], {r['caught']:.0%}"
            for r in (rows[name][title] for title in titles)
        ]
        mean = f"{_mean(rows[name]):.4f}, {_mean(rows[name], 'caught'):.1%}"
        lines.append(f"| {name} | {' | '.join(cells)} | {mean} |")
    labelled = held_out.labels is not None and held_out.labels.min() >= 0
    return CARD.format(
        score=about["score"],
        promise=detector.promise,
        alarms=about["false_alarms"],
        confidence=f", with {100 * sure:.6g}% confidence" if (sure := detector.confidence) else "",
        by_class=BY_CLASS if detector.by_class else "",
        run=about["run"],
        held_out=held_out.meta["dataset"],
        count=len(held_out),
        accuracy=f"{metrics.accuracy(held_out.logits, held_out.labels):.4f}"
        if labelled
        else "unknown",
        pixel_range=detector.pixel_range,
        shape=detector.image_shape,
        framed=framing.note(detector.transform, detector.image_shape),
        classes=", ".join(detector.classes),
        versions=", ".join(f"{k} {v}" for k, v in versions().items()),
        table="\n".join(lines) + "\n",
        one="one threshold for all classes" if detector.by_class else "a threshold",
        split=SPLIT if len(rows) > 1 else "",
        caught=", ".join(f"{row['caught']:.0%} of {k}" for k, row in about["validation"].items()),
        notes="".join(f"\n- {note.rstrip('.')}.\n" for note in notes),
    )
