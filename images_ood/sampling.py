"""Images drawn from a trained PixelCNN++."""

import keras
import numpy as np

from images_ood import logistic_mixture
from ood_suite.files import RunError
from ood_suite.optional import optional
from ood_suite.progress import progress


def draw(model, count, seed, labels=None):
    """Samples images pixel by pixel: one pass of the network per pixel, of all images at once.

    Args:
        model: PixelCNN. count: number of images. seed: int. labels: (count,) for a
            class-conditional model.

    Returns:
        uint8 (count, height, width, channels).
    """
    if keras.backend.backend() != "tensorflow":  # TensorFlow Probability draws the pixels
        raise RunError("Sampling needs TensorFlow: repeat with KERAS_BACKEND=tensorflow.")
    tf = optional("tensorflow")
    height, width, _ = model.options["image_shape"]
    images = np.zeros((count, *model.options["image_shape"]), np.float32)

    @tf.function(reduce_retracing=True)
    def propose(images, stateless_seed):
        mixture = model.mixture(images, labels)
        return logistic_mixture.distribution(mixture).sample(seed=stateless_seed)

    with progress(total=height * width, desc="sampling", unit="pixel") as bar:
        for pixel in range(height * width):
            row, column = divmod(pixel, width)
            proposal = propose(tf.constant(images), tf.constant([seed, pixel]))
            images[:, row, column] = proposal[:, row, column]
            bar.update()
    return images.astype(np.uint8)
