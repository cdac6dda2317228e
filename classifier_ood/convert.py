"""Makes a run of a PyTorch checkpoint, without PyTorch: its weights in our network, ready to use.

    python -m classifier_ood.convert --checkpoint=densenet.pth.tar --backbone=densenet --exp=cifar10
    python -m classifier_ood.convert --checkpoint=resnet50-11ad3fa6.pth --backbone=resnet50
    python -m classifier_ood.convert --checkpoint=epoch_99.state --normalised=cifar --prune_rate=0.8

The architecture (depth, width, growth, classes, BatchNorm with or without gamma and beta) is read
from the shapes in the file. Every entry must find its place and every weight its entry.
"""

import dataclasses
import hashlib
import pathlib

import numpy as np
from absl import flags, logging

from classifier_ood import configs
from ood_suite.files import atomic_path, fingerprint
from ood_suite.optional import quietly
from ood_suite.runs import cli
from ood_suite.runs.run import opened
from ood_suite.runs.settings import known_name

FLAGS = flags.FLAGS
CIFAR = ("cifar10", (32, 32), configs.CIFAR_MEAN, configs.CIFAR_STD)
IMAGENET = ("imagenet", (224, 224), configs.IMAGENET_MEAN, configs.IMAGENET_STD)
# Backbone or network of torchvision -> experiment, height and width, mean and standard deviation,
# where no flags say otherwise.
BACKBONES = {
    "densenet": CIFAR,
    "densenet121": IMAGENET,
    "densenet_imagenet": IMAGENET,
    "mobilenet_v2": IMAGENET,
    "resnet101": IMAGENET,
    "resnet18": IMAGENET,
    "resnet34": IMAGENET,
    "resnet50": IMAGENET,
    "resnet_cifar": CIFAR,
    "resnet_imagenet": IMAGENET,
    "vit": IMAGENET,
    "vit_b_16": IMAGENET,
    "wide_resnet": CIFAR,
}


def main(_):
    asked = known_name(BACKBONES, FLAGS.backbone, "backbone")
    exp = known_name(configs.EXPERIMENTS, FLAGS.exp, "experiment") if FLAGS.exp else None
    default_exp, usual, *defaults = BACKBONES[asked]
    normalisation = _normalisation(defaults)
    size = tuple(cli.sizes("image_size")) or usual
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"--image_size must be height,width. Received: {FLAGS.image_size}.")
    with quietly():  # not at the top: --help need not wait for Keras
        from classifier_ood import conversion, models
        from classifier_ood.torch_files import read_state

    state = conversion.masked(read_state(FLAGS.checkpoint), FLAGS.prune_rate)
    content = pathlib.Path(FLAGS.checkpoint).read_bytes()
    exp = exp or conversion.experiment_of(default_exp, hashlib.sha256(content).hexdigest())
    model, options = conversion.convert(state, asked, size, normalisation)
    backbone, _ = conversion.TORCHVISION.get(asked, (asked, {}))
    experiment = dataclasses.replace(configs.EXPERIMENTS[exp], backbone=backbone, options=options)
    folder = pathlib.Path(FLAGS.out_dir) / exp / (FLAGS.name or f"converted_{model.name}")
    with opened(
        folder,
        kind="classifier",
        extractor="classifier_ood.extract",
        settings=dataclasses.asdict(experiment)
        | {"exp": exp, "checkpoint": str(FLAGS.checkpoint), "repeat_id": 0}
        | ({} if FLAGS.prune_rate is None else {"prune_rate": FLAGS.prune_rate})
        | ({} if size == usual else {"image_size": size}),
        fingerprints={"checkpoint": fingerprint(np.frombuffer(content, np.uint8))},
    ) as run:
        if not run.is_finished:
            with atomic_path(run.model_path) as temporary:
                model.save(temporary)
    count, num_classes = models.count_parameters(model), model.output["logits"].shape[1]
    logging.info(
        "%s: %d trainable parameters, %d classes, data sets of %s, options %s.", model.name, count,
        num_classes, exp, options,
    )  # fmt: skip


def _normalisation(defaults):
    """{"mean", "std"} in pixels, of --normalised, or of --mean and --std."""
    if FLAGS.normalised and (FLAGS.mean or FLAGS.std):
        raise ValueError("--normalised has mean and deviation: leave out --mean and --std.")
    if FLAGS.normalised:
        name = known_name(configs.NORMALISATIONS, FLAGS.normalised, "normalisation")
        defaults = configs.NORMALISATIONS[name]
    return {
        name: cli.sizes(name, float) or default
        for name, default in zip(("mean", "std"), defaults, strict=True)
    }


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "File: .pth, .pth.tar, .pt, .state or .safetensors.")
    flags.DEFINE_string(
        "backbone", "densenet", f"Architecture of the checkpoint: {', '.join(BACKBONES)}."
    )
    flags.DEFINE_string(
        "exp", None,
        f"Data sets of: {', '.join(configs.EXPERIMENTS)}. Default: cifar10, or imagenet, or "
        "imagenet_v2 for files of torchvision that are known to be of IMAGENET1K_V2.",
    )  # fmt: skip
    flags.DEFINE_string(
        "normalised", None,
        f"Whose mean and deviation it was trained with: {', '.join(configs.NORMALISATIONS)}. "
        "Default: cifar, or imagenet.",
    )  # fmt: skip
    flags.DEFINE_float(
        "prune_rate", None, "Share that the masks of a checkpoint with scores keep (UMAP).", 0, 1
    )
    flags.DEFINE_list(
        "mean", None, "Mean per channel in pixels 0..255; default: CIFAR's or ImageNet's."
    )
    flags.DEFINE_list("std", None, "Standard deviation per channel in pixels 0..255.")
    flags.DEFINE_list("image_size", None, "Height and width; default: 32,32 or 224,224.")
    cli.define_name(None, "Name of the run; default: converted_<network>.")
    flags.DEFINE_string("out_dir", "output/classifier_ood", "Where the experiments' folders go.")
    flags.mark_flag_as_required("checkpoint")
    cli.run_app(main)
