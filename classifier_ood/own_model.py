"""Makes a run of a Keras model of your own, which is copied and stays as it is.

    python -m classifier_ood.own_model --model=mine.keras --id_val=val/ --id_test=test/ --ood_far=o/
    python -m ood_suite.eval --run=output/classifier_ood/mine

The model is a functional or sequential classifier that ends in a Dense layer, perhaps with a
softmax in it or after it. Data sets are names of the catalogue, npz files, folders of images, or
tfds:NAME@SPLIT.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags, logging
from scipy import optimize, stats
from scipy.special import log_softmax

from classifier_ood.configs import INPUT_RANGES
from ood_suite import data, metrics
from ood_suite.data import names
from ood_suite.data.readers import kind_of
from ood_suite.data.streams import FolderImages
from ood_suite.data.transforms import PIXEL_RANGES, to_shape
from ood_suite.evaluation.verdict import halves
from ood_suite.files import atomic_path, fingerprint
from ood_suite.optional import quietly
from ood_suite.runs import cli
from ood_suite.runs.run import opened, roles_from
from ood_suite.runs.settings import setting

FLAGS = flags.FLAGS
COMPARED = 500  # held-out images that ranges of pixels, framings and orders are compared on
CHANCE = 1e-4  # p-value below which they are warned of


@dataclasses.dataclass(frozen=True)
class OwnModel:
    """What is said of a model; the field names are those of the flags."""

    id_train: str | None = setting(
        None, "Training data: npz, folder, tfds:NAME[@SPLIT]. Files of images are cut to the "
        "model's size by what follows a colon, here and below: train/:imagenet, train/:squash; "
        "take what the model was trained with.",
    )  # fmt: skip
    id_val: str | None = setting(None, "Held-out ID data for thresholds.")
    id_test: str | None = setting(None, "ID data of the result.")
    ood_near: tuple = setting((), "OOD data of the result that are near to the ID data.")
    ood_far: tuple = setting((), "OOD data of the result that are far from the ID data.")
    ood_validation: tuple = setting(
        (), "OOD data to tune on, not those of the result; of several the first that is there."
    )
    features_layer: str | None = setting(None, "Its features; if not given: what enters the head.")
    input_range: str | None = setting(
        None,
        "Pixels that it was trained on; caffe, torch: as preprocess_input of keras.applications "
        "makes them. If not given: 0..255, but its networks without preprocessing are refused.",
        choices=INPUT_RANGES,
    )
    image_shape: tuple = setting((), "Height, width, channels, if it leaves them open.")


def own_run(model_path, out_dir, settings):
    """A finished run around a model of the user's.

    Args:
        model_path: .keras file, or one of HDF5, which the run keeps as .keras.
        settings: JSON values, see runs.run.roles_from and extract.new_classifier.
    """
    model_path = pathlib.Path(model_path)
    if not model_path.exists():
        raise FileNotFoundError(f"There is no model {model_path}.")
    model = _read(model_path)
    content = model_path.read_bytes()
    with opened(
        out_dir,
        kind="classifier",
        extractor="classifier_ood.extract",
        settings=settings,
        fingerprints={"model": fingerprint(np.frombuffer(content, np.uint8))},
    ) as run:
        if not run.is_finished:
            with atomic_path(run.model_path) as temporary:
                if model_path.suffix == ".keras":
                    temporary.write_bytes(content)
                else:
                    model.save(temporary)
    return run


def _read(model_path):
    with quietly():  # not at the top: --help need not wait for Keras
        from ood_suite.training.stored_model import read_keras

    return read_keras(
        model_path, "Is it whole? If it needs classes of yours, save it as a functional model."
    )


def check(settings, model_path):
    """Opens the model and every data set before a folder is made; errors as of what is opened.

    Returns:
        The settings, with the range of pixels that was left open.
    """
    model = _read(model_path)
    from classifier_ood.keras_classifier import KerasClassifier

    def of(input_range):
        layer, shape = settings["features_layer"], settings["image_shape"]
        return KerasClassifier(model, layer, (), input_range, shape)

    classifier = of(settings["input_range"])
    classes = classifier.network.output["logits"].shape[1]
    if classifier.head_activation == "sigmoid":
        logging.warning(
            "The model ends in a sigmoid. Scores of logits (msp, energy, ...) read its outputs as "
            "one softmax over classes that exclude each other: with several labels an example, "
            "take scores of features, such as knn or mahalanobis."
        )
    elif classifier.head_activation not in ("linear", "softmax"):
        logging.warning(
            "The last Dense layer has the activation %s, which is left out: logits are what enters "
            "it.", classifier.head_activation,
        )  # fmt: skip
    for name, role in roles_from(settings).items():
        found = data.first_available(role.names, role.split, None, classifier.image_shape)
        labels = found.labels
        is_id = not name.endswith("ood") and not name.startswith("ood:")
        if is_id and labels.max() >= classes:
            raise ValueError(
                f"{role.names[0]} ({name}) has labels up to {labels.max()}, and the model "
                f"{classes} outputs: is it the data set that it was trained on?"
            )
        folders = getattr(found.images, "classes", None)
        if is_id and folders and len(folders) != classes:
            raise ValueError(
                f"{role.names[0]} ({name}) has {len(folders)} sub-folders with images "
                f"({', '.join(folders[:20])}), and the model {classes} outputs: the numbers of its "
                "classes would be others. Give every class a folder, or an npz with labels."
            )
        if name == "held_out" and labels.min() >= 0:
            raw = classifier if classifier.input_range == "0..255" else of("0..255")
            _compare(raw, classifier.input_range, role.names[0], found)
    return settings | {"input_range": classifier.input_range}


def _compare(raw, input_range, name, found):
    """Tells the accuracy on held-out images, and warns if range, framing or order seem to be others
    than those that the model was trained on.

    Args:
        raw: KerasClassifier whose model gets the pixels as they are: one program for all ranges.
        name: of the held-out images. found: those, an ImageSet.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(found))[:COMPARED])
    labels, images = found.labels[rows], found.images[rows]
    logits = _compare_ranges(raw, input_range, images, labels)
    accuracy = 100.0 * metrics.accuracy(logits, labels)
    logging.info("Accuracy on %d held-out images: %.1f%%.", len(rows), accuracy)
    titles = getattr(found.images, "classes", None)
    in_order = _compare_orders(logits.argmax(axis=1), labels, titles)
    if in_order and isinstance(found.images, FolderImages) and not names.parse(name).transform:
        squashed = FolderImages(found.images.folder, raw.image_shape, "squash")[rows]
        _compare_framings(logits, _logits(raw, input_range, squashed), labels, name)


