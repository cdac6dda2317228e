"""Makes a run of a Keras model of your own, which is copied and stays as it is.

    python -m classifier_ood.own_model --model=mine.keras --id_val=val/ --id_test=test/ --ood_far=o/
    python -m ood_suite.eval --run=output/classifier_ood/mine

The model is a functional or sequential classifier that ends in a Dense layer, perhaps with a
softmax in it or after it. Data sets are names of the catalogue, npz files, folders of images, or
tfds:NAME@SPLIT.
"""

import pathlib

import numpy as np
from absl import flags

from ood_suite.files import atomic_path, fingerprint
from ood_suite.runs import cli
from ood_suite.runs.run import opened

FLAGS = flags.FLAGS
INPUT_RANGES = ("0..255", "0..1", "-1..1")


def own_run(model_path, out_dir, settings):
    """A finished run around a model of the user's.

    Args:
        model_path: .keras file. settings: JSON values, see runs.run.roles_from and
            extract.new_classifier.
    """
    model_path = pathlib.Path(model_path)
    if not model_path.exists():
        raise FileNotFoundError(f"There is no model {model_path}.")
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


def _settings():
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
    if not (FLAGS.id_val and FLAGS.id_test):
        raise ValueError(
            "A model needs --id_val (for thresholds) and --id_test; scores that learn also need "
            "--id_train."
        )
    check_folders([FLAGS.id_train, FLAGS.id_val, FLAGS.id_test])
    out_dir = FLAGS.out_dir or f"output/classifier_ood/{pathlib.Path(FLAGS.model).stem}"
    own_run(FLAGS.model, out_dir, _settings())


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "A .keras file.")
    flags.DEFINE_string("features_layer", None, "Its features; default: what enters the head.")
    flags.DEFINE_enum("input_range", "0..255", INPUT_RANGES, "Pixels that it was trained on.")
    flags.DEFINE_list("image_shape", None, "Height, width, channels, if it leaves them open.")
    flags.DEFINE_string("id_train", None, "Training data: npz, folder, tfds:NAME[@SPLIT].")
    flags.DEFINE_string("id_val", None, "Held-out ID data for thresholds.")
    flags.DEFINE_string("id_test", None, "ID data of the result.")
    flags.DEFINE_list("ood_near", [], "OOD data of the result that are near to the ID data.")
    flags.DEFINE_list("ood_far", [], "OOD data of the result that are far from the ID data.")
    flags.DEFINE_list("ood_validation", [], "OOD data to tune on, other than those of the result.")
    flags.DEFINE_string("out_dir", None, "Run folder; default: output/classifier_ood/<its name>.")
    flags.mark_flag_as_required("model")
    cli.run_app(main)
