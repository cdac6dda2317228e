"""Newer scores against slow literal rewrites of their formulas, and hand numbers."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from ood_suite.scores import activations, checks, get, kernels, neighbors, subspace
from ood_suite.scores.scores_test import fitted, outputs


def softmax(row):
    return np.exp(row) / np.exp(row).sum()


def test_unit_length_gaussians_are_those_of_unit_length_features():
    def unit(part):
        lengths = np.linalg.norm(part.features, axis=1, keepdims=True)
        return Outputs(features=part.features / lengths, labels=part.labels)

    held_out, training, test = outputs(0), outputs(2, 100), outputs(1)
    for name in ("mahalanobis", "relative_mahalanobis", "gmm"):
        found = fitted(name, {"normalize": True}).score(test)
        plain = Detector(name, parameters={"normalize": False}).fit(unit(held_out), unit(training))
        np.testing.assert_allclose(found, plain.score(unit(test)), rtol=1e-9, err_msg=name)
        assert not np.allclose(found, fitted(name, {"normalize": False}).score(test)), name


def test_gmm_literally():
    training, test = outputs(2, 90), outputs(1)  # classes of equal size
    training.labels[training.labels == 4] = 3  # and now not
    training.labels[:9] = 4
    x, labels = training.features, training.labels
    means = np.stack([x[labels == c].mean(0) for c in range(5)])
    within = x - means[labels]
    precision = np.linalg.pinv(within.T @ within / len(x))
    expected = []
    for row in test.features:
        density = 0.0
        for c in range(5):
            distance = (row - means[c]) @ precision @ (row - means[c])
            density += np.mean(labels == c) * np.exp(-distance / 2)
        expected.append(-np.log(density))
    model = get("gmm").make({"normalize": False}).fit(x, labels)
    near = np.isfinite(expected)
    assert near.sum() > 10
    np.testing.assert_allclose(
        model.score(test.features)[near], np.array(expected)[near], rtol=1e-7
    )


def test_ctm_literally():
    training, test = outputs(2, 100), outputs(1)
    expected = []
    for x in test.features:
        cosines = []
        for c in range(5):
            mean = training.features[training.labels == c].mean(0)
            cosines.append(x @ mean / np.linalg.norm(x) / np.linalg.norm(mean))
        expected.append(-max(cosines))
    np.testing.assert_allclose(fitted("ctm").score(test), expected, rtol=1e-12)


@pytest.mark.parametrize("with_logit", (True, False))
def test_neco_against_scikit_learn(with_logit):
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    training, test = outputs(2, 100), outputs(1)
    scaler = StandardScaler().fit(training.features)
    components = PCA().fit(scaler.transform(training.features))
    expected = []
    for x, z in zip(scaler.transform(test.features), test.logits, strict=True):
        inside = components.transform(x[None])[0, :3]
        share = np.linalg.norm(inside) / np.linalg.norm(x)
        expected.append(-share * (z.max() if with_logit else 1.0))
    found = fitted("neco", {"dimension": 3, "with_logit": with_logit}).score(test)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_cadref_literally():
    training, test = outputs(2, 100), outputs(1)
    predicted = training.logits.argmax(1)
    mean_energy = np.mean([logsumexp(z) for z in training.logits])
    expected = []
    for x, z in zip(test.features, test.logits, strict=True):
        c = int(np.argmax(z))
        mean = training.features[predicted == c].mean(0)
        raising = lowering = 0.0
        for d, value in enumerate(x):
            error = (value - mean[d]) * np.sign(test.head_kernel[d, c])
            raising += max(error, 0.0)
            lowering += max(-error, 0.0)
        size = np.abs(x).sum()
        expected.append(raising / size / logsumexp(z) + lowering / size / mean_energy)
    np.testing.assert_allclose(fitted("cadref").score(test), expected, rtol=1e-10)


def test_relation_literally(monkeypatch):
    training, test = outputs(2, 100), outputs(1)
    detector = fitted("relation", {"power": 2.0, "least": 0.1})
    expected = []
    for x, z in zip(test.features, test.logits, strict=True):
        total = 0.0
        for y, w in zip(training.features, training.logits, strict=True):
            cosine = max(x @ y / np.linalg.norm(x) / np.linalg.norm(y), 0.0)
            relation = cosine * softmax(z) @ softmax(w)
            total += relation**2 if relation > 0.1 else 0.0
        expected.append(-total)
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-5)
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 12 * 7)
    monkeypatch.setattr("ood_suite.scores.neighbors.BANK_ROWS", 13)
    monkeypatch.setattr("ood_suite.scores.neighbors.QUERIES", 7)
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-5)


def test_cop_and_corp_literally():
    training, test = outputs(2, 100), outputs(1)
    corp = fitted("corp", {"components": 40, "explained": 0.7, "gamma": 1.5})
    omega, phases = corp.learner.frequencies_, corp.learner.phases_
    assert omega.std() == pytest.approx(np.sqrt(3.0), rel=0.1)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def fourier(x):
        return np.sqrt(2 / 40) * np.cos(unit(x) @ omega.T + phases)

    for detector, mapped, explained in (
        (corp, fourier, 0.7), (fitted("cop", {"explained": 0.9}), unit, 0.9),
    ):  # fmt: skip
        u = mapped(training.features)
        centred = u - u.mean(0)
        vectors, values, _ = np.linalg.svd(centred.T @ centred)
        q = 1
        while values[:q].sum() / values.sum() < explained:
            q += 1
        projection = vectors[:, :q] @ vectors[:, :q].T
        away = mapped(test.features) - u.mean(0)
        expected = np.linalg.norm(away - away @ projection, axis=1)
        np.testing.assert_allclose(detector.score(test), expected, rtol=1e-7)


def test_random_features_make_the_gaussian_kernel():
    learner = get("corp").make({"components": 20_000, "gamma": 0.7})
    learner._draw(3)
    u, v = np.array([[1.0, 0.0, 0.0]]), np.array([[0.6, 0.8, 0.0]])
    kernel = (learner._map(u) @ learner._map(v).T).item()
    assert kernel == pytest.approx(np.exp(-0.7 * 0.8), abs=0.02)  # |u - v|^2 = 0.8


def test_lts_by_hand():
    x, kernel, bias = np.array([[4.0, -1.0, 3.0, 2.0]]), np.eye(4), np.ones(4)
    features, _, moved = activations.lts(x, kernel, bias, 50.0)
    np.testing.assert_allclose(features[0], x[0] * (9 / 7) ** 2, rtol=1e-12)
    np.testing.assert_allclose(moved, np.full((1, 4), (9 / 7) ** 2), rtol=1e-12)
    test = outputs(1)
    expected = []
    for x, z in zip(test.features, test.logits, strict=True):
        largest = np.sort(x)[::-1][: 12 - round(12 * 0.95)]
        expected.append(-logsumexp(z * (x.sum() / largest.sum()) ** 2))
    np.testing.assert_allclose(fitted("lts+energy").score(test), expected, rtol=1e-10)


def test_ras_by_hand():
    shaper = activations.RAS().fit(np.array([[3.0, 1.0, 2.0], [0.0, 4.0, 2.0]]), np.eye(3))
    np.testing.assert_allclose(shaper.profile_, [0.5, 2.0, 3.5])
    shaped, *_ = shaper.shape(np.array([[7.0, 9.0, 0.0]]), np.eye(3), np.zeros(3))
    np.testing.assert_allclose(shaped, [[2.0, 3.5, 0.5]])


def test_react_with_a_constant():
    test = outputs(1)
    clipped = np.minimum(test.features, 0.8) @ test.head_kernel + test.head_bias
    found = fitted("react+energy", {"react.threshold": 0.8}).score(test)
    np.testing.assert_allclose(found, -logsumexp(clipped, axis=1), rtol=1e-12)
    with pytest.raises(ValueError, match="`threshold` must be 0 or more"):
        fitted("react+energy", {"react.threshold": -1.0})


def test_fusion_literally():
    held_out, training, test = outputs(0), outputs(2, 100), outputs(1)
    parameters = {"knn.k": 3, "mahalanobis.normalize": True}
    fused = Detector("energy&knn&mahalanobis", parameters=parameters)
    fused.fit(held_out, training)
    own = {"energy": {}, "knn": {"k": 3}, "mahalanobis": {"normalize": True}}
    sums, unseen = np.zeros(60), np.zeros(60)
    for name, parameters in own.items():
        member = Detector(name, parameters=parameters).fit(held_out, training)
        known = member.score(held_out)
        for i, value in enumerate(member.score(test)):
            sums[i] -= 2 * np.log((1 + sum(k >= value for k in known)) / 61)
        for i, value in enumerate(known):
            others = np.delete(known, i)
            unseen[i] -= 2 * np.log((1 + sum(k >= value for k in others)) / 60)
    np.testing.assert_allclose(fused.score(test), sums, rtol=1e-12)
    assert fused.threshold_ == pytest.approx(np.sort(unseen)[57], rel=1e-12)  # rank 0.95 * 61


@pytest.mark.parametrize("first", ["react+openmax", "scale+openmax", "ash_s+energy"])
def test_a_judge_in_a_fusion_learns_as_it_does_alone(first, tmp_path):
    held_out, training, test = outputs(0), outputs(2, 100), outputs(1)
    fused = Detector(f"{first}&msp").fit(held_out, training)
    ranks = []
    for name in (first, "msp"):
        member = Detector(name).fit(held_out, training)
        ranks.append([(member.calibration_ >= s).sum() for s in member.score(test)])
    expected = -2.0 * np.log((1.0 + np.array(ranks)) / 61.0).sum(axis=0)
    np.testing.assert_allclose(fused.score(test), expected, rtol=1e-12)
    fused.save(tmp_path / "fused.npz")
    loaded = Detector.load(tmp_path / "fused.npz")
    np.testing.assert_array_equal(loaded.score(test), fused.score(test))


@pytest.mark.parametrize("name", ["ash_s+kl_matching", "lts+temperature_scaling"])
def test_what_learns_from_held_out_data_alone_needs_no_training_data(name):
    found, also = (Detector(name).fit(outputs(0), more) for more in (None, outputs(2, 100)))
    assert found.threshold_ == also.threshold_
    np.testing.assert_array_equal(found.score(outputs(1)), also.score(outputs(1)))


def test_spaces_in_a_name_say_nothing():
    held_out, training, test = outputs(0), outputs(2, 100), outputs(1)
    expected = Detector("react(percentile=80)+energy&knn(k=5)").fit(held_out, training)
    spaced = Detector(" react (percentile=80) + energy & knn (k=5) ").fit(held_out, training)
    np.testing.assert_array_equal(spaced.score(test), expected.score(test))
    written_by_0_2 = {
        key.replace("knn", " knn"): array for key, array in expected.learner.get_arrays().items()
    }
    again = get(expected.name).make().set_arrays(written_by_0_2)
    arrays = test.require(expected.entry.needs, "The test")
    np.testing.assert_array_equal(again.score(*arrays), expected.score(test))


def test_fusion_of_functions_keeps_its_promise():
    rng = np.random.default_rng(0)
    accepted = []
    for _ in range(30):
        held_out, test = (Outputs(logits=rng.normal(0, 2, (n, 5))) for n in (200, 1000))
        accepted.append(np.mean(~Detector("energy&msp&gen").fit(held_out).is_ood(test)))
    assert 0.93 <= np.mean(accepted) <= 0.97


@pytest.mark.parametrize("count", [20, 50])
def test_fusions_of_few_held_out_examples_raise_no_more_false_alarms_than_promised(count):
    rng, alarms, repeats = np.random.default_rng(1), 0, 1500
    for _ in range(repeats):
        held_out, new = (Outputs(logits=rng.normal(0, 2, (n, 5))) for n in (count, 1))
        detector = Detector("energy&msp&gen").fit(held_out)
        alarms += bool(detector.is_ood(new)[0])
    assert alarms <= stats.binom(repeats, detector.promise.expected).ppf(1 - 1e-6)


def test_what_cannot_be_fused_is_refused(tmp_path):
    for name in ("kl_matching&energy", "react+kl_matching&knn", "energy&mahalanobis_layers"):
        with pytest.raises(ValueError, match="cannot be fused"):
            get(name)
    for name in ("energy&energy", "energy & energy", "react+energy&react + energy"):
        with pytest.raises(ValueError, match="must fuse different scores"):
            get(name)
    with pytest.raises(ValueError, match="Unknown score 'enrgy'"):
        get("knn&enrgy")
    with pytest.raises(ValueError, match="Unknown parameter 'k'"):
        Detector("energy&knn", parameters={"k": 3})
    fused = Detector("react+energy&max_logit", parameters={"react+energy.react.percentile": 80.0})
    fused.fit(outputs(0), outputs(2, 100)).save(tmp_path / "fused.npz")
    again = Detector.load(tmp_path / "fused.npz")
    np.testing.assert_array_equal(again.score(outputs(1)), fused.score(outputs(1)))


def test_cop_and_corp_give_what_their_authors_code_gives(monkeypatch):
    """Frozen: the NumPy lines of CoP_CoRP_c10.py (fanghenshaometeor/ood-kernel-pca, commit 5f24c69)
    on these arrays in float32, with 0.85 and with 0.8, gamma 2, M 16 and np.random.seed(0).
    """

    def array(count, offset):
        i = np.arange(count * 6).reshape(count, 6) + offset
        return np.abs(np.sin(1.7 * i) + 0.3 * np.cos(0.37 * i)).astype(np.float32)

    found = get("cop").make().fit(array(40, 0)).score(array(5, 1000))
    theirs = [0.11577334, 0.01945711, 0.04343962, 0.07219274, 0.00274006]
    np.testing.assert_allclose(found, theirs, atol=2e-6)

    def draw(self, width):
        random = np.random.RandomState(0)
        self.frequencies_ = 2.0 * random.normal(size=(16, width))
        self.phases_ = 2.0 * np.pi * random.rand(16)

    monkeypatch.setattr(kernels.CoRP, "_draw", draw)
    found = get("corp").make({"components": 16}).fit(array(40, 0)).score(array(5, 1000))
    theirs = [0.1782557, 0.29100513, 0.29107647, 0.19394547, 0.12977881]
    np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_weiper_literally():
    training, test = outputs(2, 100), outputs(1)
    parameters = {
        "distance": 1.5, "repeats": 3, "bins": 8, "smoothing": 4, "logits_weight": 0.5,
        "msp_weight": 2.0,
    }  # fmt: skip
    detector = fitted("weiper", parameters)
    heads = detector.learner.kernel_.reshape(12, 3, 5)
    for r in range(3):
        for c in range(5):
            away = np.linalg.norm(heads[:, r, c] - test.head_kernel[:, c])
            assert away == pytest.approx(1.5 * np.linalg.norm(test.head_kernel[:, c]))

    def spaces(x):
        logits = [x @ heads[:, r] + test.head_bias for r in range(3)]
        return x, np.concatenate(logits), logits

    def histogram(values, low, high):
        return np.histogram(values, 8, (low, high))[0] / len(values)

    known = [spaces(x) for x in training.features]
    expected = np.zeros(60)
    for space, (floor, weight) in enumerate(((0.01, 1.0), (0.025, 0.5))):
        low, high = (f([f(k[space]) for k in known]) for f in (np.min, np.max))
        mean = np.mean([histogram(k[space], low, high) for k in known], axis=0) + floor
        mean /= mean.sum()
        for i, x in enumerate(test.features):
            own = histogram(spaces(x)[space], low, high)
            around = [own[[min(max(b + s, 0), 7) for s in (-1, 0, 1, 2)]].mean() for b in range(8)]
            q = np.array(around) + floor
            q /= q.sum()
            divergence = (mean * np.log(mean / q)).sum() + (q * np.log(q / mean)).sum()
            expected[i] += weight * divergence
    for i, x in enumerate(test.features):
        expected[i] -= 2.0 * np.mean([softmax(z).max() for z in spaces(x)[2]])
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-8)


def test_class_residual_refuses_what_no_memory_holds(rng, monkeypatch):
    features, labels = rng.normal(size=(60, 8)), np.arange(60) % 3
    monkeypatch.setattr(subspace, "MOST_BYTES", 8 * 3 * 8 * (8 + 4))
    get("class_residual").make().fit(features, labels)
    monkeypatch.setattr(subspace, "MOST_BYTES", 8 * 3 * 8 * (8 + 4) - 1)
    with pytest.raises(ValueError, match="for 3 classes of 8 features, at most .*: use residual"):
        get("class_residual").make().fit(features, labels)


def test_relation_refuses_what_no_memory_holds(rng, monkeypatch):
    features, logits = rng.normal(size=(60, 8)), rng.normal(size=(60, 3))
    monkeypatch.setattr(neighbors, "MOST_BYTES", 4 * 60 * 3)
    assert get("relation").make().fit(features, logits).probabilities_.nbytes == 4 * 60 * 3
    monkeypatch.setattr(neighbors, "MOST_BYTES", 4 * 60 * 3 - 1)
    with pytest.raises(ValueError, match="of 60 examples of 3 classes, at most .* fewer"):
        get("relation").make().fit(features, logits)


def test_class_residual_literally():
    training, test = outputs(2, 100), outputs(1)
    expected = np.full(60, np.inf)
    for c in range(5):
        x = training.features[training.labels == c]
        vectors, _, _ = np.linalg.svd((x - x.mean(0)).T, full_matrices=True)
        inside = vectors[:, :4] @ vectors[:, :4].T  # the projector on the principal subspace
        away = test.features - x.mean(0)
        expected = np.minimum(expected, np.linalg.norm(away - away @ inside, axis=1))
    found = fitted("class_residual", {"dimension": 4}).score(test)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
