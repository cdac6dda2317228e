"""The precision that suits a processor, and that a run keeps what it began with; programs whose
weights are constants.
"""

import keras
import numpy as np
import pytest

from images_ood import extract
from images_ood.pixelcnn import PixelCNN
from ood_suite.runs.run import Run
from ood_suite.training import backend, stored_model
from tests.support import opening


@pytest.fixture
def without_bfloat16(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


def test_a_processor_that_is_held_to_avx2_has_no_bfloat16(without_bfloat16):
    assert not backend.has_bfloat16()


@pytest.mark.parametrize("flags, expected", [("avx2 fma", False), ("avx512f avx512_bf16", True)])
def test_the_flags_of_the_processor_decide(flags, expected, tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags : {flags}\n")
    monkeypatch.setattr(backend, "CPUINFO", cpuinfo)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert backend.has_bfloat16() == expected


def test_auto_is_what_the_run_or_its_experiment_began_with(tmp_path, without_bfloat16):
    assert backend.dtype_of("mixed_bfloat16", tmp_path / "a") == "mixed_bfloat16"
    assert backend.dtype_of("auto", tmp_path / "a") == "float32"
    Run.open(tmp_path / "0_of_another_kind", **opening({}))
    Run.open(tmp_path / "b", **opening({"dtype": "mixed_bfloat16"}))
    for name in ("a", "b"):  # a is a background of b: both are compared
        assert backend.dtype_of("auto", tmp_path / name) == "mixed_bfloat16"


def test_a_bfloat16_model_is_evaluated_in_float32_without_it(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(stored_model, "has_bfloat16", lambda: False)
    model = PixelCNN(
        (8, 8, 1), num_resnet=1, num_filters=4, dtype="mixed_bfloat16", rescale_pixel_value=True
    )
    run = Run.open(tmp_path, **opening({}))
    model.save(run.model_path)
    loaded = extract.load_model(run)
    assert loaded.dtype_policy.name == "float32"
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images = rng.integers(0, 256, (2, 8, 8, 1)).astype(np.float32)
    plain = PixelCNN.from_config(model.get_config() | {"dtype": "float32"})
    plain.set_weights(model.get_weights())
    found, expected = (m.predict(images, verbose=0) for m in (loaded, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.fixture
def network():
    """Two outputs whose names are not in the order of the layers, BatchNorm that does something."""
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(3, 3)(inputs))
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, {"logits": keras.layers.Dense(2, name="head")(x), "features": x})
    model.get_layer("norm").moving_mean.assign([1.0, -2.0, 0.5])
    return model


@pytest.mark.jax
@pytest.mark.parametrize("largest", [2**30, 0])  # a program of constants, and one of variables
def test_a_program_says_what_the_network_says(network, rng, largest, monkeypatch):
    monkeypatch.setattr(backend, "LARGEST_PROGRAM", largest)
    images = rng.integers(0, 256, (7, 4, 4, 1), dtype=np.uint8)
    expected = network.predict(images.astype(np.float32), verbose=0)
    found = backend.in_batches(backend.inference(network), images, batch_size=3)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-4)


@pytest.mark.tensorflow
def test_nothing_is_compiled_for_one_batch(network, rng):
    batch = rng.uniform(0, 255, (3, *network.input_shape[1:])).astype(np.float32)
    found = backend.once(network, batch)
    assert network.predict_function is None
    for name, expected in network.predict_on_batch(batch).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.jax
def test_no_images_give_empty_arrays(network):
    found = backend.in_batches(backend.inference(network), np.empty((0, 4, 4, 1)), 3)
    assert {name: array.shape for name, array in found.items()} == {
        "features": (0, 12), "logits": (0, 2)
    }  # fmt: skip


@pytest.mark.tensorflow
@pytest.mark.parametrize("largest, is_constant", [(2**30, True), (0, False)])
def test_what_a_program_can_hold_becomes_constant(network, largest, is_constant, monkeypatch):
    monkeypatch.setattr(backend, "LARGEST_PROGRAM", largest)
    forward, image = backend.inference(network), np.ones((1, 4, 4, 1), np.float32)
    before = forward(image)["logits"]
    network.get_layer("head").bias.assign([100.0, 100.0])
    assert np.array_equal(forward(image)["logits"], before) == is_constant


@pytest.mark.jax
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_jax_keeps_the_weights_of_the_beginning(network):
    """Keras's own took those of the moment, and gave them away while it computed."""
    forward, image = backend.inference(network), np.ones((1, 4, 4, 1), np.float32)
    before = forward(image)["logits"]
    network.get_layer("head").bias.assign([100.0, 100.0])
    network.predict_on_batch(image)
    np.testing.assert_array_equal(forward(image)["logits"], before)


@pytest.mark.tensorflow
def test_no_batch_is_written_out(network, monkeypatch):
    """As TensorFlow does in an error that it catches itself, which took most of a small batch."""
    import tensorflow as tf

    images = np.ones((3, 4, 4, 1), np.float32)
    tensor = type(tf.convert_to_tensor(images))
    forward = backend.inference(network)
    monkeypatch.setattr(tensor, "__repr__", lambda self: pytest.fail("A batch was written out."))
    assert forward(images)["logits"].shape == (3, 2)
