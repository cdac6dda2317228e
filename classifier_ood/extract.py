"""Writes what a trained classifier says of data sets: features, logits, and on demand ODIN's
perturbed logits and inner layers.

    python -m classifier_ood.extract --run=output/classifier_ood/fashion/convnet

A model of your own becomes a run of its own, which `ood_suite.eval` then evaluates:

    python -m classifier_ood.extract --model=mine.keras --features_layer=avg_pool
    --id_train=train_images/ --id_test=test.npz --ood_far=other_images/ --out_dir=output/mine

Data sets are names of the catalogue, npz files, folders of images, or tfds:NAME@SPLIT. Batches are
written as they come, so that memory does not grow with the data, and the same command goes on where
a killed one stopped. `ood_suite.eval` calls `extract` by itself.
"""

import functools
import pathlib

import numpy as np
from absl import flags, logging

from ood_suite import data
from ood_suite.data.transforms import to_shape
from ood_suite.files import RunError, atomic_path, fingerprint, locked
from ood_suite.outputs import Outputs
from ood_suite.runs import extraction
from ood_suite.runs.cli import run_app
from ood_suite.runs.extraction import Extraction, example_hashes, joined, short
from ood_suite.runs.run import Run
from ood_suite.training import input_gradients

FLAGS = flags.FLAGS
DEFAULT_ODIN = ((1000.0, 0.0014),)
KEPT_VIEWS = 12
_VIEWS = {}  # evaluation asks for several data sets of several runs in turn


def extract(
    run, names, split, data_dir=None, odin=(), inner_layers=(), mahalanobis_epsilons=(),
    batch_size=100, rule="cross_entropy", shard=None,
):  # fmt: skip
    """Outputs of a finished run on one data set; what is on file of the same model and data is not
    computed again.

    Args:
        run: Run whose training is finished.
        names: data sets in order of preference; the first that is there is taken.
        split: "train", "val" or "test".
        odin: pairs (temperature, epsilon) for `logits_perturbed`.
        inner_layers: names of layers for `layer_features`.
        mahalanobis_epsilons: for `layer_features` of those layers at perturbed inputs; their
            Gaussians are fitted to the training split.
        rule: of ODIN's perturbation, see input_gradients.odin.
        shard: see extraction.Extraction.

    Raises:
        RunError: an unfinished run, or a model file that cannot be read.
    """
    run.require_finished()
    view = load_view(run, tuple(inner_layers))
    found = data.first_available(names, split, data_dir, view.image_shape)
    job = Extraction(
        run, found, split, found.images,
        f"python -m classifier_ood.extract --run={run.folder} --dataset={found.name} "
        f"--split={split}",
        identity={
            "features_layer": run.settings.get("features_layer") or "input of the last layer"
        },
        prepare=lambda images: to_shape(images, view.image_shape),
        batch_size=batch_size,
        shard=shard,
    )  # fmt: skip

    def predict(images):
        return view.network.predict(images, batch_size=batch_size, verbose=0)

    def main_part(images):
        found = predict(images)
        arrays = {name: found[name] for name in ("features", "logits")}
        return arrays | {"example_hashes": example_hashes(images)}

    def layers(images):
        return {k: v for k, v in predict(images).items() if k.startswith("layer_features/")}

    head = {"head_kernel": view.head_kernel, "head_bias": view.head_bias}
    parts = [job.part(None, main_part, head if view.head_kernel is not None else {})]
    if inner_layers:
        parts.append(job.part(f"layers_{short(inner_layers)}", layers))
    for temperature in dict.fromkeys(t for t, _ in odin):
        epsilons = sorted({e for t, e in odin if t == temperature})
        part = f"odin_T{temperature:g}_{short(epsilons)}"
        part += "" if rule == "cross_entropy" else f"_{rule}"
        parts.append(job.part(part, _odin(view, temperature, epsilons, rule)))
    if inner_layers and any(mahalanobis_epsilons):
        names, split = data_sets(run.settings)["training"]
        training = data.first_available(names, split, data_dir, view.image_shape)
        # Before the part's lock is held: it may have to write the training outputs.
        extract(run, names, split, data_dir, (), inner_layers, (), batch_size)
        part = f"mahalanobis_{short([*inner_layers, *mahalanobis_epsilons])}"
        gaussians = functools.partial(_gaussians, run, inner_layers, data_dir, batch_size)
        key = ("mahalanobis", training.fingerprint, *mahalanobis_epsilons)
        function = _mahalanobis(view, gaussians, mahalanobis_epsilons, key)
        parts.append(job.part(part, function, depends_on=training.fingerprint))
    return joined(parts)


