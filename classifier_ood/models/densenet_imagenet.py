"""DenseNet-121 for images of ImageNet's size, as torchvision has it.

It has 7,978,856 parameters for 1000 classes, and 1024 features.

Reference: Huang et al., "Densely Connected Networks", CVPR 2017; torchvision.models.densenet.
"""

from classifier_ood.configs import IMAGENET_MEAN, IMAGENET_STD
from classifier_ood.models import blocks
from classifier_ood.models.densenet import dense_blocks

BOTTLENECKS = (6, 12, 24, 16)  # of the four blocks of DenseNet-121


def build(
    input_shape,
    num_classes,
    *,
    bottlenecks=BOTTLENECKS,
    growth=32,
    dropout=0.0,
    affine=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
):
    """DenseNet-BC behind a stem of stride 4.

    Args:
        input_shape: (height, width, channels).
        bottlenecks: of each block. growth: channels that each adds; the stem has twice as many.
        dropout: after each convolution of the blocks, in [0, 1).
        affine: whether BatchNorm has gamma and beta.
        mean, std: of the normalisation, in pixels 0..255; the default is ImageNet's.
    """
    inputs, x = blocks.image_input(input_shape, mean, std)
    x = blocks.norm_relu(blocks.convolution(x, 2 * growth, 7, "conv1", stride=2), "bn0", affine)
    x = dense_blocks(blocks.halved(x, "pool0"), bottlenecks, growth, 0.5, dropout, affine)
    depth = 2 * sum(bottlenecks) + len(bottlenecks) + 1
    return blocks.classifier(inputs, x, num_classes, f"densenet{depth}")
