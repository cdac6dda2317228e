"""Mixtures of discretised logistic distributions over 8-bit pixels.

One pixel with channels v_1..v_c (integers 0..255) has

    p(v) = sum_m  pi_m  prod_k  P(v_k | location_mk, scale_mk)
    P(v) = F((v + 0.5 - location) / scale) - F((v - 0.5 - location) / scale),    F = logistic
    sigmoid

where the two edge bins take the whole tails (0 from -inf, 255 to +inf), so that the 256 values sum
to 1. Within a component the location of a channel depends linearly on the channels before it (red
-> green -> blue).

Reference: Salimans, Karpathy, Chen, Kingma, "PixelCNN++", ICLR 2017, section 2.1 and 2.2, equation
2 and 3.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ood_suite.optional import optional

MINIMUM_RESCALED_SCALE = float(np.exp(-7.0))  # in units of the rescaled input, [-1, 1]
MINIMUM_RAW_SCALE = 0.25  # in pixels, 0..255


class MixtureParameters(NamedTuple):
    """Parameters of one mixture per pixel; locations and scales are in pixels (0..255).

    Shapes, with m components and c channels: logits (batch, height, width, m); locations and scales
    (batch, height, width, m, c); coefficients (batch, height, width, m, c * (c - 1) / 2), which
    multiply `value - center` of the earlier channels in the order (2 from 1), (3 from 1), (3 from
    2), ...
    """

    logits: Any
    locations: Any
    scales: Any
    coefficients: Any
    center: float


def num_parameters(num_channels, num_logistic_mix):
    """Number of network outputs per pixel: m * (1 + 2c + c(c - 1)/2).

    >>> num_parameters(num_channels=3, num_logistic_mix=10)
    100
    """
    return num_logistic_mix * (1 + 2 * num_channels + num_channels * (num_channels - 1) // 2)


def split_parameters(raw, num_channels, num_logistic_mix, rescale_pixel_value):
    """Splits and bounds the network's output.

    Args:
        raw: float32 (batch, height, width, num_parameters(c, m)).
        rescale_pixel_value: True when the network reads pixels as [-1, 1]: then location = 127.5 *
            (raw + 1) and scale = 127.5 * (softplus(raw) + exp(-7)), and the channel coefficients
            multiply rescaled values (the reference code multiplies raw 0..255 values, which costs
            it over 100 bits per dimension at the start). False when it reads 0..255: location =
            raw, scale = max(255 * sigmoid(raw), 0.25).

    Returns:
        MixtureParameters, in pixels.
    """
    c, m = num_channels, num_logistic_mix
    height, width = raw.shape[1:3]
    per_component = num_parameters(c, 1)
    # (batch, height, width, m, 1 + 2c + c(c-1)/2)
    raw = ops.reshape(ops.cast(raw, "float32"), (-1, height, width, m, per_component))
    logits, locations, scales, coefficients = (
        raw[..., 0],
        raw[..., 1 : 1 + c],
        raw[..., 1 + c : 1 + 2 * c],
        raw[..., 1 + 2 * c :],
    )
    if rescale_pixel_value:
        locations = 127.5 * (locations + 1.0)
        scales = 127.5 * (ops.softplus(scales) + MINIMUM_RESCALED_SCALE)
        return MixtureParameters(logits, locations, scales, coefficients, 127.5)
    scales = ops.maximum(255.0 * ops.sigmoid(scales), MINIMUM_RAW_SCALE)
    return MixtureParameters(logits, locations, scales, coefficients, 0.0)


def conditional_locations(parameters, values):
    """Locations after the linear dependence between channels.

    Args:
        parameters: MixtureParameters with m components and c channels.
        values: float32 (batch, height, width, 1 or m, c), pixels 0..255; channel k only reads
            channels before k.

    Returns:
        float32 (batch, height, width, m, c), in pixels.
    """
    num_channels = parameters.locations.shape[-1]
    if num_channels == 1:
        return parameters.locations
    centered = values - parameters.center
    columns, coefficient = [parameters.locations[..., :1]], 0
    for k in range(1, num_channels):
        location = parameters.locations[..., k : k + 1]
        for earlier in range(k):
            weight = parameters.coefficients[..., coefficient : coefficient + 1]
            location = location + weight * centered[..., earlier : earlier + 1]
            coefficient += 1
        columns.append(location)
    return ops.concatenate(columns, axis=-1)


def log_prob_map(parameters, images):
    """Log-probability of each pixel given those before it, in nats.

    With a = (v + 0.5 - location)/scale and b = a - 1/scale, the mass of an inner bin is
        sigmoid(a) - sigmoid(b) = sigmoid(a) * sigmoid(-b) * (1 - exp(-1/scale)),
    a product of three factors that are exact in logarithms however far v lies from the location;
    the edge bins drop the factor of their open side and the last one. No clipping and no
    approximation is needed.

    Args:
        parameters: MixtureParameters.
        images: (batch, height, width, c), pixel values 0..255.

    Returns:
        float32 (batch, height, width), each <= 0; the channels of a pixel count together.
    """
    values = ops.expand_dims(ops.cast(images, "float32"), axis=-2)  # (batch, height, width, 1, c)
    locations = conditional_locations(parameters, values)
    inverse_scales = 1.0 / parameters.scales
    upper = (values + 0.5 - locations) * inverse_scales
    lower = (values - 0.5 - locations) * inverse_scales
    is_low, is_high = values < 0.5, values > 254.5
    log_below_upper = ops.where(is_high, 0.0, -ops.softplus(-upper))
    log_above_lower = ops.where(is_low, 0.0, -ops.softplus(lower))
    log_width = ops.where(
        ops.logical_or(is_low, is_high), 0.0, ops.log(-ops.expm1(-inverse_scales))
    )
    # (batch, height, width, m)
    log_components = ops.sum(log_below_upper + log_above_lower + log_width, axis=-1)
    log_weights = ops.log_softmax(parameters.logits, axis=-1)
    return ops.logsumexp(log_weights + log_components, axis=-1)


def distribution(parameters):
    """The same mixture as a TensorFlow Probability distribution: for sampling, and an oracle in
    tests.

    Args:
        parameters: MixtureParameters of TensorFlow (or NumPy) arrays.

    Returns:
        tfd.MixtureSameFamily with batch shape (batch, height, width) and event shape (c,): pixels
        as float32 0..255.
    """
    tf, tfp = optional("tensorflow"), optional("tensorflow_probability")
    tfd = tfp.distributions

    def quantized(values):
        located = parameters
        if values is not None:  # of samples: they have dimensions in front
            located = parameters._replace(locations=parameters.locations + tf.zeros_like(values))
        locations = conditional_locations(located, values)
        shifted = tfp.bijectors.Shift(-0.5)(tfd.Logistic(locations, parameters.scales))
        return tfd.Independent(tfd.QuantizedDistribution(shifted, low=0.0, high=255.0), 1)

    num_channels = parameters.locations.shape[-1]
    if num_channels == 1:
        components = quantized(None)
    else:
        components = tfd.Autoregressive(
            quantized, sample0=tf.zeros_like(parameters.locations), num_steps=num_channels
        )
    return tfd.MixtureSameFamily(tfd.Categorical(logits=parameters.logits), components)
