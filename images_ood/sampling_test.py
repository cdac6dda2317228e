"""Sampling: a row at a time is the network on the whole image, and what is drawn follows it."""

import numpy as np
import pytest

from images_ood import logistic_mixture, sampling
from images_ood.pixelcnn import PixelCNN

OPTIONS = {"num_resnet": 1, "num_filters": 4, "seed": 3}


@pytest.mark.jax
@pytest.mark.parametrize(
    "shape, options",
    [
        ((6, 5, 1), {}),
        ((6, 5, 1), {"num_resnet": 3, "rescale_pixel_value": True, "dropout_p": 0.5}),
        ((4, 5, 3), {"num_logistic_mix": 2, "rescale_pixel_value": True, "num_classes": 3}),
        ((4, 5, 1), {"use_weight_norm": True, "mutation_rate": 0.3}),
    ],
)
def test_rows_one_after_the_other_are_the_whole_image(rng, shape, options):
    model = PixelCNN(shape, **OPTIONS | options)
    for variable in model.trainable_variables:  # biases are zero at the start, and would not show
        variable.assign(rng.normal(0, 0.3, variable.shape))
    images = rng.integers(0, 256, (2, *shape)).astype(np.float32)
    labels = np.array([0, 2], np.int32) if options.get("num_classes") else None
    whole, before = model.mixture(images, labels), None
    for row in range(shape[0]):
        found, before = sampling.row_mixture(model, images[:, row : row + 1], before, labels)
        for name in ("logits", "locations", "scales", "coefficients"):
            expected = np.asarray(getattr(whole, name))[:, row : row + 1]
            scale = max(1.0, np.abs(expected).max(initial=0))
            np.testing.assert_allclose(getattr(found, name), expected, atol=2e-5 * scale)


@pytest.mark.jax
def test_rows_of_several_sizes_are_refused():
    model = PixelCNN((4, 4, 1), **OPTIONS | {"num_hierarchies": 2})
    with pytest.raises(ValueError, match="needs num_hierarchies=1. Received: 2."):
        sampling.row_mixture(model, np.zeros((1, 1, 4, 1), np.float32))


@pytest.mark.jax
def test_pixels_from_here_on_change_nothing_here(rng):
    model = PixelCNN((4, 6, 1), **OPTIONS)
    row = rng.integers(0, 256, (1, 1, 6, 1)).astype(np.float32)
    other = row.copy()
    other[:, :, 3:] = 255 - other[:, :, 3:]
    first, second = (sampling.row_mixture(model, x)[0].locations[:, :, :4] for x in (row, other))
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.tensorflow
@pytest.mark.parametrize("num_hierarchies", [1, 2])
def test_what_is_drawn_has_the_probabilities_of_the_model(rng, num_hierarchies):
    """The mean log-probability of drawn images is minus the entropy, which the mixtures along
    other drawn images give: a pixel drawn from the wrong place, row or mixture raises it.
    """
    options = OPTIONS | {"rescale_pixel_value": True, "num_hierarchies": num_hierarchies}
    model = PixelCNN((4, 4, 1), **options)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    drawn = sampling.draw(model, 1500, seed=1)
    nats = -np.asarray(model(drawn)).sum(axis=(1, 2))
    mixture = model.mixture(sampling.draw(model, 300, seed=2))
    values = np.arange(256, dtype=np.float32).reshape(-1, 1, 1, 1, 1)
    log_p = np.stack(
        [
            np.asarray(logistic_mixture.log_prob_map(mixture, np.full((1, 4, 4, 1), v)))
            for v in values.ravel()
        ]
    )
    entropies = -(np.exp(log_p) * log_p).sum(axis=0).sum(axis=(1, 2))
    error = np.hypot(nats.std() / 1500**0.5, entropies.std() / 300**0.5)
    assert abs(nats.mean() - entropies.mean()) < 4 * error


@pytest.mark.tensorflow
def test_a_seed_draws_the_same_images_and_another_others():
    model = PixelCNN((4, 4, 3), **OPTIONS | {"num_classes": 2})
    labels = np.array([0, 1, 1])
    first, again, other = (sampling.draw(model, 3, seed, labels) for seed in (7, 7, 8))
    assert first.shape == (3, 4, 4, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5
