import keras
import numpy as np
import pytest
from keras import layers

from classifier_ood import copies
from classifier_ood.keras_classifier import KerasClassifier
from ood_suite.training import backend


def logits(model, images):
    return np.asarray(model(images, training=False)["logits"])


def test_without_dropout(network, images):
    plain = copies.without_dropout(network)
    np.testing.assert_array_equal(logits(plain, images), logits(network, images))
    shapes = [[tuple(v.shape) for v in m.trainable_variables] for m in (plain, network)]
    assert shapes[0] == shapes[1]
    first = plain(images, training=True)["logits"]
    np.testing.assert_array_equal(first, plain(images, training=True)["logits"])


@pytest.mark.skipif(not backend.has_bfloat16(), reason="this processor has no bfloat16")
def test_in_precision(network, images):
    half = copies.in_precision(network, "mixed_bfloat16")
    assert {y.dtype for y in half.output.values()} == {"float32"}
    policies = {layer.name: layer.dtype_policy.name for layer in half.layers}
    whole = {name for name, policy in policies.items() if policy == "float32"}
    assert whole == {"images", "features", "fc"}
    difference = np.abs(logits(half, images) - logits(network, images))
    assert 0.0 < difference.max() < 0.05 * np.abs(logits(network, images)).max()
    back = copies.in_precision(half, "float32")
    np.testing.assert_array_equal(logits(back, images), logits(network, images))


def own(policy):
    """A model of a user's, in mixed precision as Keras's guide has it: a float32 softmax."""
    keras.utils.set_random_seed(3)
    parts = [layers.Conv2D(3, 3, dtype=policy), layers.Flatten(dtype=policy)]
    parts += [layers.Dense(4, dtype=policy), layers.Activation("softmax", dtype="float32")]
    return keras.Sequential([keras.Input((8, 8, 1)), *parts])


def test_without_bfloat16_a_model_in_it_computes_in_float32(monkeypatch, images):
    half, whole = own("mixed_bfloat16"), own("float32")
    monkeypatch.setattr(backend, "has_bfloat16", lambda: False)
    assert copies.computable(whole) is whole
    found, expected = (KerasClassifier(model, input_range="0..255") for model in (half, whole))
    assert {layer.compute_dtype for layer in found.model.layers} == {"float32"}
    for name in ("logits", "features"):
        ours, theirs = (getattr(c.outputs(images), name) for c in (found, expected))
        np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr(backend, "has_bfloat16", lambda: True)
    assert copies.computable(half) is half
