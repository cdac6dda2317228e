"""pNML, GrOOD, CFOOD, NAC and the uncertainty of gradients: against their authors', OpenOOD's and
pytorch-ood's code, slow literal rewrites, hand numbers, invariances and bad input.

tests/references/posthoc.npz holds inputs and outputs of that code: see its `provenance`.
"""

import pathlib

import numpy as np
import pytest
from scipy.special import softmax

from ood_suite.files import load_npz
from ood_suite.scores import (
    checks,
    coverage,
    get,
    gradients,
    prototype_gradients,
    reverse_neighbors,
)
from ood_suite.scores.scores_test import fitted, outputs

PATH = pathlib.Path(__file__).parents[2] / "tests" / "references" / "posthoc.npz"


@pytest.fixture(scope="module")
def frozen():
    return load_npz(PATH)


def head(frozen):
    return frozen["head_kernel"], frozen["head_bias"]


def logits_of(frozen, name):
    return frozen[name] @ frozen["head_kernel"] + frozen["head_bias"]


@pytest.mark.parametrize("whose", ("authors", "pytorch_ood"))
def test_pnml_is_theirs(frozen, whose):
    learner = get("pnml").make().fit(frozen["train"])
    found = learner.score(frozen["test"], *head(frozen))
    np.testing.assert_allclose(found, frozen[f"pnml/{whose}"], rtol=1e-10)


def test_pnml_literally():
    training, test = outputs(2, 100), outputs(1)
    units = [x / np.linalg.norm(x) for x in training.features]
    inverse = np.linalg.pinv(sum(np.outer(u, u) for u in units))
    expected = []
    for x in test.features:
        u = x / np.linalg.norm(x)
        p = softmax(test.head_kernel.T @ u + test.head_bias)
        s = u @ inverse @ u
        genie = [q / (q + (1 - q) * q ** (s / (1 + s))) for q in p]
        expected.append(np.log(sum(genie)) / np.log(5))
    np.testing.assert_allclose(fitted("pnml").score(test), expected, rtol=1e-9)


def test_pnml_by_hand_and_at_its_limits():
    learner = get("pnml").make().fit(np.array([[2.0, 0.0], [0.0, 3.0]]))  # s = 1, k = 1/2
    test, kernel = np.array([[5.0, 0.0], [7.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 2.0]])
    half = np.sqrt(0.5) / (np.sqrt(0.5) + 0.5)  # p = 1/2 of both classes
    found = learner.score(test, kernel, np.zeros(2))
    np.testing.assert_allclose(found, np.log2(2 * half))
    np.testing.assert_allclose(learner.score(test, kernel, np.array([0.0, -900.0])), 0.0)
    np.testing.assert_allclose(learner.score(0.0 * test, kernel, np.zeros(2)), 0.0)  # s = 0


def test_pnml_does_not_see_the_length_of_a_feature(frozen):
    learner = get("pnml").make().fit(frozen["train"])
    scale = np.linspace(0.1, 9.0, len(frozen["test"]))[:, None]
    found = learner.score(frozen["test"] * scale, *head(frozen))
    np.testing.assert_allclose(found, learner.score(frozen["test"], *head(frozen)), rtol=1e-9)


def test_pnml_refuses_bad_input(frozen):
    learner = get("pnml").make()
    with pytest.raises(ValueError, match="no examples"):
        learner.fit(np.zeros((0, 3)))
    learner.fit(frozen["train"])
    with pytest.raises(ValueError, match="`features` must have 16 features"):
        learner.score(frozen["test"][:, 1:], *head(frozen))
    with pytest.raises(ValueError, match=r"`head_kernel` must have shape \(16, classes\)"):
        learner.score(frozen["test"], frozen["head_kernel"].T, frozen["head_bias"])
    with pytest.raises(ValueError, match="two classes"):
        learner.score(frozen["test"], np.ones((16, 1)), np.zeros(1))


