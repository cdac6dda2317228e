"""MobileNetV2 for images of ImageNet's size, as torchvision has it.

It has 3,504,872 parameters for 1000 classes, and 1280 features.

Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
table 2; torchvision.models.mobilenetv2.
"""

from keras import layers

from classifier_ood.configs import IMAGENET_MEAN, IMAGENET_STD
from classifier_ood.models import blocks

# Table 2: (expansion, channels, blocks, stride of the first one).
GROUPS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def build(input_shape, num_classes, *, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """MobileNetV2 of width 1, without the dropout before its head.

    Args:
        input_shape: (height, width, channels).
        mean, std: of the normalisation, in pixels 0..255; the default is ImageNet's.
    """
    inputs, x = blocks.image_input(input_shape, mean, std)
    x = _norm_relu6(blocks.convolution(x, 32, 3, "features_0_0", stride=2), "features_0_1")
    number = 0
    for expansion, channels, count, first_stride in GROUPS:
        for i in range(count):
            number += 1
            stride = first_stride if i == 0 else 1
            x = _inverted_residual(x, expansion, channels, stride, f"features_{number}")
    name = f"features_{number + 1}"
    x = _norm_relu6(blocks.convolution(x, 1280, 1, f"{name}_0"), f"{name}_1")
    return blocks.classifier(inputs, x, num_classes, "mobilenet_v2")


def _inverted_residual(x, expansion, channels, stride, name):
    """1x1 to more channels, 3x3 on each of them, 1x1 to fewer without ReLU; x is added where the
    shapes allow it.
    """
    y, part = x, 0
    if expansion > 1:
        y = blocks.convolution(y, expansion * x.shape[-1], 1, f"{name}_conv_0_0")
        y, part = _norm_relu6(y, f"{name}_conv_0_1"), 1
    y = _depthwise(y, stride, f"{name}_conv_{part}_0")
    y = _norm_relu6(y, f"{name}_conv_{part}_1")
    y = blocks.convolution(y, channels, 1, f"{name}_conv_{part + 1}")
    y = blocks.batch_norm(y, f"{name}_conv_{part + 2}")
    return layers.Add(name=name)([x, y]) if stride == 1 and x.shape[-1] == channels else y


def _depthwise(x, stride, name):
    """A 3x3 convolution of each channel by itself, padded on both sides as PyTorch does."""
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.DepthwiseConv2D(3, stride, use_bias=False, name=name)(x)


def _norm_relu6(x, name):
    return layers.ReLU(6.0, name=f"{name}_relu")(blocks.batch_norm(x, name))
