"""Scores against slow literal rewrites of their formulas, hand numbers, and at a scale beyond
memory.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from ood_suite.scores import SCORES, activations, checks, gaussian, get, neighbors
from ood_suite.scores import logits as logits_module
from ood_suite.scores.scores_test import fitted, outputs


def energies(rows):
    return np.array([-logsumexp(row) for row in rows])


@pytest.mark.parametrize(
    "mask, clip, smooth", [(60.0, 1.1, True), (0.0, 0.0, False), (30.0, 9, True)]
)
def test_himplos_literally(mask, clip, smooth):
    training, test = outputs(2, 100), outputs(1)
    parameters = {"mask_percentile": mask, "clip": clip, "clip_percentile": 100.0, "smooth": smooth}
    expected = []
    for x, z in zip(test.features, test.logits, strict=True):
        c = int(np.argmax(z))
        threshold = np.percentile(test.head_kernel[:, c], mask)
        g = [
            min(value if weight >= threshold else 0.0, clip or np.inf)
            for value, weight in zip(x, test.head_kernel[:, c], strict=True)
        ]
        logits = np.array(g) @ test.head_kernel + test.head_bias
        prototype = training.features[training.labels == c].mean(0)
        cosine = prototype @ x / (np.linalg.norm(prototype) * np.linalg.norm(x))
        expected.append(-logsumexp(logits * (cosine if smooth else 1.0)))
    np.testing.assert_allclose(fitted("himplos", parameters).score(test), expected, rtol=1e-10)


def test_himplos_without_its_three_steps_is_the_energy():
    off = {"mask_percentile": 0.0, "clip_percentile": 100.0, "smooth": False}
    test = outputs(1)
    expected = fitted("energy").score(test)
    np.testing.assert_allclose(fitted("himplos", off).score(test), expected, rtol=1e-10)
    off |= {"clip_percentile": 95.0}
    react = fitted("react+energy", {"react.percentile": 95.0}).score(test)
    np.testing.assert_allclose(fitted("himplos", off).score(test), react, rtol=1e-10)


@pytest.mark.parametrize("constant", [0.0, 0.8])
def test_line_literally(constant):
    training, test = outputs(2, 100), outputs(1)
    percentiles = {"activation_percentile": 40.0, "weight_percentile": 30.0}
    detector = fitted("line", percentiles | {"clip": constant})
    clip = constant or np.float32(np.quantile(training.features.astype(np.float32), 0.98))
    kernel, bias, expected = test.head_kernel, test.head_bias, []
    for x in test.features:
        x = np.minimum(x, clip)
        c = int(np.argmax(x @ kernel + bias))
        contribution = training.features[training.labels == c].mean(0) * kernel[:, c]
        neurons = contribution > np.percentile(contribution, 40.0)
        weighted = np.abs(contribution)[:, None] * kernel
        weights = weighted > np.percentile(weighted, 30.0)
        expected.append(-logsumexp((x * neurons) @ (kernel * weights) + bias))
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-6)


def test_dice_react_and_vra_literally():
    training, test = outputs(2, 100), outputs(1)
    flat = training.features.astype(np.float32)
    contribution = training.features.mean(0)[:, None] * test.head_kernel
    sparse = test.head_kernel * (contribution > np.percentile(contribution, 90.0))
    clipped = np.minimum(test.features, np.quantile(flat, 0.9))
    low, high = np.quantile(flat, 0.6, axis=0), np.quantile(flat, 0.9, axis=0)
    rectified = np.where(test.features < low, 0.0, np.minimum(test.features, high))
    for name, features, kernel in (
        ("react+energy", clipped, test.head_kernel),
        ("dice+energy", test.features, sparse),
        ("dice+react+energy", clipped, sparse),
        ("vra+energy", rectified, test.head_kernel),
    ):
        expected = energies(features @ kernel + test.head_bias)
        np.testing.assert_allclose(fitted(name).score(test), expected, rtol=1e-6, err_msg=name)


def test_vra_with_one_pair_of_bounds():
    """The authors' ImageNet setting; per feature the bounds differ, as in their CIFAR code."""
    training, test = outputs(2, 100), outputs(1)
    flat = training.features.astype(np.float32)
    low, high = np.quantile(flat, 0.6), np.quantile(flat, 0.9)
    rectified = np.where(test.features < low, 0.0, np.minimum(test.features, high))
    expected = energies(rectified @ test.head_kernel + test.head_bias)
    found = fitted("vra+energy", {"vra.per_feature": False})
    np.testing.assert_allclose(found.score(test), expected, rtol=1e-6)
    assert np.ptp(fitted("vra+energy").learner.shapers["vra"].high_) > 0


