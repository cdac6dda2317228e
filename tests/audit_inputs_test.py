"""The audit of perturbed inputs: ours, by Keras, move images as the authors' torch code did."""

import keras
import numpy as np
import pytest
from keras import layers

from ood_suite.files import load_npz
from ood_suite.scores.gaussian import whitening
from ood_suite.training import input_gradients
from tests.audit_test import PATH, difference


@pytest.fixture(scope="module")
def frozen():
    return load_npz(PATH)


@pytest.fixture(scope="module")
def network(frozen):
    """Pixels 0..255 -> normalised as theirs, channels first, two dense layers."""
    inputs = keras.Input((4, 4, 3))
    normalise = layers.Normalization(mean=[127.5] * 3, variance=(255.0 * frozen["odin/std"]) ** 2)
    x = layers.Flatten()(layers.Permute((3, 1, 2))(normalise(inputs)))
    hidden, head = layers.Dense(24, activation="relu"), layers.Dense(7)
    features = hidden(x)
    model = keras.Model(inputs, {"logits": head(features), "layer_features/hidden": features})
    hidden.set_weights([frozen["odin/kernel1"], frozen["odin/bias1"]])
    head.set_weights([frozen["odin/kernel2"], frozen["odin/bias2"]])
    return model


@pytest.mark.parametrize("temperature, epsilon", [(1000.0, 0.0014), (1.0, 0.02)])
def test_odin_moves_inputs_as_the_authors_code(network, frozen, temperature, epsilon):
    images = 255.0 * frozen["odin/images"]
    theirs = frozen[f"odin/logits_T={temperature:g}"]
    found = input_gradients.odin(network, temperature, [0.0, epsilon])(images)
    moved = found[input_gradients.odin_key(temperature, epsilon)]
    assert difference(moved, theirs) < 1e-5
    assert difference(found[input_gradients.odin_key(temperature, 0.0)], theirs) > 1e-3


def test_mahalanobis_moves_inputs_as_the_authors_code(network, frozen):
    means, covariance = frozen["layers/means"], frozen["layers/covariance"]
    gaussians = {"hidden": (means, whitening(covariance))}
    moved = input_gradients.mahalanobis(network, gaussians, [0.01])(255.0 * frozen["odin/images"])
    away = moved["hidden,epsilon=0.01"][:, None] - means
    distances = np.einsum("ncd,de,nce->nc", away, np.linalg.inv(covariance), away).min(axis=1)
    theirs = -2.0 * frozen["theirs/layers/perturbed"]  # they give minus half of it
    assert difference(distances, theirs) < 1e-5
