"""Residual networks for images of ImageNet's size, as torchvision has them.

Stride 2 of a bottleneck lies on its 3x3 convolution. ResNet-50 has 25,557,032 parameters for 1000
classes, and 2048 features.

Reference: He et al., "Deep Residual Learning", CVPR 2016; torchvision.models.resnet.
"""

from classifier_ood.configs import IMAGENET_MEAN, IMAGENET_STD
from classifier_ood.models import blocks
from classifier_ood.models.resnet_cifar import check_depth, groups


def build(
    input_shape,
    num_classes,
    *,
    depth=50,
    width=64,
    affine=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
):
    """ResNet-18, -34 (basic blocks), -50 or -101 (bottlenecks).

    Args:
        input_shape: (height, width, channels).
        width: channels of the stem and of the first of four groups, which double.
        affine: whether BatchNorm has gamma and beta.
        mean, std: of the normalisation, in pixels 0..255; the default is ImageNet's.
    """
    check_depth(depth)
    inputs, x = blocks.image_input(input_shape, mean, std)
    x = blocks.norm_relu(blocks.convolution(x, width, 7, "conv1", stride=2), "bn1", affine)
    x = groups(blocks.halved(x, "pool1"), depth, width, affine)
    return blocks.classifier(inputs, x, num_classes, f"resnet{depth}")