def hashes(run, names, split, data_dir=None):
    """Outputs with nothing but labels and hashes of the examples, without running the model; None
    for images that are files, because all would have to be read.
    """
    shape = load_view(run).image_shape
    found = data.first_available(names, split, data_dir, shape)
    if not isinstance(found.images, np.ndarray):
        return None
    images, _ = to_shape(found.images, shape)
    meta = {"dataset": found.name, "split": split, "fingerprint": found.fingerprint}
    return Outputs(labels=found.labels, example_hashes=example_hashes(images), meta=meta)


def _odin(view, temperature, epsilons, rule):
    """function(images) -> {"logits_perturbed/<key>": array}; compiled once per view."""

    key = (rule, temperature, *epsilons)
    if key not in view.compiled:
        view.compiled[key] = input_gradients.odin(view.network, temperature, epsilons, rule)
    function = view.compiled[key]
    return lambda images: {f"logits_perturbed/{k}": v for k, v in function(images).items()}


def _mahalanobis(view, gaussians, epsilons, key):
    """function(images) -> {"layer_features/<layer>,epsilon=<e>": array}; the Gaussians are fitted,
    and the gradients compiled, when it is first called.
    """

    def function(images):
        if key not in view.compiled:
            kept = [epsilon for epsilon in epsilons if epsilon]
            view.compiled[key] = input_gradients.mahalanobis(view.network, gaussians(), kept)
        return {f"layer_features/{k}": v for k, v in view.compiled[key](images).items()}

    return function


def _gaussians(run, inner_layers, data_dir, batch_size):
    """{layer: (means, whitening)} of the training split."""
    from ood_suite.scores.gaussian import TiedGaussian

    names, split = data_sets(run.settings)["training"]
    training = extract(run, names, split, data_dir, (), inner_layers, (), batch_size)
    found = {}
    for name in inner_layers:
        fitted = TiedGaussian().fit(training.layer_features[name], training.labels)
        found[name] = fitted.means_, fitted.whitening_
    return found


def data_sets(settings):
    """{role: (data sets in order of preference, split)} of a run.

    Roles: "training", "held_out", "id_test", "validation_ood" (both may be absent), and
    "ood:<name>" for each OOD test set.
    """
    own = settings["id_dataset"]
    roles = {
        role: ((settings.get(key) or own,), split)
        for role, key, split in (
            ("training", "id_train", "train"), ("held_out", "id_val", "val"),
            ("id_test", "id_test", "test"),
        )
        if settings.get(key) or own
    }  # fmt: skip
    if settings["ood_validation"]:
        split = settings["ood_validation_split"]
        roles["validation_ood"] = tuple(settings["ood_validation"]), split
    for name in [*settings["ood_near"], *settings["ood_far"]]:
        roles[f"ood:{name}"] = (name,), "test"
    return roles


def load_view(run, inner_layers=()):
    """The run's model as a KerasClassifier; loaded models are kept."""
    key = (str(run.model_path), run.model_path.stat().st_mtime_ns, inner_layers)
    if key not in _VIEWS:
        if len(_VIEWS) >= KEPT_VIEWS:
            _VIEWS.clear()
        _VIEWS[key] = new_view(run, inner_layers)
    return _VIEWS[key]


def new_view(run, inner_layers=()):
    """The run's model as a KerasClassifier of its own; RunError if it cannot be read."""
    import keras

    from classifier_ood.keras_classifier import KerasClassifier

    try:
        model = keras.saving.load_model(run.model_path, compile=False, safe_mode=True)
    except Exception as error:
        raise RunError(
            f"The model {run.model_path} cannot be read ({error}). If it needs classes of yours, "
            "save it as a plain functional model."
        ) from error
    settings = run.settings
    return KerasClassifier(
        model,
        settings.get("features_layer"),
        inner_layers,
        settings.get("input_range", "0..255"),
        settings.get("image_shape"),
    )


def own_run(model_path, out_dir, settings):
    """A finished run around a model of the user's, which is copied and stays as it is.

    Args:
        model_path: .keras file. settings: what `data_sets` and `load_view` read.
    """
    model_path = pathlib.Path(model_path)
    if not model_path.exists():
        raise FileNotFoundError(f"There is no model {model_path}.")
    content = model_path.read_bytes()
    with locked(out_dir):
        prints = {"model": fingerprint(np.frombuffer(content, np.uint8))}
        run = Run.open(out_dir, settings, "classifier_ood.extract", prints)
        if not run.is_finished:
            with atomic_path(run.model_path) as temporary:
                temporary.write_bytes(content)
    return run


