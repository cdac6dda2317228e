"""RankFeat, Gram and AdaSCALE: against their authors' and OpenOOD's code, slow literal rewrites,
hand numbers and bad input.

tests/references/feature_maps.npz holds inputs and outputs of that code: see its `provenance`.
"""

import pathlib

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from ood_suite.detector import Detector
from ood_suite.files import load_npz
from ood_suite.outputs import Outputs
from ood_suite.scores import checks, feature_maps, get
from ood_suite.scores.scores_test import fitted, outputs

PATH = pathlib.Path(__file__).parents[2] / "tests" / "references" / "feature_maps.npz"


@pytest.fixture(scope="module")
def frozen():
    return load_npz(PATH)


@pytest.mark.parametrize("kind", ("", "wide_"))
def test_rankfeat_is_openoods(frozen, kind):
    maps = frozen[f"rankfeat/{kind}maps"]
    features, removed = maps.mean((1, 2)), feature_maps.rank_one(maps)
    found = feature_maps.rankfeat(
        features, removed, frozen["rankfeat/head_kernel"], frozen["rankfeat/head_bias"]
    )
    np.testing.assert_allclose(found, -frozen[f"rankfeat/{kind}confidence"], rtol=1e-6)


def sums_of(frozen, name):
    layers = {str(i): frozen[f"gram/{name}_maps_{i}"] for i in (0, 1)}
    sums = {layer: feature_maps.gram_sums(maps) for layer, maps in layers.items()}
    return Outputs(gram_sums=sums, logits=frozen[f"gram/{name}_logits"])


def rows(part, chosen):
    sums = {name: array[chosen] for name, array in part.gram_sums.items()}
    return Outputs(gram_sums=sums, logits=part.logits[chosen])


def test_gram_is_its_authors(frozen):
    test = sums_of(frozen, "test")
    detector = Detector("gram")
    detector.fit(rows(test, frozen["gram/held_out_rows"]), sums_of(frozen, "train"))
    found = detector.score(rows(test, frozen["gram/test_rows"]))
    np.testing.assert_allclose(found, frozen["gram/test"], rtol=2e-5)
    found = detector.score(sums_of(frozen, "ood"))
    np.testing.assert_allclose(found, frozen["gram/ood"], rtol=2e-5)


def test_rank_one_is_that_of_the_singular_value_decomposition(rng, monkeypatch):
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 12 * 5 * 3)
    for shape in ((9, 3, 4, 5), (9, 2, 2, 7), (9, 20, 3)):  # deep, wide, a sequence
        maps = rng.normal(0.2, 1.0, shape)
        expected = []
        for a in maps.reshape(9, -1, shape[-1]):
            u, s, vt = np.linalg.svd(a.T)  # (channels, positions)
            expected.append((s[0] * np.outer(u[:, 0], vt[0])).mean(axis=1))
        np.testing.assert_allclose(feature_maps.rank_one(maps), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(feature_maps.rank_one(0.0 * maps), np.zeros((9, 3)))


def test_rankfeat_literally():
    test = outputs(1)
    expected = []
    for x, r in zip(test.features, test.rank_one, strict=True):
        z = test.head_kernel.T @ (x - r) + test.head_bias
        expected.append(-2.0 * logsumexp(z / 2.0))
    found = fitted("rankfeat", {"temperature": 2.0}).score(test)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gram_sums_literally(rng, monkeypatch):
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 12 * 2)
    maps = rng.normal(0.0, 1.0, (5, 2, 2, 3))
    found = feature_maps.gram_sums(maps).reshape(5, 10, 3)
    for i, p in ((0, 1), (2, 2), (4, 9), (1, 10)):
        f = maps[i].reshape(4, 3).T ** p
        expected = [sum(row) for row in f @ f.T]
        expected = [np.sign(g) * abs(g) ** (1 / p) for g in expected]
        np.testing.assert_allclose(found[i, p - 1], expected, rtol=1e-4)
    flat = feature_maps.gram_sums(maps[:, 0, 0])  # a layer without positions has one
    np.testing.assert_array_equal(flat, feature_maps.gram_sums(maps[:, :1, :1]))


def test_gram_literally():
    held_out, training, test = outputs(0), outputs(2, 100), outputs(1)
    predicted = training.logits.argmax(1)

    def deviations(part):
        found = []
        for i, z in enumerate(part.logits):
            row = []
            for layer in sorted(part.gram_sums):
                known = training.gram_sums[layer][predicted == z.argmax()]
                total = 0.0
                for g, column in zip(part.gram_sums[layer][i], known.T, strict=True):
                    m, most = min(column), max(column)
                    if g < m:
                        total += (m - g) / abs(m + 1e-6)
                    if g > most:
                        total += (g - most) / abs(most + 1e-6)
                row.append(total / softmax(z).max())
            found.append(row)
        return np.array(found)

    expected = (deviations(test) / (deviations(held_out).mean(0) + 1e-7)).sum(1)
    np.testing.assert_allclose(fitted("gram").score(test), expected, rtol=1e-9)


