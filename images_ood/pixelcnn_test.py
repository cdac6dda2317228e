"""PixelCNN++: causal at the start and after training, equal to TFP's network, and what each option
does.
"""

import re

import keras
import numpy as np
import pytest

from images_ood import logistic_mixture
from images_ood.pixelcnn import PixelCNN, WeightNormConv2D, bits_per_dim, initialize_from_data
from ood_suite.training.backend import has_bfloat16

TINY = {"num_resnet": 1, "num_filters": 4, "seed": 0}
PRECISION = "mixed_bfloat16" if has_bfloat16() else "float32"
ROUNDING = 1e-5  # convolutions round a row of a batch by its position, on some processors


def images_of(rng, shape=(8, 8, 1), count=3):
    return rng.integers(0, 256, (count, *shape)).astype(np.float32)


def assert_causal(model, rng, labels=None):
    """Changing a pixel changes no mixture parameter of that pixel or of an earlier one."""
    height, width, channels = model.options["image_shape"]
    image = images_of(rng, model.options["image_shape"], 1)
    changed = np.repeat(image, height * width, axis=0)
    for i in range(height * width):
        changed[i, i // width, i % width] = 255 - changed[i, i // width, i % width]
    if labels is not None:
        labels = np.zeros(1 + height * width, np.int32)
    mixtures = model.mixture(np.concatenate([image, changed]), labels)
    for name, parameters in zip(mixtures._fields, mixtures[:4]):
        flat = np.asarray(parameters).reshape(1 + height * width, height * width, -1)
        change = np.abs(flat[1:] - flat[:1]).max(
            -1, initial=0.0
        )  # (changed pixel, parameters of pixel)
        differs = change > ROUNDING * np.abs(flat).max(initial=1.0)
        assert not np.tril(differs).any(), name
        if name == "locations":
            # And it does look at what it may: the next pixel to the right and the row below.
            inside = [i for i in range(height * width - width) if i % width < width - 1]
            assert np.mean([differs[i, i + 1] for i in inside]) > 0.8
            assert np.mean([differs[i, i + width] for i in inside]) > 0.8


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_shape": (8, 12, 3), "num_logistic_mix": 2},
        {"num_hierarchies": 2},
        {"image_shape": (8, 8, 3), "num_hierarchies": 3},
        {"use_weight_norm": True, "num_classes": 4},
        {"rescale_pixel_value": False},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_causal_at_the_start_and_after_training(options, rng):
    keras.utils.set_random_seed(0)  # the order of the batches decides what a raw network saturates
    options = {"image_shape": (8, 8, 1), "rescale_pixel_value": True} | TINY | options
    model = PixelCNN(**options)
    labels = np.arange(8) % 4 if options.get("num_classes") else None
    assert_causal(model, rng, labels)
    images = images_of(rng, options["image_shape"], 8)
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    model.fit(images if labels is None else [images, labels], epochs=3, batch_size=4, verbose=0)
    assert_causal(model, rng, labels)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "shape, hierarchies, mix", [((8, 8, 1), 1, 1), ((8, 8, 3), 2, 2), ((12, 8, 3), 3, 1)]
)
def test_equal_to_tensorflow_probability(shape, hierarchies, mix, rng):
    """The same log-probability as tfp.distributions.PixelCNN with the same valid kernel cells."""
    import tensorflow_probability as tfp

    reference = tfp.distributions.PixelCNN(
        shape, num_resnet=2, num_hierarchies=hierarchies, num_filters=5, num_logistic_mix=mix,
        dropout_p=0.0, use_weight_norm=False,
    )  # fmt: skip
    model = PixelCNN(
        shape, num_resnet=2, num_hierarchies=hierarchies, num_filters=5, num_logistic_mix=mix,
        rescale_pixel_value=True, seed=0,
    )  # fmt: skip
    copy_weights(reference.network._network, model.network, rng)
    images = images_of(rng, shape)
    expected = np.asarray(reference.log_prob(images, training=False))
    found = model.predict(images, verbose=0).sum(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def copy_weights(source, target, rng):
    """Random weights into both networks: TFP's masked full kernels, ours their valid cells
    turned.
    """

    def created(layers, kinds):
        chosen = [layer for layer in layers if type(layer).__name__ in kinds]
        return sorted(chosen, key=lambda layer: int((re.findall(r"_(\d+)$", layer.name) or [0])[0]))

    ours = created(target._flatten_layers(), ["Conv2D"])
    pairs = list(
        zip(created(source.layers, ["Conv2D"]), [c for c in ours if c.kernel_size != (1, 1)])
    )
    pairs += zip(created(source.layers, ["Dense"]), [c for c in ours if c.kernel_size == (1, 1)])
    pairs += zip(
        created(source.layers, ["Conv2DTranspose"]),
        created(target._flatten_layers(), ["Conv2DTranspose"]),
    )
    assert len(pairs) == len([layer for layer in source.layers if layer.weights])
    for theirs, mine in pairs:
        kernel = rng.normal(0, 0.1, theirs.kernel.shape).astype(np.float32)
        bias = rng.normal(0, 0.1, theirs.bias.shape).astype(np.float32)
        if kernel.ndim == 2:
            cells = kernel[None, None]
        else:
            mask = np.asarray(theirs.kernel_constraint(np.ones_like(kernel)))
            kernel *= mask
            rows, columns = (np.flatnonzero(mask.any(axis=(axis, 2, 3))) for axis in (1, 0))
            cells = kernel[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][::-1, ::-1]
        theirs.set_weights([kernel, bias])
        mine.set_weights([cells, bias])


def test_paper_sized_networks_have_the_known_number_of_weights():
    assert PixelCNN((28, 28, 1), seed=0).count_params() == 658_307


@pytest.mark.parametrize("rescale, low, high", [(True, 8.0, 11.0), (False, 8.0, 11.0)])
def test_untrained_bits_per_dimension_of_a_colour_network(rescale, low, high, rng):
    model = PixelCNN((32, 32, 3), num_filters=8, num_resnet=2, rescale_pixel_value=rescale, seed=0)
    natural = np.cumsum(rng.normal(0, 6, (4, 32, 32, 3)), axis=1) + 120
    images = np.clip(natural, 0, 255).astype(np.uint8)
    log_prob = model.predict(images, verbose=0).sum(axis=(1, 2))
    if rescale:
        assert low < bits_per_dim(log_prob, (32, 32, 3)).mean() < high
    else:  # raw inputs make large first outputs: finite, and no promise beyond that
        assert np.isfinite(log_prob).all()


@pytest.mark.jax
def test_the_regulariser_is_in_the_loss(rng):
    images = images_of(rng)
    plain, heavy = (
        PixelCNN((8, 8, 1), rescale_pixel_value=True, reg_weight=weight, **TINY)
        for weight in (0.0, 10.0)
    )
    losses = []
    for model in (plain, heavy):
        model.compile(optimizer="sgd", jit_compile=False)
        losses.append(model.evaluate(images, verbose=0, return_dict=True))
    squares = sum(float(np.sum(np.square(v))) for v in plain.network.get_weights() if v.ndim == 4)
    assert losses[1]["loss"] - losses[0]["loss"] == pytest.approx(10.0 * squares, rel=1e-5)
    assert losses[1]["bits_per_dim"] == pytest.approx(losses[0]["bits_per_dim"], rel=1e-6)
    nats = -plain.predict(images, verbose=0).sum(axis=(1, 2)).mean()
    assert losses[0]["loss"] == pytest.approx(nats, rel=1e-5)
    assert losses[0]["bits_per_dim"] == pytest.approx(bits_per_dim(-nats, (8, 8, 1)), rel=1e-5)


def test_bits_per_dimension_count_images_not_batches(rng):
    model = PixelCNN((8, 8, 1), rescale_pixel_value=True, **TINY)
    model.compile(optimizer="sgd", jit_compile=False)
    images = images_of(rng, count=5)
    images[4] = np.indices((8, 8)).sum(0)[..., None] % 2 * 255
    found = [
        model.evaluate(images, batch_size=size, verbose=0, return_dict=True)["bits_per_dim"]
        for size in (5, 4)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_weight_norm_starts_from_data(rng):
    model = PixelCNN(
        (8, 8, 1), use_weight_norm=True, reg_weight=2.0, rescale_pixel_value=True, **TINY
    )
    initialize_from_data(model, images_of(rng, count=32))
    layers = [v for v in model.network._flatten_layers() if isinstance(v, WeightNormConv2D)]
    probe = keras.Model(model.network.inputs[0], [layer.output for layer in layers])
    outputs = probe(images_of(np.random.default_rng(0), count=32) / 127.5 - 1.0)
    for layer, output in zip(layers, outputs, strict=True):
        moments = np.mean(output, (0, 1, 2)), np.std(output, (0, 1, 2))
        np.testing.assert_allclose(moments[0], 0.0, atol=1e-3, err_msg=layer.name)
        np.testing.assert_allclose(moments[1], 1.0, atol=1e-2, err_msg=layer.name)
        norms = np.sqrt(np.sum(np.square(layer.kernel), axis=(0, 1, 2)))
        np.testing.assert_allclose(norms, np.abs(layer.gain), rtol=1e-4)
    squares = sum(float(np.sum(np.square(layer.kernel))) for layer in layers)
    assert float(sum(model.losses)) == pytest.approx(2.0 * squares, rel=1e-4)
    with pytest.raises(ValueError, match="use_weight_norm=True"):
        initialize_from_data(PixelCNN((8, 8, 1), **TINY), images_of(rng))


def test_class_condition_and_dropout_have_an_effect(rng):
    images = images_of(rng)
    model = PixelCNN((8, 8, 1), num_classes=3, dropout_p=0.5, rescale_pixel_value=True, **TINY)
    by_label = [model.predict([images, np.full(3, label)], verbose=0) for label in (0, 1)]
    assert np.abs(by_label[0] - by_label[1]).max() > 1e-3
    inputs = [images, np.zeros(3, np.int32)]
    assert np.abs(np.asarray(model(inputs, training=True)) - by_label[0]).max() > 1e-3
    np.testing.assert_allclose(model(inputs, training=False), by_label[0], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_is_near_float32_and_its_likelihood_is_float32(rng):
    images = images_of(rng)
    options = {"rescale_pixel_value": True} | TINY
    exact = PixelCNN((8, 8, 1), **options).predict(images, verbose=0)
    half = PixelCNN((8, 8, 1), dtype="mixed_bfloat16", **options).predict(images, verbose=0)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half.sum((1, 2)), exact.sum((1, 2)), rtol=5e-3)


@pytest.mark.parametrize("use_weight_norm", [False, True])
def test_saved_models_score_identically(use_weight_norm, rng, tmp_path):
    model = PixelCNN(
        (8, 8, 3),
        num_hierarchies=2,
        use_weight_norm=use_weight_norm,
        dtype=PRECISION,
        **TINY,
    )
    images = images_of(rng, (8, 8, 3))
    model.compile(optimizer="sgd", jit_compile=False)
    if use_weight_norm:
        initialize_from_data(model, images)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    exact = 0.0 if keras.backend.backend() == "tensorflow" else 1e-5  # XLA compiles both anew
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0), rtol=exact
    )


@pytest.mark.tensorflow
def test_the_log_probability_map_sums_to_the_mixture(rng):
    model = PixelCNN((8, 8, 1), rescale_pixel_value=True, num_logistic_mix=3, **TINY)
    images = images_of(rng)
    expected = logistic_mixture.distribution(model.mixture(images)).log_prob(images)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_hierarchies": 4}, r"--num_hierarchies must lie in \[1, 3\]. Received: 4"),
        ({"num_hierarchies": 3, "image_shape": (10, 8, 1)}, "divisible by 4"),
        ({"num_filters": 0}, "--num_filters must be at least 1"),
        ({"dropout_p": 1.0}, r"--dropout_p must lie in \[0, 1\)"),
        ({"reg_weight": -1.0}, "--reg_weight must be 0 or more"),
        ({"mutation_rate": 1.5}, r"--mutation_rate must lie in \[0, 1\]"),
        ({"image_shape": (0, 8, 1)}, "`image_shape` must be positive"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PixelCNN(**{"image_shape": (8, 8, 1)} | options)
