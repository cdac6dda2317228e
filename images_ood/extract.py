"""Writes what a trained PixelCNN++ says of data sets: log-probabilities, per-pixel maps and PNG
code lengths.

    python -m images_ood.extract --run=output/images_ood/fashion_small/reg0_mr0 --dataset=mnist
    --split=test

One npz a data set in the run's outputs/ (see ood_suite.outputs), batch by batch: the same command
goes on where a killed one stopped. `ood_suite.eval` calls `extract` by itself.
"""

import io

import numpy as np
from absl import flags, logging
from scipy.special import logsumexp

from ood_suite import data
from ood_suite.data.transforms import to_shape
from ood_suite.files import RunError
from ood_suite.runs import extraction
from ood_suite.runs.cli import run_app
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS
CHUNK_BYTES = 2**20  # of images between two moves of the progress bar
KEPT_MODELS = 16
_MODELS = {}  # evaluation asks for several data sets of several runs in turn


def extract(run, names, split, data_dir=None, maps=False, batch_size=100, shard=None):
    """Outputs of a finished run on one data set, from its file if that is of the same model and
    data.

    Args:
        run: Run whose training is finished.
        names: data sets in order of preference; the first that is there is taken.
        split: "train", "val" or "test".
        maps: also keep the per-pixel map and the images.
        shard: see extraction.Extraction.

    Returns:
        Outputs with log_prob, code_length, labels, and with `maps` log_prob_map and images.

    Raises:
        RunError: an unfinished run, or a model file that cannot be read.
    """
    run.require_finished()
    model = load_model(run)
    shape = model.options["image_shape"]
    found = data.first_available(names, split, data_dir, shape)
    job = extraction.Extraction(
        run, found, split, found.images,
        f"python -m images_ood.extract --run={run.folder} --dataset={found.name} --split={split}",
        extra={"dtype": model.dtype_policy.name},
        prepare=lambda images: to_shape(images, shape),
        chunk_bytes=CHUNK_BYTES,
        batch_size=batch_size,
        shard=shard,
    )  # fmt: skip

    def main_part(images):
        found = log_prob_map(model, images, batch_size)
        arrays = {
            "log_prob": found.sum(axis=(1, 2), dtype=np.float64),
            "code_length": np.array([png_bits(image) for image in images]),
        }
        return arrays | ({"log_prob_map": found, "images": images} if maps else {})

    with_maps = None if maps else job.on_file("maps")
    return with_maps or job.part("maps" if maps else None, main_part)


def load_model(run):
    """The run's PixelCNN, with averaged weights."""
    import keras

    from images_ood import pixelcnn  # noqa: F401 (registers the class)

    key = (str(run.model_path), run.model_path.stat().st_mtime_ns)
    if key not in _MODELS:
        if len(_MODELS) >= KEPT_MODELS:
            _MODELS.clear()
        try:
            _MODELS[key] = keras.saving.load_model(run.model_path, compile=False, safe_mode=True)
        except Exception as error:
            raise RunError(
                f"The model {run.model_path} cannot be read ({error}). Delete it and repeat the "
                f"training command: it "
                "continues from the last checkpoint."
            ) from error
    return _MODELS[key]


def png_bits(image):
    """Bits of the image (height, width, channels; uint8) as an optimised PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        buffer, "PNG", optimize=True
    )
    return 8.0 * buffer.tell()


def log_prob_map(model, images, batch_size):
    """float32 (n, height, width) nats."""
    if model.options["num_classes"]:
        return _marginal_map(model, images, batch_size)
    return model.predict(images, batch_size=batch_size, verbose=0)


def _marginal_map(model, images, batch_size):
    """Per-pixel map of p(x) = mean over classes of p(x | class): no label is looked at.

    With P_i(c) = log p(x_1..x_i | c), the marginal of a prefix is M_i = logsumexp_c P_i(c) - log C,
    and pixel i counts M_i - M_{i-1}, so that the map still sums to log p(x).
    """
    classes = model.options["num_classes"]
    prefixes = []
    for label in range(classes):
        labels = np.full(len(images), label, np.int32)
        conditional = model.predict([images, labels], batch_size=batch_size, verbose=0)
        flat = conditional.reshape(len(images), -1).astype(np.float64)
        prefixes.append(np.cumsum(flat, axis=1))
    marginal = logsumexp(prefixes, axis=0) - np.log(classes)
    steps = np.diff(marginal, axis=1, prepend=0.0)
    return steps.reshape(conditional.shape).astype(np.float32)


def main(_):
    run = Run.load(FLAGS.run)
    settings = run.settings
    if FLAGS.dataset:
        wanted = [(tuple(FLAGS.dataset), FLAGS.split)]
    else:
        wanted = [((settings["id_dataset"],), "val"), ((settings["id_dataset"],), "test")]
        wanted += [(tuple(settings["ood_validation"]), settings["ood_validation_split"])]
        wanted += [((name,), "test") for name in settings["ood_test"]]
    common = {"data_dir": FLAGS.data_dir, "maps": FLAGS.maps, "batch_size": FLAGS.batch_size}
    listed = [{"names": names, "split": split} | common for names, split in wanted]
    for outputs in extraction.compute("images_ood.extract:extract", run, listed):
        logging.info(
            "%s (%s): %d images, mean log p %.2f nats%s",
            outputs.meta["dataset"], outputs.meta["split"], len(outputs), outputs.log_prob.mean(),
            f" [{outputs.meta['note']}]" if outputs.meta["note"] else "",
        )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of a finished training.")
    flags.DEFINE_list(
        "dataset",
        [],
        "Data set, or several in order of preference; default: all of the experiment.",
    )
    flags.DEFINE_enum("split", "test", data.SPLITS, "Split of --dataset.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_bool("maps", True, "Also keep per-pixel maps and images (4 + 1 bytes a pixel).")
    flags.DEFINE_integer("batch_size", 100, "Images per step.", lower_bound=1)
    extraction.define_flags()
    flags.adopt_module_key_flags(extraction)
    flags.mark_flag_as_required("run")
    run_app(main)
