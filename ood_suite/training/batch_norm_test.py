import keras
import numpy as np
import pytest
from keras import layers

from ood_suite.training import backend, batch_norm

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's operation"
)
HALF = pytest.mark.skipif(not backend.has_bfloat16(), reason="this processor has no bfloat16")


def network(dtype="float32", **options):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 5, 3))
    x = layers.Conv2D(4, 3, dtype=dtype)(inputs)
    x = layers.BatchNormalization(
        gamma_initializer="random_normal", beta_initializer="random_normal", name="norm",
        dtype=dtype, **options,
    )(x)  # fmt: skip
    return keras.Model(inputs, layers.Dense(2, dtype="float32")(layers.Flatten()(x)))


def trained(model, steps=5):
    """Losses, predictions and weights of a few steps, compiled as trainings are."""
    rng = np.random.default_rng(0)
    x, y = 50.0 + 30.0 * rng.normal(size=(20, 6, 5, 3)), rng.normal(size=(20, 2))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", jit_compile=False)
    losses = [model.train_on_batch(x, y) for _ in range(steps)]
    return losses, model.predict(x, verbose=0), model.get_weights()


def operations(model, training=True):
    import tensorflow as tf

    shape = tf.TensorSpec((None, *model.input_shape[1:]), "float32")
    called = tf.function(lambda x: model(x, training=training), input_signature=[shape])
    return {operation.type for operation in called.get_concrete_function().graph.get_operations()}


@pytest.mark.parametrize(
    "options", [{}, {"scale": False, "center": False}, {"momentum": 0.9, "epsilon": 1e-5}]
)
def test_a_training_is_keras_own_to_rounding(options):
    plain, fused = network(**options), network(**options)
    batch_norm.fuse(fused)
    assert "FusedBatchNormV3" in operations(fused) - operations(plain)
    for theirs, ours in zip(trained(plain), trained(fused), strict=True):
        for a, b in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5)


@HALF
def test_in_bfloat16_the_statistics_stay_float32():
    plain, fused = network("mixed_bfloat16"), network("mixed_bfloat16")
    batch_norm.fuse(fused)
    assert "FusedBatchNormV3" in operations(fused)
    for theirs, ours in zip(trained(plain, 1), trained(fused, 1), strict=True):
        for a, b in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(b, a, rtol=0.02, atol=0.02)
    for name in ("moving_mean", "moving_variance"):
        a, b = (getattr(model.get_layer("norm"), name).numpy() for model in (plain, fused))
        np.testing.assert_allclose(b, a, rtol=1e-5)


def test_one_batch_by_hand():
    """Two maps of one channel, 1 1 3 3 and 5 5 7 7 in all 2x2 places: mean 4, variance 5."""
    inputs = keras.Input((2, 2, 1))
    layer = layers.BatchNormalization(momentum=0.75, epsilon=0.0)
    model = keras.Model(inputs, layer(inputs))
    batch_norm.fuse(model)
    maps = np.float32([1, 1, 3, 3, 5, 5, 7, 7]).reshape(2, 2, 2, 1)
    found = model(maps, training=True)
    np.testing.assert_allclose(found, (maps - 4.0) / np.sqrt(5.0), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [1.0])  # 0.75 * 0 + 0.25 * 4
    np.testing.assert_allclose(layer.moving_variance, [2.0])  # 0.75 * 1 + 0.25 * 5


@pytest.mark.parametrize(
    "dtype, tolerance",
    [("float32", 1e-5), pytest.param("mixed_bfloat16", 0.02, marks=HALF)],
)
def test_evaluation_and_frozen_layers_use_the_moving_statistics(dtype, tolerance):
    plain, fused = network(dtype), network(dtype)
    batch_norm.fuse(fused)
    x = np.random.default_rng(0).normal(size=(7, 6, 5, 3))
    for model in (plain, fused):
        model.get_layer("norm").moving_mean.assign([1.0, -1.0, 0.5, 2.0])
        model.get_layer("norm").moving_variance.assign([4.0, 1.0, 0.25, 9.0])
        model.get_layer("norm").trainable = False
    before = fused.get_weights()
    for training in (False, True):
        assert "FusedBatchNormV3" in operations(fused, training)
        found, expected = (model(x, training=training) for model in (fused, plain))
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    for a, b in zip(before, fused.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_saved_files_are_keras_own(tmp_path):
    model = network()
    batch_norm.fuse(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is layers.BatchNormalization
    assert "FusedBatchNormV3" not in operations(loaded)


def test_what_the_operation_does_not_know_stays():
    class Own(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask)

    class Ghost(layers.BatchNormalization):
        def _moments(self, inputs, mask):
            return super()._moments(inputs[:2], mask)

    class Unused(layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization()

        def call(self, inputs):
            return inputs

    inputs = keras.Input((4, 4, 2))
    flat = keras.Input((5,))
    for model in (
        keras.Model(inputs, layers.BatchNormalization(axis=1)(inputs)),
        keras.Model(inputs, layers.BatchNormalization(dtype="mixed_float16")(inputs)),
        keras.Model(inputs, layers.BatchNormalization(dtype="float64")(inputs)),
        keras.Model(inputs, layers.BatchNormalization(synchronized=True)(inputs)),
        keras.Model(inputs, layers.BatchNormalization(renorm=True)(inputs)),
        keras.Model(inputs, Own()(inputs)),
        keras.Model(inputs, Ghost()(inputs)),
        keras.Model(inputs, Unused()(inputs)),
        keras.Model(flat, layers.BatchNormalization()(flat)),
    ):
        batch_norm.fuse(model)
        assert "FusedBatchNormV3" not in operations(model)


def test_masked_maps_are_keras_own():
    layer = layers.BatchNormalization()
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype(np.float32)
    mask = np.random.default_rng(1).random((5, 4, 4)) < 0.5
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, layer(inputs))
    expected = layer(x, training=True, mask=mask)
    moved = np.copy(layer.moving_mean)
    layer.moving_mean.assign(np.zeros(2))
    batch_norm.fuse(model)
    np.testing.assert_array_equal(layer(x, training=True, mask=mask), expected)
    np.testing.assert_array_equal(layer.moving_mean, moved)
    assert np.abs(layer(x, training=True) - expected).max() > 0.01


def test_inputs_are_cast_as_keras_does():
    pictures = keras.Input((4, 4, 2), dtype="uint8")
    plain, fused = (keras.Model(pictures, layers.BatchNormalization()(pictures)) for _ in range(2))
    batch_norm.fuse(fused)
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 2), dtype=np.uint8)
    found, expected = (model(x, training=True) for model in (fused, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_layers_within_models_are_found(monkeypatch):
    inner = network()
    inputs = keras.Input(inner.input_shape[1:])
    model = keras.Model(inputs, inner(inputs))
    monkeypatch.setattr(backend, "has_gpu", lambda: True)
    batch_norm.fuse(model)  # an accelerator: XLA
    assert "FusedBatchNormV3" not in operations(model)
    monkeypatch.undo()
    batch_norm.fuse(model)
    assert "FusedBatchNormV3" in operations(model)
