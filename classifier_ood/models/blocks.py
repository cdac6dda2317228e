"""What all backbones share: the first and the last layers, and PyTorch's convolutions."""

import math

import keras
from keras import layers


def image_input(input_shape, mean, std):
    """(input, normalised): (x - mean) / std with `mean` and `std` in pixels 0..255, one number or
    one per channel.
    """
    inputs = keras.Input(input_shape, name="images")
    means, stds = (
        [value] * input_shape[-1] if isinstance(value, (int, float)) else list(value)
        for value in (mean, std)
    )
    for name, values in (("mean", means), ("std", stds)):
        if len(values) != input_shape[-1]:
            raise ValueError(
                f"`{name}` must be one number or one per channel ({input_shape[-1]}). "
                f"Received: {values}."
            )
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"`{name}` must be finite. Received: {values}.")
    if min(stds) <= 0.0:
        raise ValueError(f"`std` must be positive. Received: {stds}.")
    if 0.0 < max(means) <= 1.0 or max(stds) < 1.0:
        pixels = [[round(255.0 * value, 4) for value in values] for values in (means, stds)]
        raise ValueError(
            f"`mean` and `std` must be in pixels, 0..255. Received: {means} and {stds}, which look "
            f"like 0..1: mean={pixels[0]}, std={pixels[1]} are the same in pixels."
        )
    scale = [1.0 / s for s in stds]
    offset = [-m / s for m, s in zip(means, stds, strict=True)]
    return inputs, layers.Rescaling(scale, offset, name="normalisation")(inputs)


def convolution(x, filters, size, name, stride=1):
    """A convolution without bias whose padding is symmetric, as PyTorch's padding=size // 2.

    Keras's "same" pads a stride-2 convolution on one side only, so padding is a layer there.
    """
    padding = "same"
    if stride > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    return layers.Conv2D(
        filters,
        size,
        stride,
        padding,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )(x)


def batch_norm(x, name, affine=True):
    """BatchNorm with PyTorch's epsilon and momentum; not affine: without gamma and beta."""
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, center=affine, scale=affine, name=name
    )(x)


def norm_relu(x, name, affine=True):
    return layers.ReLU(name=f"{name}_relu")(batch_norm(x, name, affine))


def halved(maps, name):
    """The largest of 3x3 at every second place; `maps` are not negative, so that zeros around them
    are PyTorch's padding.
    """
    return layers.MaxPooling2D(3, 2, name=name)(layers.ZeroPadding2D(1, name=f"{name}_pad")(maps))


def classifier(inputs, maps, num_classes, name):
    """The model that pools `maps` (batch, height, width, d) to features and adds the head."""
    features = layers.GlobalAveragePooling2D(name="features", dtype="float32")(maps)
    logits = layers.Dense(num_classes, name="fc", dtype="float32")(features)
    return keras.Model(inputs, {"features": features, "logits": logits}, name=name)
