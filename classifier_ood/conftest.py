"""What several tests of classifiers begin with."""

import keras
import numpy as np
import pytest

from classifier_ood import models


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (16, 8, 8, 1)).astype(np.float32)


@pytest.fixture
def network(images):
    """A network whose BatchNorm statistics are not those of its initialisation."""
    keras.utils.set_random_seed(0)
    built = models.build("convnet", (8, 8, 1), 3, {"width": 3, "dropout": 0.2})
    for _ in range(3):
        built(images, training=True)
    return built