def grood(frozen):
    learner = get("grood").make()
    return learner.fit(frozen["train"], frozen["labels"], logits_of(frozen, "train"))


def test_grood_is_openoods(frozen, monkeypatch):
    monkeypatch.setattr(prototype_gradients, "BANK_ROWS", 70)
    monkeypatch.setattr(prototype_gradients, "QUERIES", 7)
    learner = grood(frozen)
    np.testing.assert_allclose(learner.prototypes_[-1], frozen["grood/mixed_prototype"])
    np.testing.assert_allclose(
        learner.score(frozen["test"]), np.sqrt(-frozen["grood/mixed"]), rtol=1e-10
    )


def test_grood_literally_its_gradients_by_differences():
    training, test = outputs(2, 100), outputs(1)
    means = [training.features[training.labels == c].mean(0) for c in range(5)]
    mixed = []
    for x, z in zip(training.features, training.logits, strict=True):
        mixed.append(0.3 * x + 0.7 * means[np.argsort(z)[-2]])
    origin = np.mean(mixed, axis=0)

    def loss(x, z, o):
        near = [-np.sqrt(np.sum((x - m) ** 2)) for m in (*means, o)]
        return np.log(np.sum(np.exp(near))) - near[z.argmax()]

    def gradient(x, z):
        steps = 1e-5 * np.eye(12)
        return np.array([(loss(x, z, origin + s) - loss(x, z, origin - s)) / 2e-5 for s in steps])

    known = [
        gradient(x, z)
        for x, z, c in zip(training.features, training.logits, training.labels, strict=True)
        if z.argmax() == c
    ]
    assert 50 < len(known) <= 100
    expected = [
        min(np.linalg.norm(gradient(x, z) - g) for g in known)
        for x, z in zip(test.features, test.logits, strict=True)
    ]
    np.testing.assert_allclose(fitted("grood", {"mixing": 0.3}).score(test), expected, rtol=1e-4)


def test_grood_forgets_what_is_classified_wrongly_and_knows_what_is_right(frozen):
    learner = grood(frozen)
    right = learner.sizes_ >= 0.0
    assert 0 < right.sum() < len(right)
    found = learner.score(frozen["train"])
    np.testing.assert_allclose(found[right], 0.0, atol=1e-15)
    assert found[~right].min() > 1e-6


def test_grood_by_hand():
    learner = prototype_gradients.GrOOD()
    learner.prototypes_ = np.array([[100.0, 0.0], [-100.0, 0.0], [0.0, 0.0]])  # near 0, q is 1
    learner.bank_, learner.sizes_ = np.eye(2), np.array([-1.0, 1.0])  # the first is wrong
    found = learner.score(np.array([[-3.0, 0.0], [0.0, 5.0], [3.0, 4.0]]))
    np.testing.assert_allclose(found, [np.sqrt(2.0), 0.0, np.hypot(0.6, 0.2)], atol=1e-15)


def test_grood_refuses_bad_input(frozen):
    features, labels, wrong = frozen["train"], frozen["labels"], np.zeros((300, 5))
    wrong[np.arange(300), (labels + 1) % 5] = 1.0
    with pytest.raises(ValueError, match="No training example is classified correctly"):
        get("grood").make().fit(features, labels, wrong)
    with pytest.raises(ValueError, match="There are 299 features and 300 logits"):
        get("grood").make().fit(features[1:], labels[1:], wrong)
    with pytest.raises(ValueError, match="`mixing` must lie in"):
        get("grood").make({"mixing": 1.5}).fit(features, labels, wrong)
    with pytest.raises(ValueError, match="needs two"):
        get("grood").make().fit(features, np.zeros(300, np.int64), np.ones((300, 1)))


@pytest.mark.parametrize("key, share", (("a", 0.01), ("b", 0.05)))
def test_cfood_is_openoods(frozen, monkeypatch, key, share):
    monkeypatch.setattr(reverse_neighbors, "QUERIES", 7)
    learner = get("cfood").make({"share": share}).fit(frozen["train"])
    np.testing.assert_array_equal(learner.score(frozen["test"]), -frozen[f"cfood/{key}"])


