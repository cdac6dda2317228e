"""DenseNet-BC for small images (Huang et al., "Densely Connected Networks", CVPR 2017).

The depth-100, growth-12 network, called DenseNet-101 or DenseNet-BC-100-12 in OOD papers, has
769,162 trainable parameters for 10 classes, and 342 features.
"""

from keras import layers

from classifier_ood.models import blocks


def build(
    input_shape,
    num_classes,
    *,
    depth=100,
    growth=12,
    reduction=0.5,
    dropout=0.0,
    affine=True,
    mean=0.0,
    std=255.0,
):
    """DenseNet-BC: three dense blocks of bottlenecks, two transitions.

    Args:
        input_shape: (height, width, channels).
        depth: 6 n + 4 for n bottlenecks a block. growth: channels that each adds.
        reduction: share of the channels that a transition keeps, in (0, 1].
        dropout: after each convolution but the first, in [0, 1).
        affine: whether BatchNorm has gamma and beta (Unleashing Mask's networks have none).
        mean, std: of the normalisation, in pixels 0..255.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"`depth` must be 6 n + 4, n >= 1. Received: {depth}.")
    inputs, x = blocks.image_input(input_shape, mean, std)
    x = blocks.convolution(x, 2 * growth, 3, "conv1")
    x = dense_blocks(x, [(depth - 4) // 6] * 3, growth, reduction, dropout, affine)
    return blocks.classifier(inputs, x, num_classes, f"densenet_bc_{depth}_{growth}")


def dense_blocks(x, counts, growth, reduction, dropout, affine):
    """Dense blocks of so many bottlenecks each, a transition between two, BatchNorm and ReLU."""
    for block, count in enumerate(counts, 1):
        for i in range(count):
            new = _bottleneck(x, growth, dropout, affine, f"block{block}_layer_{i}")
            x = layers.Concatenate(name=f"block{block}_layer_{i}")([x, new])
        if block < len(counts):
            name = f"trans{block}"
            kept = int(x.shape[-1] * reduction)
            x = blocks.norm_relu(x, f"{name}_bn1", affine)
            x = _dropped(blocks.convolution(x, kept, 1, f"{name}_conv1"), dropout, f"{name}_drop")
            x = layers.AveragePooling2D(2, name=name)(x)
    return blocks.norm_relu(x, "bn1", affine)


def _bottleneck(x, growth, dropout, affine, name):
    x = blocks.norm_relu(x, f"{name}_bn1", affine)
    x = _dropped(blocks.convolution(x, 4 * growth, 1, f"{name}_conv1"), dropout, f"{name}_drop1")
    x = blocks.norm_relu(x, f"{name}_bn2", affine)
    return _dropped(blocks.convolution(x, growth, 3, f"{name}_conv2"), dropout, f"{name}_drop2")


def _dropped(x, rate, name):
    return layers.Dropout(rate, name=name)(x) if rate else x