def test_quantiles_of_columns_do_not_depend_on_the_blocks(rng, monkeypatch):
    values = rng.normal(0, 3, (53, 7)).astype(np.float32)
    for share in (0.0, 0.4, 0.99, 1.0):
        expected = np.quantile(values.astype(np.float64), share, axis=0)
        np.testing.assert_allclose(checks.column_quantiles(values, share), expected, rtol=1e-12)
    whole = checks.column_quantiles(values, 0.4)
    monkeypatch.setattr(checks, "COLUMN_BYTES", 4 * 53 * 2)
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 7 * 10)
    np.testing.assert_array_equal(checks.column_quantiles(values, 0.4), whole)


def test_a_shaper_learns_from_what_the_shapers_before_it_leave():
    training, test = outputs(2, 100), outputs(1)
    clipped = np.minimum(training.features, np.quantile(training.features, 0.9))
    dice = fitted("react+dice+energy").learner.shapers["dice"]
    np.testing.assert_allclose(dice.mean_, clipped.mean(0), rtol=1e-6)
    dice = fitted("dice+react+energy").learner.shapers["dice"]
    np.testing.assert_allclose(dice.mean_, training.features.mean(0), rtol=1e-12)
    both = fitted("react+dice+energy").score(test)
    assert not np.array_equal(both, fitted("dice+react+energy").score(test))


def test_ash_by_hand():
    x, kernel, bias = np.array([[4.0, 1.0, 3.0, 2.0]]), np.eye(4), np.zeros(4)
    for shaper, expected in (
        (activations.ash_p, [4.0, 0.0, 3.0, 0.0]),
        (activations.ash_b, [5.0, 0.0, 5.0, 0.0]),
        (activations.ash_s, np.array([4.0, 0.0, 3.0, 0.0]) * np.exp(10 / 7)),
        (activations.scale, np.array([4.0, 1.0, 3.0, 2.0]) * np.exp(10 / 7)),
    ):
        np.testing.assert_allclose(shaper(x, kernel, bias, 50.0)[0][0], expected, rtol=1e-12)
    zeros = activations.ash_s(np.zeros((1, 4)), kernel, bias, 50.0)[0]
    assert np.isfinite(zeros).all()


def test_gradnorm_she_fdbd_by_hand():
    outputs_ = Outputs(
        features=np.array([[1.0, 2.0], [3.0, 0.0]]), head_kernel=np.array([[2.0, 0.0], [0.0, 2.0]]),
        head_bias=np.zeros(2), logits=np.array([[2.0, 4.0], [6.0, 0.0]]), labels=np.array([1, 0]),
    )  # fmt: skip
    she = Detector("she").fit(outputs_, outputs_).score(outputs_)
    np.testing.assert_allclose(she, [-5.0, -9.0])
    fdbd = Detector("fdbd").fit(outputs_, outputs_).score(outputs_)
    centre = np.array([2.0, 1.0])
    expected = [-2 / np.sqrt(8) / np.linalg.norm([1, 2] - centre),
                -6 / np.sqrt(8) / np.linalg.norm([3, 0] - centre)]  # fmt: skip
    np.testing.assert_allclose(fdbd, expected)


def test_mahalanobis_layers_literally():
    training, held_out, ood = outputs(2, 100), outputs(0), outputs(3, shift=1.0)
    detector = fitted("mahalanobis_layers")
    columns = []
    for part in (held_out, ood):
        rows = []
        for name in ("block1", "block2"):
            x = training.layer_features[name]
            means = np.stack([x[training.labels == c].mean(0) for c in range(5)])
            centred = x - means[training.labels]
            precision = np.linalg.pinv(centred.T @ centred / len(x))
            differences = part.layer_features[name][:, None] - means
            rows.append(np.einsum("ncd,de,nce->nc", differences, precision, differences).min(1))
        columns.append(np.stack(rows, 1))
    np.testing.assert_allclose(
        detector.learner._distances(ood.layer_features), columns[1], rtol=1e-8
    )
    standard = (np.concatenate(columns) - detector.learner.centre_) / detector.learner.spread_
    logit = standard @ detector.learner.weights_ + detector.learner.intercept_
    # At the optimum of the balanced, L2-regularised likelihood its gradient is zero.
    target = np.repeat([0.0, 1.0], 60)
    slope = (1 / (1 + np.exp(-logit)) - target) @ standard + detector.learner.weights_
    np.testing.assert_allclose(slope, 0.0, atol=2e-2)
    np.testing.assert_allclose(detector.score(ood), logit[60:], rtol=1e-8)


