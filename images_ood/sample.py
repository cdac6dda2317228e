"""Draws images from a trained PixelCNN++, and shows the bits that each pixel of given images costs.

    python -m images_ood.sample --run=output/images_ood/fashion_small/reg0_mr0 --num_samples=16
    python -m images_ood.sample --run=... --dataset=mnist --num_images=8

A model of classes is asked for the marginal: labels are not looked at, as in an evaluation.
Writes samples.png or bits_<dataset>_<split>.png into the run's report/ (or --out).
"""

import pathlib

import numpy as np
from absl import flags, logging

from ood_suite import data
from ood_suite.data.pictures import save_image_grid
from ood_suite.data.transforms import to_shape
from ood_suite.files import RunError, atomic_path
from ood_suite.optional import quietly
from ood_suite.runs import cli
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS
BATCH = 100  # images whose bits are computed at once


def main(_):
    run = Run.load(cli.run_folder())
    if run.config["extractor"] != "images_ood.extract":
        raise RunError(f"{run.folder} is no density of images. Received: a run of kind {run.kind}.")
    run.require_finished()
    with quietly():  # not at the top: --help need not wait for Keras
        from images_ood import sampling
        from images_ood.extract import load_model, log_prob_map
        from images_ood.pixelcnn import bits_per_dim
        from ood_suite.evaluation import figures

    model = load_model(run)
    path = pathlib.Path(FLAGS.out or run.folder / "report" / "samples.png")
    if FLAGS.dataset:
        shape = model.options["image_shape"]
        found = data.load(FLAGS.dataset, FLAGS.split, cli.data_dir(), shape)
        path = path if FLAGS.out else path.with_name(f"bits_{found.name}_{found.split}.png")
        images, _ = to_shape(found.images[: FLAGS.num_images], shape)
        nats = log_prob_map(model, images, BATCH)
        bits, per_dim = -nats / np.log(2.0), bits_per_dim(nats.sum(axis=(1, 2)), shape)
        for i, value in enumerate(per_dim):
            logging.info("image %d: %.3f bits per dimension", i, value)
        with atomic_path(path) as temporary:
            title = f"{found.name}: {per_dim.mean():.2f} bits per dimension on average"
            figures.pixel_maps(images, bits, title).savefig(temporary)
    else:
        classes = model.options["num_classes"]
        labels = np.arange(FLAGS.num_samples) % classes if classes else None
        save_image_grid(path, sampling.draw(model, FLAGS.num_samples, FLAGS.seed, labels))
    logging.info("Wrote %s.", path)


if __name__ == "__main__":
    cli.define_run("Run folder of a finished training.", checkpoint=False)
    flags.DEFINE_integer("num_samples", 16, "Images to draw.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the samples.")
    flags.DEFINE_string(
        "dataset", None, "Show the bits per pixel of this data set instead of sampling."
    )
    flags.DEFINE_enum("split", "test", data.SPLITS, "Split of --dataset.")
    flags.DEFINE_integer("num_images", 8, "Images of --dataset to show.", lower_bound=1)
    cli.define_data_dir("image_data")
    flags.DEFINE_string("out", None, "Path of the PNG; default: in the run's report/.")
    cli.run_app(main, continues=False)
