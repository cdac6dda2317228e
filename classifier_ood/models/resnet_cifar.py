"""Residual networks with a stem for small images (He et al., "Deep Residual Learning", CVPR 2016).

The CIFAR variant that OOD papers use: a 3x3 stem of stride 1, no max-pooling, post-activation
blocks. ResNet-18 has 11.17 million parameters for 10 classes, and 512 features.
"""

from keras import layers

from classifier_ood.configs import CIFAR_MEAN, CIFAR_STD
from classifier_ood.models import blocks

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def build(
    input_shape,
    num_classes,
    *,
    depth=18,
    width=64,
    affine=True,
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
):
    """ResNet-18, -34 (basic blocks), -50 or -101 (bottlenecks, four times as many features).

    Args:
        input_shape: (height, width, channels).
        width: channels of the stem and of the first of four groups, which double.
        affine: whether BatchNorm has gamma and beta.
        mean, std: of the normalisation, in pixels 0..255; the default is CIFAR's.
    """
    check_depth(depth)
    inputs, x = blocks.image_input(input_shape, mean, std)
    x = blocks.norm_relu(blocks.convolution(x, width, 3, "conv1"), "bn1", affine)
    x = groups(x, depth, width, affine)
    return blocks.classifier(inputs, x, num_classes, f"resnet{depth}_cifar")


def check_depth(depth):
    """Refuses depths that are not in BLOCKS (ValueError)."""
    if depth not in BLOCKS:
        raise ValueError(f"`depth` must be one of {list(BLOCKS)}. Received: {depth}.")


def groups(x, depth, width, affine):
    """The four groups of residual blocks behind a stem; all but the first halve the size."""
    for group, count in enumerate(BLOCKS[depth], 1):
        for i in range(count):
            stride = 2 if group > 1 and i == 0 else 1
            filters = width * 2 ** (group - 1)
            x = _block(x, filters, stride, depth >= 50, affine, f"layer{group}_{i}")
    return x


def _block(x, filters, stride, bottleneck, affine, name):
    """Basic: conv3-BN-ReLU-conv3-BN; bottleneck: conv1, conv3 (strided), conv1 to 4 * filters."""
    kernels = (1, 3, 1) if bottleneck else (3, 3)
    strides = (1, stride, 1) if bottleneck else (stride, 1)
    outputs = filters * 4 if bottleneck else filters
    y = x
    for i, (size, step) in enumerate(zip(kernels, strides, strict=True), 1):
        last = i == len(kernels)
        y = blocks.convolution(y, outputs if last else filters, size, f"{name}_conv{i}", step)
        y = (blocks.batch_norm if last else blocks.norm_relu)(y, f"{name}_bn{i}", affine)
    if stride > 1 or x.shape[-1] != outputs:
        x = blocks.convolution(x, outputs, 1, f"{name}_shortcut_0", stride)
        x = blocks.batch_norm(x, f"{name}_shortcut_1", affine)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=name)([x, y]))