def test_odin_at_a_high_temperature_does_not_collapse():
    logits = np.random.default_rng(0).normal(0, 1, (2000, 10)).astype(np.float32)
    values = get("odin").fn({"T=1000,epsilon=0.0014": logits})
    assert len(np.unique(values)) == 2000


def test_large_logits_keep_their_order():
    """The softmax rounds to 1 in float64 from a lead of 37 on; the scores do not."""
    lead = np.linspace(30.0, 600.0, 500)
    logits = np.stack([lead, np.zeros(500), -np.ones(500)], axis=1)
    for values in (get("msp").fn(logits), get("odin").fn({"T=1,epsilon=0": logits}, 1.0, 0.0)):
        assert (np.diff(values) < 0).all()
        np.testing.assert_allclose(values[:3], (1 + np.exp(-1)) * np.exp(-lead[:3]), rtol=1e-10)
    training = outputs(2, 100)
    openmax = Detector("openmax").fit(training, training)
    far = Outputs(logits=np.eye(5)[:1] * np.linspace(100, 1000, 50)[:, None])
    assert len(np.unique(openmax.score(far))) == 50


def test_many_classes_by_hand():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (3, 200))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    largest = np.sort(p, axis=1)[:, ::-1][:, :100]
    expected = (largest**0.1 * (1 - largest) ** 0.1).sum(1)
    np.testing.assert_allclose(get("gen").fn(logits), expected, rtol=1e-10)
    x, z = np.array([[1.0, -2.0]]), np.array([[2.0 * np.log(3.0), 0.0]])
    np.testing.assert_allclose(get("gradnorm").fn(x, z, temperature=2.0), [-3.0 * 0.5 / 2.0])


def test_kl_matching_by_hand():
    matching = get("kl_matching").make().fit([[20.0, 0.0]])  # one template, of class 0
    np.testing.assert_allclose(matching.score([[20.0, 0.0]]), 0.0, atol=1e-12)
    np.testing.assert_allclose(matching.score([[0.0, 20.0]]), 20.0, rtol=1e-6)


def test_default_dimensions_of_the_subspace():
    for width, dimension in ((16, 8), (768, 512), (2048, 1000)):
        x = np.random.default_rng(0).normal(0, 1, (2 * width, width))
        found = get("residual").make().fit(x, np.eye(width)[:, :3], np.zeros(3))
        assert found.residual_.shape == (width, width - dimension)


def test_relative_mahalanobis_with_classes_of_unequal_size():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [10, 90])
    x, test = rng.normal(labels[:, None] * 2.0, 1, (100, 3)), rng.normal(0, 2, (5, 3))
    within = np.concatenate([x[labels == c] - x[labels == c].mean(0) for c in (0, 1)])
    precision = np.linalg.inv(within.T @ within / 100)
    whole = np.linalg.inv(np.cov(x.T, bias=True))
    expected = [
        min((t - x[labels == c].mean(0)) @ precision @ (t - x[labels == c].mean(0)) for c in (0, 1))
        - (t - x.mean(0)) @ whole @ (t - x.mean(0))
        for t in test
    ]
    found = get("relative_mahalanobis").make().fit(x, labels).score(test)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_judge_learns_from_the_data_that_it_learns_from_alone():
    """Without clipping, react+temperature_scaling is temperature_scaling."""
    held_out, training = outputs(0), outputs(2, 100)
    alone = Detector("temperature_scaling").fit(held_out, training)
    both = Detector("react+temperature_scaling", parameters={"react.percentile": 100.0})
    both.fit(held_out, training)
    found = both.learner.judge.temperature_
    assert found == pytest.approx(float(alone.learner.temperature_), rel=1e-6)


def test_linear_invariances():
    """Mahalanobis is unchanged by any invertible map of the features; KNN by their length."""
    rng = np.random.default_rng(0)
    training, test = outputs(2, 100), outputs(1)
    turn = rng.normal(0, 1, (12, 12))
    for name, change in (
        ("mahalanobis", lambda x: x @ turn + 3.0),
        ("relative_mahalanobis", lambda x: x @ turn + 3.0),
        ("knn", lambda x: x * (1.0 + np.arange(len(x)))[:, None]),
    ):
        scored = [
            Detector(name, parameters={"k": 5} if name == "knn" else {})
            .fit(*(Outputs(features=f(o.features), labels=o.labels) for o in (test, training)))
            .score(Outputs(features=f(test.features)))
            for f in (lambda x: x, change)
        ]
        np.testing.assert_allclose(*scored, rtol=1e-6, err_msg=name)