def test_cfood_of_a_draw_is_too(frozen):
    drawn = frozen["train"][frozen["cfood/rows"]]
    learner = get("cfood").make({"share": 0.05}).fit(drawn)
    np.testing.assert_array_equal(learner.score(frozen["test"]), -frozen["cfood/half"])


def test_cfood_literally():
    training, test = outputs(2, 100), outputs(1)
    units = [x / np.linalg.norm(x) for x in training.features]
    radii = [np.sort([np.linalg.norm(y - other) for other in units]) for y in units]
    tries = [i / 1000 for i in range(1, 101)] + [0.105 + 0.395 * i / 80 for i in range(81)]
    tries += [i / 100 for i in range(51, 100)]
    ranks = [int(k * 100 - 1 + 1e-9) for k in tries]
    expected = []
    for x in test.features:
        u, found = x / np.linalg.norm(x), 1.0
        for i, (k, rank) in enumerate(zip(tries, ranks, strict=True)):
            new = i == 0 or rank > ranks[i - 1]
            near = [np.linalg.norm(u - y) <= r[rank + 1] for y, r in zip(units, radii, strict=True)]
            if new and sum(near) >= 30:
                found = k
                break
        expected.append(found)
    assert len(set(expected)) > 20
    found = get("cfood").make({"share": 0.3}).fit(training.features).score(test.features)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cfood_of_what_is_far_from_everything_is_one():
    near = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    learner = get("cfood").make().fit(near)
    np.testing.assert_array_equal(learner.score(-near), np.ones(4))
    assert learner.score(7.0 * near).max() < 0.5


def test_cfood_by_hand_with_equal_distances():
    learner = get("cfood").make({"share": 1.0}).fit(np.eye(2))
    found = learner.score(np.array([[3.0, 0.0], [0.9, 1.1], [1.0, -0.1]]))
    np.testing.assert_array_equal(found, [0.001, 0.001, 1.0])  # the first is as far as they are


def test_cfood_draws_what_its_seed_says(frozen):
    def references(seed):
        made = get("cfood").make({"references": 20, "seed": seed})
        return made.fit(frozen["train"]).references_

    np.testing.assert_array_equal(references(3), references(3))
    assert not np.array_equal(references(3), references(4))
    assert len(np.unique(references(3), axis=0)) == 20


def test_cfood_refuses_bad_input(frozen):
    with pytest.raises(ValueError, match="two reference examples"):
        get("cfood").make().fit(frozen["train"][:1])
    with pytest.raises(ValueError, match="`share` must lie in"):
        get("cfood").make({"share": 0.0}).fit(frozen["train"])
    with pytest.raises(ValueError, match="`features` must have 16 features"):
        get("cfood").make().fit(frozen["train"]).score(frozen["test"][:, 1:])


def nac(frozen, **parameters):
    learner = get("nac").make(parameters)
    return learner.fit(frozen["train"], logits_of(frozen, "train"), frozen["head_kernel"])


NAC = {"a": {"full": 50 / 300}, "b": {"edges": 20, "full": 7 / 300, "steepness": 3.0}}


@pytest.mark.parametrize("key", NAC)
def test_nac_is_its_authors(frozen, monkeypatch, key):
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 16 * 7)
    learner = nac(frozen, **NAC[key])
    found = learner.score(frozen["test"], logits_of(frozen, "test"), frozen["head_kernel"])
    np.testing.assert_allclose(found, -frozen[f"nac/{key}"], rtol=1e-12)
    np.testing.assert_allclose(coverage.interval_edges(20), frozen["nac/thresholds"], rtol=1e-14)


