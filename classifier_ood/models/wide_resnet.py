"""Wide residual networks (Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016)."""

from keras import layers

from classifier_ood.configs import CIFAR_MEAN, CIFAR_STD
from classifier_ood.models import blocks

SHORTCUTS = {"activated": "convShortcut", "input": "shortcut"}  # what it acts on: its name


def build(
    input_shape,
    num_classes,
    *,
    depth=40,
    width=2,
    dropout=0.0,
    affine=True,
    shortcut="activated",
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
):
    """WRN-depth-width: pre-activation blocks in three groups of 16, 32, 64 times `width` channels.

    Args:
        input_shape: (height, width, channels).
        depth: 6 n + 4 for n blocks a group. width: factor of the channels.
        dropout: between the two convolutions of a block, in [0, 1).
        affine: whether BatchNorm has gamma and beta.
        shortcut: what the 1x1 convolutions act on where channels change: "activated", the block's
            input behind BatchNorm and ReLU, as in the paper, or "input", itself, as in some
            PyTorch code (there `shortcut`, and not `convShortcut`).
        mean, std: of the normalisation, in pixels 0..255; the default is CIFAR's.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"`depth` must be 6 n + 4, n >= 1. Received: {depth}.")
    if shortcut not in SHORTCUTS:
        raise ValueError(f"`shortcut` must be activated or input. Received: {shortcut!r}.")
    inputs, x = blocks.image_input(input_shape, mean, std)
    x = blocks.convolution(x, 16, 3, "conv1")
    for group in (1, 2, 3):
        for i in range((depth - 4) // 6):
            stride = 2 if group > 1 and i == 0 else 1
            filters = 16 * width * 2 ** (group - 1)
            name = f"block{group}_layer_{i}"
            x = _block(x, filters, stride, dropout, affine, SHORTCUTS[shortcut], name=name)
    x = blocks.norm_relu(x, "bn1", affine)
    return blocks.classifier(inputs, x, num_classes, f"wrn_{depth}_{width}")


def _block(x, filters, stride, dropout, affine, shortcut, *, name):
    """BN-ReLU-conv-BN-ReLU-dropout-conv; where channels change, the shortcut is a 1x1 convolution,
    a layer of this name.
    """
    activated = blocks.norm_relu(x, f"{name}_bn1", affine)
    if x.shape[-1] != filters:
        taken = x if shortcut == "shortcut" else activated
        x = blocks.convolution(taken, filters, 1, f"{name}_{shortcut}", stride)
    y = blocks.convolution(activated, filters, 3, f"{name}_conv1", stride)
    y = blocks.norm_relu(y, f"{name}_bn2", affine)
    if dropout:
        y = layers.Dropout(dropout, name=f"{name}_drop")(y)
    return layers.Add(name=name)([x, blocks.convolution(y, filters, 3, f"{name}_conv2")])
