"""The parts of fine-tuning: what a step does, and DOE against a literal rewrite."""

import dataclasses

import keras
import numpy as np
import pytest

from classifier_ood import configs, doe, losses, models, pruning
from classifier_ood.finetune_model import FineTuneModel
from ood_suite.training import batch_norm

SETTINGS = configs.FineTuning(augmentation="none", batch_size=8)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (12, 8, 8, 1)).astype(np.float32)


def tuner(um=0.0, **changes):
    keras.utils.set_random_seed(1)
    network = models.build("convnet", (8, 8, 1), 3, {"width": 2, "dropout": 0.2})
    settings = dataclasses.replace(SETTINGS, **changes)
    id_rows = 8 if settings.oe_method else None
    model = FineTuneModel(network, settings, um=um, id_rows=id_rows, warm_up=1)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    model.build((None, 8, 8, 1))
    return model


def one_step(model, images, labels):
    """(change of the weights, logs)."""
    before = [np.copy(keras.ops.convert_to_numpy(v)) for v in model.backbone.trainable_variables]
    logs = model.train_on_batch(images, labels, return_dict=True)
    after = [np.copy(keras.ops.convert_to_numpy(v)) for v in model.backbone.trainable_variables]
    return [new - old for new, old in zip(after, before, strict=True)], logs


@pytest.mark.tensorflow
@pytest.mark.parametrize("what", ["plain", "masked", "copy of DOE"])
def test_batch_norm_is_fused_wherever_a_network_is_trained(what):
    if what == "masked":
        network = models.build("convnet", (8, 8, 1), 3, {"width": 2})
        trained = FineTuneModel(pruning.masked(network, 0.8), SETTINGS).backbone
    elif what == "plain":
        trained = tuner().backbone
    else:
        trained = tuner(oe_method="doe").implicit_outliers._networks()[1]
    norms = [y for y in trained.layers if isinstance(y, keras.layers.BatchNormalization)]
    assert norms and all(layer.call.func is batch_norm._call for layer in norms)


def test_under_the_constraint_the_step_is_the_opposite_one(images):
    labels = np.arange(12) % 3
    plain, logs = one_step(tuner(0.0), images, labels)
    above, _ = one_step(tuner(0.01), images, labels)
    below, turned = one_step(tuner(9.0), images, labels)
    for step, same, opposite in zip(plain, above, below, strict=True):
        np.testing.assert_array_equal(step, same)
        np.testing.assert_allclose(step, -opposite, rtol=1e-3, atol=1e-6)
    assert logs["ascent"] == 0.0 and turned["ascent"] == 1.0
    assert turned["cross_entropy"] == pytest.approx(logs["cross_entropy"])
    assert turned["loss"] == pytest.approx(18.0 - logs["loss"], rel=1e-5)