def test_nac_literally():
    training, test = outputs(2, 100), outputs(1)
    low = [np.log(x) / np.log(1000) for x in np.linspace(1, np.sqrt(1000), 25)]
    edges = [*low[:-1], *(1 - x for x in low[::-1])]
    edges = [*edges[:-1], 1.01, 1.2]

    def intervals(part):
        for x, z in zip(part.features, part.logits, strict=True):
            step = 1e-6

            def divergence(moved):
                p = softmax(moved @ training.head_kernel + training.head_bias)
                return -np.mean(np.log(p)) - np.log(5)

            found = []
            for d in range(12):
                e = step * np.eye(12)[d]
                g = (divergence(x + e) - divergence(x - e)) / (2 * step)
                state = 1 / (1 + np.exp(-2.0 * x[d] * g))
                found.append(sum(state >= edge for edge in edges))
            yield found

    known = list(intervals(training))
    expected = []
    for found in intervals(test):
        covered = 0.0
        for d in range(12):
            share = sum(other[d] == found[d] for other in known) / 100
            covered += min(share / 0.05, 1)
        expected.append(-covered / 12)
    assert len(set(np.round(expected, 9))) > 20
    np.testing.assert_allclose(fitted("nac", {"steepness": 2.0}).score(test), expected, rtol=1e-9)


def test_nac_of_what_training_was_is_full_and_of_what_it_never_was_is_zero():
    one, z, kernel = np.ones((20, 2)), np.array([[1.5, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    learner = get("nac").make().fit(one, np.repeat(z, 20, 0), kernel)
    np.testing.assert_array_equal(learner.score(one[:1], z, kernel), [-1.0])
    np.testing.assert_array_equal(learner.score(-one[:1], z, kernel), [0.0])
    np.testing.assert_array_equal(learner.score(np.array([[1.0, -1.0]]), z, kernel), [-0.5])


def test_nac_refuses_bad_input(frozen):
    for wrong, said in (
        ({"edges": 7}, "even"), ({"edges": 2}, "at least 4"), ({"full": 0.0}, "`full` must lie"),
        ({"steepness": -1.0}, "`steepness` must be more than"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            nac(frozen, **wrong)
    learner, z = nac(frozen), logits_of(frozen, "test")
    with pytest.raises(ValueError, match="There are 59 features and 60 logits"):
        learner.score(frozen["test"][1:], z, frozen["head_kernel"])
    with pytest.raises(ValueError, match="`logits` have 4 classes and the head has 5"):
        learner.score(frozen["test"], z[:, 1:], frozen["head_kernel"])
    with pytest.raises(ValueError, match="no examples"):
        learner.fit(frozen["test"][:0], z[:0], frozen["head_kernel"])


def test_gradient_uncertainty_is_pytorch_oods(frozen):
    found = gradients.gradient_uncertainty(frozen["test"], logits_of(frozen, "test"))
    np.testing.assert_allclose(found, frozen["graduncertainty"], rtol=1e-12)


def test_gradient_uncertainty_literally_by_differences(frozen):
    x, (kernel, bias) = frozen["test"][0], head(frozen)
    weights = np.vstack([kernel, bias])

    def loss(moved):
        z = np.append(x, 1.0) @ moved
        return sum(np.log(np.exp(z).sum()) - z)

    total = 0.0
    for place in np.ndindex(weights.shape):
        step = np.zeros(weights.shape)
        step[place] = 1e-5
        total += ((loss(weights + step) - loss(weights - step)) / 2e-5) ** 2
    found = gradients.gradient_uncertainty(frozen["test"][:1], logits_of(frozen, "test")[:1])
    np.testing.assert_allclose(found, [-total], rtol=1e-6)


def test_gradient_uncertainty_of_uniform_logits_is_zero_and_refuses_other_lengths(frozen):
    found = gradients.gradient_uncertainty(frozen["test"], np.full((60, 5), 7.0))
    np.testing.assert_allclose(found, 0.0, atol=1e-25)
    with pytest.raises(ValueError, match="There are 60 features and 59 logits"):
        gradients.gradient_uncertainty(frozen["test"], np.zeros((59, 5)))
