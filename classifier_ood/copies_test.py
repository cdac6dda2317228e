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


def test_normalization_keeps_what_it_was_adapted_to(rng):
    scale = layers.Normalization(axis=-1)
    scale.adapt(50.0 + 10.0 * rng.normal(size=(64, 4, 4, 3)))
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(scale(inputs))))
    x = 50.0 + 10.0 * rng.normal(size=(5, 4, 4, 3))
    for copy in (copies.without_dropout(model), copies.in_precision(model, "float32")):
        np.testing.assert_array_equal(copy(x), model(x))


def ended_by(kind):
    """A model whose output a layer within a model makes, or an operation, or both."""
    inputs, middle = keras.Input((6,)), keras.Input((6,))
    parts = [layers.Dense(5), layers.Dense(3, name="end")]
    if kind == "operation":
        return keras.Model(inputs, parts[1](parts[0](inputs)) * 2.0)
    outputs = keras.Model(middle, parts[1](parts[0](middle)))(inputs)
    return keras.Model(inputs, outputs if kind == "model" else keras.ops.cast(outputs, "float32"))


@pytest.mark.skipif(not backend.has_bfloat16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("kind", ["model", "operation", "both"])
def test_what_is_returned_stays_float32_wherever_it_is_made(kind, rng):
    half = copies.in_precision(ended_by(kind), "mixed_bfloat16")
    found = half(rng.normal(size=(20, 6)))
    assert found.dtype == "float32"
    rounded = keras.ops.cast(keras.ops.cast(found, "bfloat16"), "float32")
    assert np.any(np.asarray(found) != np.asarray(rounded))
    types = {layer.name: layer.compute_dtype for layer in copies.leaves(half)}
    assert types.pop("end") == "float32" and "bfloat16" in types.values()


def test_layers_within_layers_are_changed_too():
    inputs = keras.Input((4, 6))
    wrapped = layers.TimeDistributed(layers.Dense(3, dtype="mixed_bfloat16"), dtype="float32")
    half = keras.Model(inputs, layers.Flatten()(wrapped(inputs)))
    assert copies.precision(half) == "mixed_bfloat16"
    assert copies.precision(copies.in_precision(half, "float32")) == "float32"


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
    assert (found.dtype, expected.dtype) == ("float32", None)
    for name in ("logits", "features"):
        ours, theirs = (getattr(c.outputs(images), name) for c in (found, expected))
        np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr(backend, "has_bfloat16", lambda: True)
    assert copies.computable(half) is half
    assert KerasClassifier(half, input_range="0..255").dtype == "mixed_bfloat16"
