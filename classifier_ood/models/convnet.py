"""A small convolutional network, for 28x28 images on a CPU."""

from keras import layers

from classifier_ood.models import blocks


def build(input_shape, num_classes, width=32, dropout=0.0, mean=0.0, std=255.0):
    """Three stages of two 3x3 convolutions with BatchNorm and ReLU, of `width`, 2 and 4 times
    `width` channels, with max-pooling in between; 4 * width features.

    Args:
        input_shape: (height, width, channels).
        dropout: before each pooling, in [0, 1).
        mean, std: of the normalisation, in pixels 0..255.
    """
    inputs, x = blocks.image_input(input_shape, mean, std)
    for stage in (1, 2, 3):
        for i in (1, 2):
            x = blocks.convolution(x, width * 2 ** (stage - 1), 3, f"stage{stage}_conv{i}")
            x = blocks.norm_relu(x, f"stage{stage}_bn{i}")
        if dropout:
            x = layers.Dropout(dropout, name=f"stage{stage}_drop")(x)
        if stage < 3:
            x = layers.MaxPooling2D(2, name=f"stage{stage}")(x)
    return blocks.classifier(inputs, x, num_classes, "convnet")