def _logits(raw, input_range, images):
    from classifier_ood.keras_classifier import scaled

    images = to_shape(images, raw.image_shape)[0].astype(np.float32)
    return raw.predict(np.asarray(scaled(images, input_range)))["logits"]


def _losses(logits, labels):
    """Cross entropy in nats of each image."""
    return -np.take_along_axis(log_softmax(logits, axis=1), labels[:, None], axis=1)[:, 0]


def _compare_ranges(raw, own, images, labels):
    """Warns if the labels are much likelier with pixels of another range than `own`; returns the
    logits with those of `own`.
    """
    ranges = INPUT_RANGES if raw.image_shape[-1] == 3 else PIXEL_RANGES
    logits = {name: _logits(raw, name, images) for name in ranges}
    losses = {name: float(_losses(values, labels).mean()) for name, values in logits.items()}
    best = min(losses, key=losses.get)
    if losses[best] < 0.8 * losses[own]:
        logging.warning(
            "With --input_range=%s the loss on held-out images would be %.3g, and with %s it is "
            "%.3g: which pixels was the model trained on?", best, losses[best], own, losses[own],
        )  # fmt: skip
    return logits[own]


def _compare_framings(cut, squashed, labels, name):
    """Warns if labels are likelier, and more of them right, with logits of images that are
    squashed, as Keras's loader of folders does it, than with those of the default.
    """
    losses = _losses(cut, labels), _losses(squashed, labels)
    right = [metrics.accuracy(logits, labels) for logits in (cut, squashed)]
    test = stats.ttest_rel(*losses, alternative="greater")
    if right[1] > right[0] and test.pvalue < CHANCE:
        logging.warning(
            "With %s:squash the loss on held-out images would be %.3g, and cut out of the middle "
            "it is %.3g: was the model trained on squashed images, as image_dataset_from_directory "
            "gives them? Then put :squash behind every folder.",
            name, losses[1].mean(), losses[0].mean(),
        )  # fmt: skip


