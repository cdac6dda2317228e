"""The shipped classifiers. FashionMNIST: accuracy on embedded images, and digits by energy.
CIFAR-10, which is not embedded: logits as they were when its accuracy was measured.
"""

import pathlib

import numpy as np

from classifier_ood.extract import new_classifier
from ood_suite import data, metrics
from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from ood_suite.runs.run import Run

SHIPPED = pathlib.Path(__file__).parents[1] / "pretrained"
NOISE = [5.2391, 2.3159, 1.7780, 0.3914, 0.2284, -0.8075, -1.2350, -1.3257, -2.6847, -3.9315]
SKY = [5.3564, 4.2499, 0.3757, 0.3413, -0.2354, -0.2458, -1.9699, -2.4546, -2.6670, -2.7312]


def test_it_classifies_clothes_and_tells_digits_apart():
    network = new_classifier(Run.load(SHIPPED / "classifier_fashion/wide_resnet")).network
    scores, rows = [], np.arange(0, 2000, 8)
    for name in ("fashion_mnist", "mnist"):
        found = data.load(name, "test")
        logits = network.predict(found.images[rows], verbose=0)["logits"]
        scores.append(Detector("energy").score(Outputs(logits=logits)))
        if name == "fashion_mnist":
            assert metrics.accuracy(logits, found.labels[rows]) > 0.9
    assert metrics.evaluate(*scores)["auroc"] > 0.9


def test_the_cifar_classifier_is_the_one_that_was_measured():
    network = new_classifier(Run.load(SHIPPED / "classifier_cifar10/wide_resnet")).network
    images = np.empty((2, 32, 32, 3), np.uint8)
    images[0] = np.random.default_rng(0).integers(0, 256, images.shape)[0]
    images[1] = (90, 140, 220)
    logits = network.predict(images, verbose=0)["logits"]
    np.testing.assert_allclose(-np.sort(-logits), [NOISE, SKY], atol=1e-3)
    assert list(logits.argmax(axis=1)) == [2, 0]  # a bird and an airplane
