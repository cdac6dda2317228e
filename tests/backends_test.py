"""A model saved under one backend says the same under the other; see make_models.py."""

import importlib.util
import pathlib
import sys

import keras
import numpy as np
import pytest

import genomics_ood.density  # noqa: F401
import images_ood.pixelcnn  # noqa: F401 (both register their classes)
from ood_suite.files import load_npz

FOLDER = pathlib.Path(__file__).parent / "references" / "models"


@pytest.mark.jax
@pytest.mark.parametrize("name", ["pixelcnn", "conv", "lstm", "convnet"])
@pytest.mark.parametrize("made_by", ["tensorflow", "jax"])
def test_models_of_either_backend(made_by, name):
    arrays = load_npz(FOLDER / f"{made_by}.npz")
    model = keras.saving.load_model(
        FOLDER / f"{made_by}_{name}.keras", compile=False, safe_mode=True
    )
    found = model.predict(arrays[f"{name}/inputs"], verbose=0)
    found = found["logits"] if isinstance(found, dict) else found
    expected = arrays[f"{name}/outputs"]
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.jax
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is here")
def test_nothing_here_has_tensorflow():
    assert keras.backend.backend() == "jax" and "tensorflow" not in sys.modules