def test_a_class_that_training_never_predicts_has_the_bounds_of_all():
    sums, logits = np.array([[1.0], [3.0]]), np.array([[9.0, 0, 0], [0, 9.0, 0]])
    gram = feature_maps.Gram().fit({"a": sums}, logits)
    np.testing.assert_array_equal(gram.low_, [[1.0], [3.0], [1.0]])
    np.testing.assert_array_equal(gram.high_, [[1.0], [3.0], [3.0]])


def test_grams_threshold_is_cross_fitted():
    held_out, training = outputs(0), outputs(2, 100)
    detector = Detector("gram").fit(held_out, training)
    seen = np.sort(detector.score(held_out))[int(np.ceil(61 * 0.95)) - 1]
    assert detector.threshold_ > seen  # that of examples which it learned from


@pytest.mark.parametrize("letter", "al")
def test_adascale_literally(letter):
    held_out, test = outputs(0), outputs(1)
    parameters = {"lowest": 30.0, "highest": 80.0, "weight": 4.0, "moved": 17.0, "kept": 40.0}

    def shift(x, moved):
        largest = np.argsort(-x, kind="stable")
        q = sum(abs(x[d] - moved[d]) for d in largest[:2])  # 17% of 12
        return 4.0 * q + sum(max(moved[d], 0.0) for d in largest[:4])  # 40% of 12

    def shifts(part):
        return [shift(*pair) for pair in zip(part.features, part.features_perturbed, strict=True)]

    known, expected, percentiles = shifts(held_out), [], set()
    for x, q in zip(test.features, shifts(test), strict=True):
        share = sum(k <= q for k in known) / len(known)
        percentile = 30.0 + (1.0 - share) * 50.0
        percentiles.add(percentile)
        count = 12 - round(12 * percentile / 100)
        r = x.sum() / np.sort(x)[::-1][:count].sum()
        z = test.head_kernel.T @ (x * np.exp(r)) + test.head_bias
        if letter == "l":
            z = (test.head_kernel.T @ x + test.head_bias) * r**2
        expected.append(-logsumexp(z))
    assert len(percentiles) > 20
    found = fitted(f"adascale_{letter}", parameters).score(test)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_adascale_by_hand():
    x = np.array([[4.0, 3.0, 2.0, 1.0]])
    learner = get("adascale_l").make({"lowest": 50.0, "highest": 75.0, "kept": 25.0})
    learner.fit(np.repeat(x, 2, axis=0), x + np.array([[0.0], [1.0]]))
    np.testing.assert_array_equal(learner.shifts_, [4.0, 15.0])  # 10 * 1 + 5
    head = np.eye(4)[:, :1], np.zeros(1)
    # q = 4: half of the known are not above, percentile 62.5, two largest stay (numpy rounds 2.5
    # to 2), r = 10 / 7, and -log exp of r^2 times 4.
    np.testing.assert_allclose(learner.score(x, x, *head), [-4.0 * (10 / 7) ** 2])


def test_adascale_of_features_that_are_all_zero_is_finite():
    zeros = np.zeros((3, 8))
    for name in ("adascale_a", "adascale_l"):
        learner = get(name).make().fit(zeros, zeros)
        found = learner.score(zeros, zeros, np.ones((8, 2)), np.zeros(2))
        np.testing.assert_allclose(found, -np.log(2.0))


def test_bad_input():
    test, kernel = outputs(1), outputs(1).head_kernel
    with pytest.raises(ValueError, match="There are 60 features and 59 of `rank_one`"):
        feature_maps.rankfeat(test.features, test.rank_one[1:], kernel, np.zeros(5))
    with pytest.raises(ValueError, match="`rank_one` must have 12 features"):
        feature_maps.rankfeat(test.features, test.rank_one[:, 1:], kernel, np.zeros(5))
    with pytest.raises(ValueError, match="`lowest` and `highest` must be ascending"):
        fitted("adascale_a", {"lowest": 90.0})
    with pytest.raises(ValueError, match=r"`moved` and `kept` must lie in 0..100"):
        fitted("adascale_a", {"moved": -1.0})
    with pytest.raises(ValueError, match="There are 60 features and 10 perturbed ones"):
        fitted("adascale_l").learner.score(
            test.features, test.features_perturbed[:10], kernel, np.zeros(5)
        )
    learner = fitted("gram").learner
    with pytest.raises(ValueError, match=r"gram needs the layer block1. Received: \['block2'\]"):
        learner.score({"block2": test.gram_sums["block2"]}, test.logits)
    with pytest.raises(ValueError, match="no examples or no layers"):
        feature_maps.Gram().fit({}, test.logits)
    for name in ("energy&gram", "energy&adascale_a"):
        with pytest.raises(ValueError, match="cannot be fused"):
            get(name)
    with pytest.raises(ValueError, match="needs `rank_one`.*--fields=rank_one"):
        Detector("rankfeat").fit(Outputs(features=test.features, meta={"run": "r"}))