def test_quantiles_are_exact():
    rng = np.random.default_rng(1)
    for values in (
        rng.normal(0, 5, (997, 7)), np.maximum(rng.normal(0, 1, (50, 3)), 0), np.zeros((4, 2)),
        np.array([[-1e30, 1e-30, 7.0]]),
    ):  # fmt: skip
        values = values.astype(np.float32)
        for share in (0.0, 0.123, 0.5, 0.9, 1.0):
            expected = np.quantile(values.astype(np.float64), share)
            assert checks.quantile(values, share) == pytest.approx(expected, rel=1e-12, abs=1e-45)


def test_neighbours_across_blocks(monkeypatch):
    rng = np.random.default_rng(3)
    bank, queries = rng.normal(0, 1, (300, 6)), rng.normal(0, 1, (70, 6))
    expected = Detector("knn", parameters={"k": 7}).fit(
        Outputs(features=queries), Outputs(features=bank)
    )
    values = expected.score(Outputs(features=queries))
    monkeypatch.setattr(neighbors, "BANK_ROWS", 11)
    monkeypatch.setattr(neighbors, "QUERIES", 13)
    monkeypatch.setattr(checks, "CHUNK_BYTES", 1000)
    np.testing.assert_array_equal(expected.score(Outputs(features=queries)), values)


def test_bad_fits():
    x, labels = np.random.default_rng(0).random((10, 4)), np.arange(10) % 2
    with pytest.raises(ValueError, match="Class 1 has none"):
        gaussian.Mahalanobis().fit(x, 2 * labels)
    for name in ("mahalanobis", "relative_mahalanobis", "gmm"):
        with pytest.raises(ValueError, match="do not vary within classes.* 10 examples of 10 cl"):
            get(name).make().fit(x, np.arange(10))
    with pytest.raises(ValueError, match=r"`k` must lie in 1..10.* Received: 50"):
        neighbors.KNN().fit(x)
    with pytest.raises(ValueError, match="must have 4 features, as at fit. Received: 5"):
        gaussian.Mahalanobis().fit(x, labels).score(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="2 classes and the head has 3|must have shape"):
        get("fdbd").fn().fit(x).score(x, np.zeros((10, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="`dimension` must lie in 1..3"):
        get("residual").make({"dimension": 4}).fit(x, np.zeros((4, 2)), np.zeros(2))
    flat = np.zeros((10, 8))
    flat[:, :3] = np.random.default_rng(1).random((10, 3))
    with pytest.raises(ValueError, match="lie within the 4 dimensions"):
        get("vim").make().fit(flat, np.ones((10, 2)), np.eye(8)[:, :2], np.zeros(2))
    with pytest.raises(ValueError, match="There are 10 features and 9 logits"):
        get("vim").make({"dimension": 2}).fit(x, np.ones((9, 2)), np.eye(4)[:, :2], np.zeros(2))
    with pytest.raises(ValueError, match="`temperature` must be more than 0"):
        get("energy").fn(x, temperature=0.0)
    with pytest.raises(ValueError, match="Class 4 has none"):
        few = outputs(2, 100)
        few.labels[few.labels == 4] = 0
        Detector("mahalanobis").fit(outputs(0), few)
    with pytest.raises(ValueError, match="do not vary"):
        gaussian.Mahalanobis().fit(np.ones((10, 4)), labels)


@pytest.mark.parametrize("name", [
    name for name, entry in SCORES.items() if "logits" in entry.needs
])  # fmt: skip
def test_probabilities_in_the_place_of_logits_are_warned_of(name):
    detector, test = fitted(name), outputs(1)
    detector.score(test)  # in silence
    test.logits = softmax(test.logits, axis=1).astype(np.float32)
    with pytest.warns(UserWarning, match="look like probabilities"):
        detector.score(test)


# Runs in a process of its own, whose peak memory is its own.
STREAMING = """
import resource, sys
import numpy as np
from ood_suite.scores import gaussian, neighbors, subspace
path, rows, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
x = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
rng = np.random.default_rng(0)
labels = np.arange(rows) % 10
for i in range(0, rows, 5000):
    x[i : i + 5000] = rng.normal(0, 1, x[i : i + 5000].shape)
    x[i : i + 5000, 0] += labels[i : i + 5000]
del x
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[4]),) * 2)  # mapped files do not count
x = np.load(path, mmap_mode="r")
kernel, bias = np.eye(width)[:, :10], np.zeros(10)
logits = x[:, :10]
test = np.asarray(x[:200])
for learner, fit, score in (
    (gaussian.Mahalanobis(), (x, labels), (test,)),
    (subspace.Vim(), (x, logits, kernel, bias), (test, logits[:200])),
    (neighbors.KNN(10), (x,), (test,)),
):
    assert np.isfinite(learner.fit(*fit).score(*score)).all()
"""


def stream(path, rows, width, budget):
    return subprocess.run(
        [sys.executable, "-c", STREAMING, str(path), str(rows), str(width), str(budget)],
        capture_output=True, text=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "2"},
    )  # fmt: skip


def test_fits_stream_over_features_larger_than_their_memory(tmp_path):
    budget = 500 * 2**20
    rows, width = 700_000, 200  # 534 MiB
    done = stream(tmp_path / "x.npy", rows, width, budget)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "x.npy").stat().st_size > budget


