"""The vision transformer ViT-B/16, as torchvision has it.

It has 86,566,888 parameters for 1000 classes (the class token is part of the first position), and
768 features: the first token behind the last normalisation.

Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021;
torchvision.models.vision_transformer.
"""

import keras
from keras import layers, ops

from classifier_ood.configs import IMAGENET_MEAN, IMAGENET_STD
from classifier_ood.models import blocks

EPSILON = 1e-6  # of the layer normalisations


def build(
    input_shape,
    num_classes,
    *,
    depth=12,
    width=768,
    heads=12,
    hidden=3072,
    patch=16,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
):
    """A vision transformer without dropout.

    Args:
        input_shape: (height, width, channels), whole numbers of patches.
        depth: encoder layers. width: of a token, a multiple of `heads`. hidden: units of the MLPs.
        patch: side of the squares that become tokens, in pixels.
        mean, std: of the normalisation, in pixels 0..255; the default is ImageNet's.
    """
    if input_shape[0] % patch or input_shape[1] % patch:
        raise ValueError(
            f"Height and width must be divisible by `patch` ({patch}). Received: {input_shape}."
        )
    if width % heads:
        raise ValueError(f"`width` must be a multiple of `heads`. Received: {width}, {heads}.")
    inputs, x = blocks.image_input(input_shape, mean, std)
    x = layers.Conv2D(width, patch, patch, name="conv_proj")(x)
    x = layers.Reshape((-1, width), name="patches")(x)  # (batch, patches, width)
    x = _tokens(x, "tokens")
    for i in range(depth):
        x = _encoder(x, heads, hidden, f"encoder_layers_encoder_layer_{i}")
    x = layers.LayerNormalization(epsilon=EPSILON, name="encoder_ln")(x)
    features = layers.Identity(name="features", dtype="float32")(x[:, 0])
    logits = layers.Dense(num_classes, name="fc", dtype="float32")(features)
    outputs = {"features": features, "logits": logits}
    return keras.Model(inputs, outputs, name=f"vit_{depth}_{width}_{patch}")


def _tokens(patches, name):
    """(batch, patches, width) -> (batch, 1 + patches, width): a place for the class token in front
    of the patches, and a learned vector added to each.

    The class token itself is part of the first vector: only their sum is ever seen. Keras's own
    layers alone, so that a saved model is read where this module is not imported.
    """
    _, count, width = patches.shape
    x = layers.ZeroPadding1D((1, 0), name=f"{name}_pad")(patches)
    places = ops.cumsum(ops.ones_like(x[:, :, 0], dtype="int32"), axis=1) - 1  # 0 .. patches
    return layers.Add(name=f"{name}_add")(
        [x, layers.Embedding(1 + count, width, name=name)(places)]
    )


def _encoder(x, heads, hidden, name):
    """x + attention(norm(x)), then x + MLP(norm(x)): figure 1 of the paper."""
    width = x.shape[-1]
    y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_ln_1")(x)
    x = layers.Add(name=f"{name}_add_1")([x, _attention(y, heads, f"{name}_self_attention")])
    y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_ln_2")(x)
    y = layers.Dense(hidden, name=f"{name}_mlp_0")(y)
    y = layers.Dense(width, name=f"{name}_mlp_3")(ops.gelu(y, approximate=False))
    return layers.Add(name=f"{name}_add_2")([x, y])


def _attention(x, heads, name):
    """softmax(q k^T / sqrt(d)) v in each head, with one kernel for q, k and v as PyTorch has it."""
    tokens, width = x.shape[1:]
    size = width // heads
    joint = layers.Dense(3 * width, name=f"{name}_in_proj")(x)
    joint = layers.Reshape((tokens, 3, heads, size), name=f"{name}_heads")(joint)
    query, key, value = (joint[:, :, i] for i in range(3))  # each (batch, tokens, heads, size)
    weights = ops.softmax(ops.einsum("bqhs,bkhs->bhqk", query, key) / size**0.5)
    mixed = ops.einsum("bhqk,bkhs->bqhs", weights, value)
    mixed = layers.Reshape((tokens, width), name=f"{name}_joined")(mixed)
    return layers.Dense(width, name=f"{name}_out_proj")(mixed)