def test_validation_shows_the_plain_cross_entropy(images):
    labels, model = np.arange(12) % 3, tuner(9.0)
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(found) == {"loss", "accuracy"}
    logits = model.backbone.predict(images, verbose=0)["logits"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert found["loss"] == pytest.approx(-log_p[np.arange(12), labels].mean(), rel=1e-4)


def test_running_mean_decides_where_the_batch_would_not(images):
    """Batches of cross entropy a and b: the second is judged by their bias-corrected mean."""
    model = tuner(0.0)
    model.optimizer.learning_rate = 0.0  # the same network throughout
    logits = np.asarray(model(images, training=False)["logits"])
    easy, hard = logits.argmax(1), logits.argmin(1)
    low = model.train_on_batch(images, easy, return_dict=True)["cross_entropy"]
    model = tuner((low + 3.0) / 2, um_constraint="running")
    model.optimizer.learning_rate = 0.0
    values = []
    for labels in (easy, hard, hard, easy):
        model.reset_metrics()
        logs = model.train_on_batch(images, labels, return_dict=True)
        values.append(logs["cross_entropy"])
        weights = 0.9 ** np.arange(len(values))[::-1]
        mean = np.sum(weights * values) / np.sum(weights)
        assert float(model.running_mean / model.running_weight) == pytest.approx(mean, rel=1e-4)
        assert logs["ascent"] == float(mean < model.um)
        sign = -1.0 if mean < model.um else 1.0
        assert logs["loss"] == pytest.approx(sign * (values[-1] - model.um) + model.um, rel=1e-4)


@pytest.mark.parametrize(
    "method, weight", [("oe", 0.5), ("energy", 0.1), ("poem", 0.1), ("doe", 1.0)]
)
def test_outliers_have_a_term_of_their_own(images, method, weight):
    labels = np.r_[np.arange(8) % 3, [-1] * 4]
    model = tuner(um=0.0, oe_method=method, outliers="glyphs", m_in=-3.0, m_out=-2.0)
    seen = np.asarray(model(images, training=True)["logits"])
    model = tuner(um=0.0, oe_method=method, outliers="glyphs", m_in=-3.0, m_out=-2.0)
    logs = model.train_on_batch(images, labels, return_dict=True)
    log_p = seen - np.log(np.exp(seen).sum(1, keepdims=True))
    cross = -log_p[np.arange(8), labels[:8]].mean()
    outside = np.mean(losses.cross_entropy_to_uniform(seen[8:]))
    if method in ("energy", "poem"):
        outside = float(losses.energy_margins(seen[:8], seen[8:], -3.0, -2.0))
    assert logs["cross_entropy"] == pytest.approx(cross, rel=1e-4)
    assert logs["outlier_loss"] == pytest.approx(outside, rel=1e-4)
    assert logs["loss"] == pytest.approx(cross + weight * outside, rel=1e-4)
    assert logs["accuracy"] == pytest.approx(np.mean(seen[:8].argmax(1) == labels[:8]))


@pytest.mark.parametrize("towards", ("ascent", "descent"))
def test_doe_is_its_formula(rng, towards):
    """Two steps after a step of warm-up, on a linear network, rewritten in NumPy with gradients by
    differences.
    """
    x = rng.normal(size=(6, 4)).astype(np.float32)
    kernel, bias = rng.normal(size=(4, 3)).astype(np.float32), np.float32([0.1, 0.0, -0.2])
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(3)
    network = keras.Model(inputs, {"features": inputs, "logits": dense(inputs)})
    dense.set_weights([kernel, bias])
    layer = doe.ImplicitOutliers(network, warm_up=1, seed=0, direction=towards)

    def uniform_loss(kernel):
        z = x[2:].astype(np.float64) @ kernel + bias
        return np.mean(np.log(np.exp(z).sum(1)) - z.mean(1))

    def sensitivity(kernel, bias):
        z = x[2:].astype(np.float64) @ kernel + bias
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return np.mean((p * z).sum(1) - z.mean(1)) ** 2

    def gradients():
        found = [np.zeros((4, 3)), np.zeros(3)]
        for part, gradient in enumerate(found):
            for i in np.ndindex(gradient.shape):
                for sign in (1, -1):
                    moved = [kernel.astype(np.float64), bias.astype(np.float64)]
                    moved[part][i] += sign * 1e-5
                    gradient[i] += sign * sensitivity(*moved) / 2e-5
        return found

    logits = network(x)["logits"]
    assert float(layer(x, logits=logits, first=2)) == pytest.approx(uniform_loss(kernel), rel=1e-5)
    assert not np.any(np.asarray(layer.directions[0]))
    climb, slope = gradients()
    norm = np.sqrt((climb**2).sum() + (slope**2).sum())
    climb *= min(1.0, 1.0 / norm) * (1.0 if towards == "ascent" else -1.0)
    velocity = direction = 0.0
    for step in range(2):
        loss = float(layer(x, logits=logits, first=2))
        velocity = 0.9 * velocity + (1e-4 * kernel - climb)
        new = -velocity * np.linalg.norm(kernel) / np.linalg.norm(velocity)
        direction = new if step == 0 else 0.6 * direction + 0.4 * new
        np.testing.assert_allclose(layer.directions[0], direction, rtol=2e-3, atol=1e-4)
        candidates = [
            uniform_loss(kernel + gamma * direction) for gamma in (1e-1, 1e-2, 1e-3, 1e-4)
        ]
        assert np.min(np.abs(np.array(candidates) - loss)) < 1e-4
        moved = sensitivity(kernel + 0.01 * direction, bias) - sensitivity(kernel, bias)
        assert (moved > 0.0) == (towards == "ascent")


def test_presets_are_those_of_the_released_configurations():
    um, outliers = (configs.FINE_TUNINGS[n] for n in ("unleashing_mask", "outlier_exposure"))
    shared = {"batch_size": 256, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4}
    shared |= {"learning_rate_schedule": "cosine", "um_constraint": "batch", "warm_up": 5}
    shared |= {"m_in": -25.0, "m_out": -7.0, "pool_size": 400_000, "outlier_factor": 1.0}
    for settings in (um, outliers):
        assert shared.items() <= dataclasses.asdict(settings).items()
    assert (um.epochs, um.learning_rate) == (100, 0.1)
    assert (outliers.epochs, outliers.learning_rate) == (10, 0.01)