@pytest.mark.large
def test_fits_stream_over_imagenet(tmp_path):
    done = stream(tmp_path / "x.npy", 1_200_000, 2048, 2 * 2**30)
    assert done.returncode == 0, done.stderr[-2000:]


def exact_logit_scores(logits):
    """msp, entropy and energy in long doubles, term by term."""
    z = np.asarray(logits, np.longdouble)
    below = z - z.max(axis=1, keepdims=True)
    others = np.exp(np.sort(below, axis=1)[:, :-1]).sum(axis=1)
    log_sum = np.log1p(others)
    p = np.exp(below - log_sum[:, None])
    return {
        "msp": others / (1 + others),
        "entropy": (p * (log_sum[:, None] - below)).sum(axis=1),
        "energy": -(z.max(axis=1) + log_sum),
    }


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("dtype, digits", [(np.float32, 1e-6), (np.float64, 1e-11)])
def test_scores_of_float32_logits_are_right_to_a_millionth(rng, dtype, digits, classes):
    scale = np.repeat([1e-6, 1e-3, 1.0, 5.0, 30.0, 100.0], 50)[:, None]
    logits = (rng.normal(size=(300, classes)) * scale).astype(dtype)
    logits[::7, 1] = logits[::7, 0] = np.nextafter(logits[::7].max(axis=1), dtype(1e9))  # ties
    logits[3::7, 0] = np.nextafter(logits[3::7].max(axis=1), dtype(1e9))  # nearly
    for name, expected in exact_logit_scores(logits).items():
        found = getattr(logits_module, name)(logits)
        sure = np.abs(expected) < 1e-7
        for rows, within in ((~sure, 1.2 * digits), (sure, 5 * digits)):
            wanted = expected[rows].astype(float)
            np.testing.assert_allclose(found[rows], wanted, rtol=within, atol=1e-300)
        if name == "energy":  # the sum is of float64: one of float32 is off by 3e-7
            assert np.abs(found - expected).max() < 1.2e-7


@pytest.mark.parametrize("logits, energy", [([3e38, -3e38], -3e38), ([1e36, 0.0], -1e36)])
def test_float32_logits_whose_differences_overflow(logits, energy):
    logits = np.array([logits], np.float32)
    assert logits_module.entropy(logits) == logits_module.msp(logits) == 0.0
    for temperature in (1.0, 1e-3):
        found = logits_module.energy(logits, temperature)
        np.testing.assert_allclose(found, [energy], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 3.0, 1000.0])
def test_energy_at_other_temperatures_is_computed_in_float64(rng, temperature):
    logits = (rng.normal(size=(50, 1000)) - np.log(1000)).astype(np.float32)
    expected = -temperature * logsumexp(logits.astype(np.float64) / temperature, axis=1)
    found = logits_module.energy(logits, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["msp", "entropy"])
def test_the_order_of_sure_examples_is_kept_in_float32(name):
    lead = np.arange(1.0, 700.0, dtype=np.float32)  # exp(-104) is 0 in float32
    scores = getattr(logits_module, name)(np.stack([lead, np.zeros_like(lead)], axis=1))
    assert np.all(np.diff(scores) < 0.0)
