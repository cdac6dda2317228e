"""Makes a run of a PyTorch checkpoint, without PyTorch: its weights in our network, ready to use.

    python -m classifier_ood.convert --checkpoint=densenet.pth.tar --backbone=densenet --exp=cifar10
    python -m classifier_ood.convert --checkpoint=r50.pth --backbone=resnet_imagenet --exp=imagenet

The architecture (depth, width, growth, classes, BatchNorm with or without gamma and beta) is read
from the shapes in the file. Every entry must find its place and every weight its entry.
"""

import dataclasses
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
CIFAR = ((32, 32), configs.CIFAR_MEAN, configs.CIFAR_STD)
IMAGENET = ((224, 224), configs.IMAGENET_MEAN, configs.IMAGENET_STD)
# Backbone -> height and width, mean and standard deviation, where no flags say otherwise.
BACKBONES = {
    "densenet": CIFAR,
    "densenet_imagenet": IMAGENET,
    "mobilenet_v2": IMAGENET,
    "resnet_cifar": CIFAR,
    "resnet_imagenet": IMAGENET,
    "vit": IMAGENET,
    "wide_resnet": CIFAR,
}


def main(_):
    FLAGS["exp"].value = known_name(configs.EXPERIMENTS, FLAGS.exp, "experiment")
    experiment = configs.EXPERIMENTS[FLAGS.exp]
    with quietly():  # not at the top: --help need not wait for Keras
        from classifier_ood import conversion, models
        from classifier_ood.torch_files import read_state

    state = read_state(FLAGS.checkpoint)
    default_size, *defaults = BACKBONES[FLAGS.backbone]
    defaults = configs.NORMALISATIONS.get(FLAGS.normalised, defaults)
    normalisation = {
        name: [float(v) for v in FLAGS[name].value] if FLAGS[name].value else default
        for name, default in zip(("mean", "std"), defaults, strict=True)
    }
    size = tuple(int(value) for value in FLAGS.image_size or default_size)
    model, options = conversion.convert(state, FLAGS.backbone, size, normalisation)
    experiment = dataclasses.replace(experiment, backbone=FLAGS.backbone, options=options)
    content = fingerprint(np.frombuffer(pathlib.Path(FLAGS.checkpoint).read_bytes(), np.uint8))
    folder = pathlib.Path(FLAGS.out_dir) / FLAGS.exp / (FLAGS.name or f"converted_{model.name}")
    with opened(
        folder,
        kind="classifier",
        extractor="classifier_ood.extract",
        settings=dataclasses.asdict(experiment)
        | {"exp": FLAGS.exp, "checkpoint": str(FLAGS.checkpoint), "repeat_id": 0},
        fingerprints={"checkpoint": content},
    ) as run:
        if not run.is_finished:
            with atomic_path(run.model_path) as temporary:
                model.save(temporary)
    count, num_classes = models.count_parameters(model), model.output["logits"].shape[1]
    logging.info(
        "%s: %d trainable parameters, %d classes, options %s.", model.name, count, num_classes,
        options,
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "File: .pth, .pth.tar, .pt or .safetensors.")
    flags.DEFINE_enum("backbone", "densenet", list(BACKBONES), "Architecture of the checkpoint.")
    flags.DEFINE_string("exp", "cifar10", f"Data sets of: {', '.join(configs.EXPERIMENTS)}.")
    flags.DEFINE_enum(
        "normalised", None, list(configs.NORMALISATIONS),
        "Whose mean and deviation it was trained with; default: cifar, or imagenet.",
    )  # fmt: skip
    flags.DEFINE_list(
        "mean", None, "Mean per channel in pixels 0..255; default: CIFAR's or ImageNet's."
    )
    flags.DEFINE_list("std", None, "Standard deviation per channel in pixels 0..255.")
    flags.DEFINE_list("image_size", None, "Height and width; default: 32,32 or 224,224.")
    cli.define_name(None, "Name of the run; default: converted_<network>.")
    flags.DEFINE_string("out_dir", "output/classifier_ood", "Where the experiments' folders go.")
    flags.mark_flag_as_required("checkpoint")
    cli.run_app(main)