def check_folders(paths):
    """FileNotFoundError if one of the paths is missing, ValueError if those that are folders number
    their classes differently.
    """
    from ood_suite.data.streams import FolderImages

    for path in filter(None, paths):
        is_path = "/" in path and not path.startswith("tfds:") or path.endswith(".npz")
        if is_path and not pathlib.Path(path).exists():
            raise FileNotFoundError(f"There is no file or folder {path}.")
    folders = [path for path in paths if path and pathlib.Path(path).is_dir()]
    classes = {path: FolderImages(path, (1, 1, 1)).classes for path in folders}
    for path in folders[1:]:
        if classes[path] != classes[folders[0]]:
            raise ValueError(
                f"{folders[0]} and {path} must have the same sub-folders, which are the classes. "
                f"Received: {classes[folders[0]]} and {classes[path]}."
            )


def _own_settings():
    return {
        "exp": pathlib.Path(FLAGS.model).stem,
        "id_dataset": None,
        "id_train": FLAGS.id_train,
        "id_val": FLAGS.id_val,
        "id_test": FLAGS.id_test,
        "ood_near": FLAGS.ood_near,
        "ood_far": FLAGS.ood_far,
        "ood_validation": FLAGS.ood_validation,
        "ood_validation_split": "val",
        "features_layer": FLAGS.features_layer,
        "input_range": FLAGS.input_range,
        "image_shape": [int(n) for n in FLAGS.image_shape] if FLAGS.image_shape else None,
        "repeat_id": 0,
    }


def main(_):
    if (FLAGS.run is None) == (FLAGS.model is None):
        raise ValueError("Give either --run (a run of ours) or --model (a .keras file of yours).")
    if FLAGS.model is not None:
        if not (FLAGS.id_val and FLAGS.id_test):
            raise ValueError(
                "--model needs --id_val (for thresholds) and --id_test; scores that learn also "
                "need --id_train."
            )
        check_folders([FLAGS.id_train, FLAGS.id_val, FLAGS.id_test])
        run = own_run(
            FLAGS.model,
            FLAGS.out_dir or f"output/classifier_ood/{pathlib.Path(FLAGS.model).stem}",
            _own_settings(),
        )
    else:
        run = Run.load(FLAGS.run, FLAGS.checkpoint)
    odin = [(float(t), float(e)) for t in FLAGS.odin_temperature for e in FLAGS.odin_epsilon]
    roles = data_sets(run.settings)
    if FLAGS.dataset:
        roles = {"asked for": (tuple(FLAGS.dataset), FLAGS.split)}
    common = {
        "data_dir": FLAGS.data_dir, "inner_layers": tuple(FLAGS.inner_layers),
        "batch_size": FLAGS.batch_size,
    }  # fmt: skip
    listed = [
        {"names": names, "split": split, "odin": () if role == "training" else odin} | common
        for role, (names, split) in roles.items()
    ]
    computed = extraction.compute("classifier_ood.extract:extract", run, listed)
    for role, outputs in zip(roles, computed, strict=True):
        logging.info(
            "%s: %s (%s), %d images, features %s%s", role, outputs.meta["dataset"],
            outputs.meta["split"], len(outputs), outputs.features.shape,
            f" [{outputs.meta['note']}]" if outputs.meta["note"] else "",
        )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of a finished training or conversion.")
    flags.DEFINE_string("checkpoint", "last", "Model of --run: last, best, first, epoch_<n>.")
    flags.DEFINE_string("model", None, "A .keras file of yours, in place of --run.")
    flags.DEFINE_string("features_layer", None, "Layer of --model; default: what enters the head.")
    flags.DEFINE_list("inner_layers", [], "Layers for scores of several layers.")
    flags.DEFINE_enum("input_range", "0..255", ["0..255", "0..1", "-1..1"], "Pixels of --model.")
    flags.DEFINE_list("image_shape", None, "Height, width, channels, if --model leaves them open.")
    flags.DEFINE_string("id_train", None, "Training data: npz, folder, tfds:NAME[@SPLIT].")
    flags.DEFINE_string("id_val", None, "Held-out ID data for thresholds.")
    flags.DEFINE_string("id_test", None, "ID data of the result.")
    flags.DEFINE_list("ood_near", [], "OOD data of the result that are near to the ID data.")
    flags.DEFINE_list("ood_far", [], "OOD data of the result that are far from the ID data.")
    flags.DEFINE_list("ood_validation", [], "OOD data to tune on, other than those of the result.")
    flags.DEFINE_string(
        "out_dir", None, "Run folder for --model; default: output/classifier_ood/<its name>."
    )
    flags.DEFINE_list("dataset", [], "Only this data set (several: in order of preference).")
    flags.DEFINE_enum("split", "test", data.SPLITS, "Split of --dataset.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_list("odin_temperature", ["1000"], "Temperatures of ODIN.")
    flags.DEFINE_list("odin_epsilon", [], "Step sizes of ODIN in pixels / 255; none: no ODIN.")
    flags.DEFINE_integer("batch_size", 100, "Images per step.", lower_bound=1)
    extraction.define_flags()
    flags.adopt_module_key_flags(extraction)
    run_app(main)
