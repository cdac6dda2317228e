"""The motif classifier against a literal rewrite, and its features and perturbed logits."""

import numpy as np
import pytest

from genomics_ood import motif_cnn
from genomics_ood.extract_features import one_hot
from ood_suite.training import input_gradients


def test_a_literal_rewrite(rng):
    network = motif_cnn.build(12, 3, motifs=5, motif_length=4, hidden=6)
    weights = [w + 0.2 * rng.normal(size=w.shape) for w in network.get_weights()]
    network.set_weights(weights)
    motifs, motif_bias, dense, dense_bias, head, head_bias = weights
    bases = rng.integers(0, 4, (4, 12)).astype(np.uint8)
    found = network.predict(one_hot(bases), verbose=0)
    for n, read in enumerate(bases):
        best = np.zeros(5)
        for start in range(9):
            match = motif_bias + sum(motifs[i, read[start + i]] for i in range(4))
            best = np.maximum(best, match)
        features = np.maximum(best @ dense + dense_bias, 0.0)
        np.testing.assert_allclose(found["features"][n], features, rtol=1e-4, atol=1e-5)
        logits = features @ head + head_bias
        np.testing.assert_allclose(found["logits"][n], logits, rtol=1e-4, atol=1e-5)


def test_odin_moves_the_one_hot_bases(rng):
    network = motif_cnn.build(12, 3, motifs=5, motif_length=4, hidden=6)
    bases = one_hot(rng.integers(0, 4, (6, 12)).astype(np.uint8))
    found = input_gradients.odin(network, 1.0, [0.0, 0.05], scale=1.0)(bases)
    np.testing.assert_allclose(
        found["T=1,epsilon=0"], network.predict(bases, verbose=0)["logits"], rtol=1e-5, atol=1e-6
    )

    # A step of size epsilon against the gradient of the loss makes the prediction surer.
    def confidence(logits):
        return logits.max(axis=1) - np.logaddexp.reduce(logits, axis=1)

    assert (confidence(found["T=1,epsilon=0.05"]) >= confidence(found["T=1,epsilon=0"])).all()


def test_bad_options():
    with pytest.raises(ValueError, match="--motif_length must be at most 5"):
        motif_cnn.build(5, 2)
