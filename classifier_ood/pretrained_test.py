"""The shipped FashionMNIST classifier on embedded images: its accuracy, and digits by energy."""

import pathlib

import numpy as np

from classifier_ood.extract import new_classifier
from ood_suite import data, metrics
from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from ood_suite.runs.run import Run

RUN = pathlib.Path(__file__).parents[1] / "pretrained" / "classifier_fashion" / "wide_resnet"


def test_it_classifies_clothes_and_tells_digits_apart():
    network = new_classifier(Run.load(RUN)).network
    scores, rows = [], np.arange(0, 2000, 8)
    for name in ("fashion_mnist", "mnist"):
        found = data.load(name, "test")
        logits = network.predict(found.images[rows], verbose=0)["logits"]
        scores.append(Detector("energy").score(Outputs(logits=logits)))
        if name == "fashion_mnist":
            assert metrics.accuracy(logits, found.labels[rows]) > 0.9
    assert metrics.evaluate(*scores)["auroc"] > 0.9
