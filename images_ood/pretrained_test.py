"""The shipped FashionMNIST pair on embedded images: the likelihood fails, the ratio does not."""

import pathlib

import numpy as np

from images_ood.extract import load_model
from ood_suite import data, metrics
from ood_suite.runs.run import Run

PAIR = pathlib.Path(__file__).parents[1] / "pretrained" / "images_fashion"


def test_the_failure_of_the_likelihood_and_its_cure():
    foreground, background = (
        load_model(Run.load(PAIR / name)) for name in ("reg0_mr0", "reg10_mr0.1")
    )
    rows = np.arange(0, 2000, 16)
    scores = {"likelihood": [], "ratio": []}
    for name in ("fashion_mnist", "mnist"):
        images = data.load(name, "test").images[rows]
        log_prob, under_background = (
            model.predict(images, verbose=0).sum((1, 2)) for model in (foreground, background)
        )
        scores["likelihood"].append(-log_prob)
        scores["ratio"].append(under_background - log_prob)
    assert metrics.evaluate(*scores["likelihood"])["auroc"] < 0.15
    assert metrics.evaluate(*scores["ratio"])["auroc"] > 0.97


def test_the_pair_is_small():
    assert sum(path.stat().st_size for path in PAIR.glob("*/model.keras")) < 10 * 2**20
