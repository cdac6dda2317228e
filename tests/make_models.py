"""Writes small models of every kind, and what they say, under the backend of this process.

    KERAS_BACKEND=tensorflow python tests/make_models.py     # where TensorFlow is installed
    KERAS_BACKEND=jax python tests/make_models.py            # where JAX is

into tests/references/models/<backend>_<name>.keras and <backend>.npz. backends_test.py loads the
models of both under either.
"""

import pathlib

import keras
import numpy as np

from classifier_ood import models
from genomics_ood.density import ReadDensity
from images_ood.pixelcnn import PixelCNN

FOLDER = pathlib.Path(__file__).parent / "references" / "models"


def make():
    """{name: (model, inputs)}, with weights that no initialisation gives."""
    rng = np.random.default_rng(20)
    grey = rng.integers(0, 256, (6, 8, 8, 1)).astype(np.float32)
    colour = rng.integers(0, 256, (6, 8, 8, 3)).astype(np.float32)
    bases = rng.integers(0, 4, (6, 20)).astype(np.int32)
    found = {
        "pixelcnn": (
            PixelCNN(
                (8, 8, 3), num_hierarchies=2, num_resnet=1, num_filters=4, num_logistic_mix=2,
                rescale_pixel_value=True, use_weight_norm=True,
            ),
            colour,
        ),
        "conv": (ReadDensity(network="conv", units=6, num_layers=3), bases),
        "lstm": (ReadDensity(network="lstm", units=6, layer_norm=True), bases),
        "convnet": (models.build("convnet", (8, 8, 1), 10, {"width": 2}), grey),
    }  # fmt: skip
    for model, _ in found.values():
        model.set_weights([w + 0.05 * rng.random(w.shape, np.float32) if w.dtype == np.float32
                           else w for w in model.get_weights()])  # fmt: skip
    return found


def said(model, inputs):
    """float32 array: log-probability map of a density, logits of a classifier."""
    found = model.predict(inputs, verbose=0)
    return found["logits"] if isinstance(found, dict) else found


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    backend, arrays = keras.backend.backend(), {}
    for name, (model, inputs) in make().items():
        model.save(FOLDER / f"{backend}_{name}.keras")
        arrays |= {f"{name}/inputs": inputs, f"{name}/outputs": said(model, inputs)}
    np.savez_compressed(FOLDER / f"{backend}.npz", keras=keras.__version__, **arrays)