def _compare_orders(predicted, labels, titles):
    """Warns if the model's classes seem to be in another order than the labels': the order that
    fits one half of the images best must fit the other half better. Returns whether it does not.

    Args:
        titles: names of the labels where they are sub-folders, else None.
    """
    classes = np.union1d(predicted, labels)  # at most two an image, of however many
    given, wanted = (np.searchsorted(classes, part) for part in (predicted, labels))
    one, other = halves(len(labels))
    table = np.zeros((len(classes), len(classes)))
    np.add.at(table, (given[one], wanted[one]), 1.0)
    table += 1e-6 * np.eye(len(classes))  # the order as it is, where nothing speaks against it
    _, order = optimize.linear_sum_assignment(table, maximize=True)
    right, moved = (part[other] == wanted[other] for part in (given, order[given]))
    won, lost = int((moved & ~right).sum()), int((right & ~moved).sum())
    if not won or stats.binomtest(won, won + lost, alternative="greater").pvalue > CHANCE:
        return True
    pairs = [(classes[i], classes[k]) for i, k in enumerate(order) if i != k]
    pairs = [f"{i} for {titles[k] if titles else k}" for i, k in pairs]
    advice = "Number the labels in the model's order."
    if titles:
        advice = "Sub-folders are numbered as they are sorted: name them in the model's order "
        advice += "(00_cat, 01_dog, ...), or give npz files with labels."
    logging.warning(
        "The model's classes seem to be in another order than the labels: the accuracy is %.1f%%, "
        "and it would be %.1f%% with its outputs %s. %s",
        100.0 * right.mean(), 100.0 * moved.mean(), ", ".join(pairs[:10]), advice,
    )  # fmt: skip
    return False


def check_folders(paths):
    """Refuses a missing path (FileNotFoundError), and folders that number their classes
    differently (ValueError).
    """
    paths = [names.parse(path).bare for path in filter(None, paths)]
    for path in paths:
        is_path = "/" in path and not path.startswith("tfds:") or path.endswith(".npz")
        if is_path and not pathlib.Path(path).exists():
            raise FileNotFoundError(f"There is no file or folder {path}.")
    folders = [path for path in paths if pathlib.Path(path).is_dir()]
    folders = [path for path in folders if kind_of(pathlib.Path(path)) == "folder"]
    classes = {path: FolderImages(path, (1, 1, 1)).classes for path in folders}
    for path in folders[1:]:
        if classes[path] != classes[folders[0]]:
            raise ValueError(
                f"{folders[0]} and {path} must have the same sub-folders, which are the classes. "
                f"Received: {classes[folders[0]]} and {classes[path]}."
            )


def _absolute(value):
    """Data sets, of which paths that there are begin at the root, so that the run can be evaluated
    from anywhere.
    """
    if isinstance(value, tuple):
        return [_absolute(part) for part in value]
    bare = names.parse(value).bare if value else ""
    is_path = bare and pathlib.Path(bare).exists()
    return str(pathlib.Path(bare).resolve()) + value[len(bare) :] if is_path else value


def main(_):
    if not (FLAGS.id_val and FLAGS.id_test):
        raise ValueError(
            "A model needs --id_val (for thresholds) and --id_test; scores that learn also need "
            "--id_train."
        )
    if FLAGS.id_val == FLAGS.id_train:
        raise ValueError(
            f"--id_train and --id_val are both {FLAGS.id_val}: a threshold of images that the "
            "model was trained on promises too much. Give held-out ones as --id_val."
        )
    check_folders([FLAGS.id_train, FLAGS.id_val, FLAGS.id_test])
    own = OwnModel(**cli.overrides(OwnModel))
    name = pathlib.Path(FLAGS.model).stem
    settings = {
        key: _absolute(value) if key.startswith(("id_", "ood_")) else value
        for key, value in dataclasses.asdict(own).items()
    } | {
        "exp": name, "id_dataset": None, "repeat_id": 0, "ood_validation_split": "val",
        "image_shape": cli.sizes("image_shape") or None,
    }  # fmt: skip
    settings = check(settings, FLAGS.model)
    own_run(FLAGS.model, FLAGS.out_dir or f"output/classifier_ood/{name}", settings)


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "A .keras file, or an HDF5 one.")
    cli.define_settings(OwnModel)
    flags.DEFINE_string("out_dir", None, "Run folder; default: output/classifier_ood/<its name>.")
    flags.mark_flag_as_required("model")
    cli.run_app(main)
