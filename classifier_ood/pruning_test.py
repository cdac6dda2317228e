"""Masks: exact counts, frozen weights, gradients to the scores, and the way back."""

import keras
import numpy as np
import pytest

from classifier_ood import copies, pruning
from ood_suite.training import backend


def logits(model, images):
    return np.asarray(model(images, training=False)["logits"])


def trained(masked, images, steps=3):
    """The masked network after a few steps on its scores."""

    class ClassifierModel(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = masked

        def call(self, x, training=False):
            return self.network(x, training=training)["logits"]

    trainer = ClassifierModel()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.SGD(1.0), loss, jit_compile=False)
    trainer.fit(images, np.arange(len(images)) % 3, epochs=steps, verbose=0, batch_size=8)
    return masked


def literal_mask(scores, kept):
    """The rule, one weight at a time: the int((1 - kept) n) smallest |scores| become 0."""
    mask = np.ones(scores.size)
    for place in sorted(range(scores.size), key=lambda i: abs(scores.flat[i]))[
        : int((1 - kept) * scores.size + 1e-9)
    ]:
        mask[place] = 0.0
    return mask.reshape(scores.shape)


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.8, 0.965, 1.0])
def test_top_share_is_the_literal_rule(rng, kept):
    scores = rng.normal(size=(3, 3, 4, 5)).astype(np.float32)
    found = np.asarray(pruning.top_share(scores, kept))
    np.testing.assert_array_equal(found, literal_mask(scores, kept))
    ties = np.asarray(pruning.top_share(np.ones((10, 10), np.float32), kept))
    assert ties.sum() == 100 - pruning.dropped_count(100, kept)


def test_counts_are_exact_in_every_layer(network):
    masked = pruning.masked(network, 0.8)
    counts = pruning.kept_counts(masked)
    sizes = {name: int(np.prod(kernel.shape)) for name, kernel in pruning.kernels(network)}
    assert counts == {name: (size - int(0.2 * size + 1e-9), size) for name, size in sizes.items()}
    assert "stage1_conv1" in counts and "fc" in counts and len(counts) == 7
    applied = dict(pruning.kernels(pruning.applied(masked)))
    for name, (kept, _) in counts.items():
        assert np.count_nonzero(applied[name]) == kept


def test_scores_start_uniform_within_their_fan_in(network):
    for layer in pruning.masked(network, 0.8).layers:
        if isinstance(layer, pruning.Masked):
            bound = 1.0 / np.sqrt(np.prod(layer.scores.shape[:-1]))
            assert 0.5 * bound < np.abs(layer.scores).max() <= bound
            assert np.abs(layer.scores).mean() == pytest.approx(bound / 2, rel=0.3)


def test_only_scores_train_and_the_rest_stays_to_the_bit(network, images):
    masked = pruning.masked(network, 0.8)
    assert {v.name for v in masked.trainable_variables} == {"scores"}
    before = [np.copy(keras.ops.convert_to_numpy(v)) for v in masked.trainable_variables]
    trained(masked, images)
    for old, variable in zip(before, masked.trainable_variables, strict=True):
        assert np.any(old != np.asarray(variable))
    for source, copy in zip(network.layers, masked.layers, strict=True):
        if isinstance(copy, pruning.Masked):
            for ours, theirs in zip(copy.layer.weights, source.weights, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        elif isinstance(copy, pruning.TwoModeBatchNormalization):
            np.testing.assert_array_equal(copy.gamma, source.gamma)
            assert np.any(np.asarray(copy.moving_mean) != np.asarray(source.moving_mean))


def test_unmask_is_the_original_after_training(network, images):
    masked = trained(pruning.masked(network, 0.8), images)
    back = pruning.unmask(masked)
    for ours, theirs in zip(back.weights, network.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(logits(back, images), logits(network, images))
    assert np.abs(logits(masked, images) - logits(network, images)).max() > 1e-3
    assert len(back.trainable_variables) == len(network.trainable_variables)


def test_applied_is_the_masked_network_without_our_classes(network, images):
    masked = trained(pruning.masked(network, 0.6), images)
    plain = pruning.applied(masked)
    np.testing.assert_allclose(logits(plain, images), logits(masked, images), atol=1e-5)
    kinds = {type(layer).__module__ for layer in plain.layers}
    assert not any(kind.startswith("classifier_ood") for kind in kinds)


@pytest.mark.skipif(not backend.has_bfloat16(), reason="this processor has no bfloat16")
def test_in_bfloat16_the_masks_are_those_of_the_scores_as_they_are(network, images):
    masked = pruning.masked(copies.in_precision(network, "mixed_bfloat16"), 0.6)
    np.testing.assert_array_equal(logits(pruning.applied(masked), images), logits(masked, images))
    layer = masked.get_layer("stage2_conv1")
    close = 1.0 + np.arange(layer.scores.shape.num_elements()) / 2**20  # in bfloat16 all are 1
    layer.scores.assign(np.random.default_rng(0).permutation(close).reshape(layer.scores.shape))
    np.testing.assert_array_equal(logits(pruning.applied(masked), images), logits(masked, images))
    before = np.copy(layer.scores)
    trained(masked, images)
    assert np.any(before != np.asarray(layer.scores))


def test_everything_kept_changes_nothing(network, images):
    masked = pruning.masked(network, 1.0)
    np.testing.assert_array_equal(logits(masked, images), logits(network, images))


def test_gradient_passes_straight_through(rng):
    """dL/dscores = dL/dW_effective * W * sign(scores), by hand for a linear layer."""
    tf = pytest.importorskip("tensorflow")
    layer = pruning.Masked(keras.layers.Dense(2), 0.5, seed=1)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    layer(x)
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer(x) ** 2)
    gradient = tape.gradient(loss, layer.scores.value)
    outer = x.T @ (2.0 * np.asarray(layer(x)))  # dL/dW_effective
    expected = outer * np.asarray(layer.layer.kernel) * np.sign(layer.scores)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_masked_networks_are_saved_and_nested_ones_masked(network, images, tmp_path):
    inputs = keras.Input((8, 8, 1))
    outer = keras.Model(inputs, network(inputs))
    masked = trained(pruning.masked(outer, 0.7), images)
    masked.save(tmp_path / "masked.keras")
    loaded = keras.saving.load_model(tmp_path / "masked.keras")
    np.testing.assert_array_equal(logits(loaded, images), logits(masked, images))
    back = pruning.unmask(loaded)
    np.testing.assert_array_equal(logits(back, images), logits(network, images))


def test_random_masks_drop_exactly_their_share(network):
    counts = pruning.mask_at_random(network, 0.9, np.random.default_rng(3))
    for name, kernel in pruning.kernels(network):
        assert np.count_nonzero(kernel) == counts[name]
        size = int(np.prod(kernel.shape))
        assert counts[name] == size - pruning.dropped_count(size, 0.9)


@pytest.mark.parametrize("kept", [0.0, 1.1, -0.5, float("nan")])
def test_refusals(network, kept):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        pruning.masked(network, kept)
    empty = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match="no convolution and no Dense layer"):
        pruning.masked(empty, 0.5)
