"""Checkpoints of the likelihood-ratio authors' layout: their log-probabilities, and every refusal.
The checkpoints and the numbers are those of tests/reference_pixelcnn.py.
"""

import json
import pathlib

import keras
import numpy as np
import pytest

from images_ood import checkpoint_files, conversion
from images_ood.extract import extract
from images_ood.pixelcnn import PixelCNN
from ood_suite.data.npz import write_images
from ood_suite.files import RunError, read_csv
from ood_suite.runs.run import Run
from tests import reference_pixelcnn as twin
from tests.support import command

pytestmark = pytest.mark.tensorflow
RESCALED = {"rescale_pixel_value": True, "num_logistic_mix": 2, "num_resnet": 2}
COLOUR = {"exp": "cifar", "n_channel": 3}


@pytest.fixture
def pair(tmp_path):
    """(model_dir, {folder: (params, weights)}) of a foreground and a background."""
    return tmp_path / "expfashion", twin.write_pair(tmp_path / "expfashion")


def convert(model_dir, **options):
    """Its Runs, in a folder beside it."""
    options = {"ckpt_step": 40, "out_dir": model_dir.parent / "out"} | options
    return conversion.convert(model_dir, **options)


@pytest.mark.parametrize(
    "changes",
    [{}, RESCALED, RESCALED | COLOUR, COLOUR | {"num_logistic_mix": 3}],
    ids=["raw", "rescaled", "colour", "raw colour"],
)
def test_log_probabilities_are_theirs(changes, tmp_path, rng):
    """Also in colour, where their coefficients multiply raw pixels whatever the network sees."""
    written = twin.write_pair(tmp_path / "models", **changes)
    runs = convert(tmp_path / "models")
    assert [run.folder.name for run in runs] == ["reg0_mr0", "reg0_mr0.1"]
    shape = (8, 8, changes.get("n_channel", 1))
    images = rng.integers(0, 256, (6, *shape)).astype(np.uint8)
    images[0], images[1] = 0, 255  # the edge bins
    for run, (params, weights) in zip(runs, written.values(), strict=True):
        expected = twin.log_prob(weights, params, images)
        assert expected.std() > 10 and np.isfinite(expected).all()
        model = keras.saving.load_model(run.model_path, compile=False)
        found = model.predict(images, verbose=0).sum(axis=(1, 2), dtype=np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("hierarchies", [2, 3])
def test_strided_layers_are_those_of_tensorflow_probability(hierarchies, rng):
    """The authors' network is an early version of TFP's, of which it keeps the names."""
    import tensorflow_probability as tfp

    reference = tfp.distributions.PixelCNN(
        (8, 8, 1), num_resnet=1, num_hierarchies=hierarchies, num_filters=3, num_logistic_mix=2,
        dropout_p=0.0, use_weight_norm=False,
    )  # fmt: skip
    weights, counts = {}, {}
    for layer in reference.network._network.layers:
        if layer.weights:
            kind = layer.__class__.__name__.replace("Conv2DTranspose", "conv2d_transpose").lower()
            kernel = rng.normal(0, 0.1, layer.kernel.shape).astype(np.float32)
            constrained = layer.kernel_constraint or (lambda kernel: kernel)
            kernel = np.asarray(constrained(kernel), np.float32)
            layer.set_weights([kernel, rng.normal(0, 0.1, kernel.shape[-1] if kind != "conv2d_transpose" else kernel.shape[2])])
            counts.setdefault(kind, []).append(layer)
    for kind, made in counts.items():
        made.sort(key=lambda layer: conversion._creation(layer.name))
        for number, layer in enumerate(made):
            name = f"{kind}_{number}" if number else kind
            weights |= zip((f"{name}/kernel", f"{name}/bias"), layer.get_weights(), strict=True)
    options = {"num_resnet": 1, "num_filters": 3, "num_logistic_mix": 2}
    model = PixelCNN(
        (8, 8, 1), num_hierarchies=hierarchies, rescale_pixel_value=True, **options
    )
    conversion.fill(model, weights)
    images = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.float32)
    expected = np.asarray(reference.log_prob(images, training=False))
    found = model.predict(images, verbose=0).sum(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
