"""One checker over the whole catalogue, and the scores of density models against hand numbers."""

import inspect
import re

import numpy as np
import pytest
from scipy import stats

from ood_suite import scores
from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from ood_suite.scores import checks, weiper

COMPOSED = (
    "dice+react+energy", "react+kl_matching", "ash_s+max_logit", "vra+openmax",
    "scale+energy&max_logit",
)  # fmt: skip
NAMES = (*scores.ALL, *COMPOSED)
# A value of each parameter that must change the scores of these small data, where the first other
# one of its grid does not.
OTHER = {
    "acceptance": 0.8, "activation_percentile": 60.0, "alpha": 2, "clip": 0.3, "dimension": 3,
    "clip_percentile": 70.0, "epsilon": 0.002, "gamma": 0.5, "high_percentile": 80.0, "k": 3,
    "low_percentile": 20.0, "mask_percentile": 20.0, "percentile": 40.0,
    "tail": 5, "threshold": 0.3, "temperature": 5.0, "top": 2, "weight_percentile": 60.0,
    "distance": 1.0, "repeats": 5, "bins": 50, "smoothing": 4, "components": 32,
    "seed": 1, "explained": 0.5,
    "power": 2.0, "least": 0.2,
    "members": 1, "rule": "cross_entropy", "terms": "entropy",
    "share": 0.3, "edges": 10, "full": 0.5, "steepness": 1.0,
    "references": 30,
    "lowest": 20.0, "weight": 1.0, "moved": 30.0, "kept": 60.0,
}  # fmt: skip

# What fits the small data, in place of defaults.
SMALL = {
    "cfood": {"references": 60}, "corp": {"components": 64}, "knn": {"k": 5},
    "weiper": {"repeats": 8},
}  # fmt: skip


def outputs(seed, count=60, shift=0.0):
    """Outputs with every array that a score may need: five classes, 12 features."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(99)
    kernel, bias = world.normal(0, 1, (12, 5)), world.normal(0, 0.3, 5)
    labels = np.arange(count) % 5
    features = np.maximum(kernel.T[labels] + shift + rng.normal(0, 0.5, (count, 12)), 0)
    logits = features @ kernel + bias
    moved = {
        f"T={t:g},epsilon={e:g}": logits * (1 + e) + e * t / 1000 * rng.normal(0, 1, (count, 5))
        for t in (5.0, 1000.0)
        for e in (0.0014, 0.002)
    }
    layers = {"block1": rng.normal(labels[:, None] + shift, 1, (count, 3)), "block2": features}
    grams = {name: np.abs(array) for name, array in layers.items()}
    layers |= {f"{name},epsilon=0.002": 0.9 * array for name, array in list(layers.items())}
    return Outputs(
        labels=labels,
        features=features,
        features_perturbed=np.abs(features + rng.normal(0, 0.1, (count, 12))),
        rank_one=features.mean(axis=1, keepdims=True) * world.uniform(0, 2, 12),
        gram_sums=grams,
        logits=logits,
        head_kernel=kernel,
        head_bias=bias,
        logits_perturbed=moved,
        layer_features=layers,
        member_logits={
            f"{member},{rule},T={t},epsilon={e}": logits[:, member:] * (1 + e * t + len(rule) / 99)
            for member in (0, 1)
            for rule in ("entropy", "cross_entropy")
            for t in (5, 1000)
            for e in (0.001, 0.002)
        },
        log_prob=rng.normal(-1500, 200, count),
        background_log_prob=rng.normal(-1700, 150, count),
        background_log_probs=rng.normal(-1700, 150, (count, 3)),
        code_length=rng.integers(2000, 5000, count).astype(np.float64),
    )


def fitted(name, parameters=None, acceptance=0.95):
    """A detector on held-out, training and validation OOD outputs."""
    detector = Detector(name, acceptance, SMALL.get(name, {}) | (parameters or {}))
    return detector.fit(outputs(0), outputs(2, 100), outputs(3, shift=1.0))


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_over_many_blocks_is_that_over_one(name, monkeypatch):
    expected = fitted(name).score(outputs(1))
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 12 * 7)  # seven rows of the features
    monkeypatch.setattr(checks, "MOMENT_ROWS", 9)
    monkeypatch.setattr(weiper, "ROWS", 7)
    monkeypatch.setattr(weiper, "COLUMNS", 10)
    found = fitted(name).score(outputs(1))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_every_score(name, tmp_path):
    test = outputs(1)
    before = {k: v.copy() for k, v in test.arrays().items()}
    detector = fitted(name, acceptance=0.9)
    values = detector.score(test)
    assert values.shape == (60,) and values.dtype == np.float64 and np.isfinite(values).all()
    for field, array in test.arrays().items():
        np.testing.assert_array_equal(array, before[field])
    assert np.mean(~detector.is_ood(outputs(0))) >= 0.9
    np.testing.assert_array_equal(fitted(name).score(test), values)  # refit = fit
    detector.save(tmp_path / "detector.npz")
    loaded = Detector.load(tmp_path / "detector.npz")
    np.testing.assert_array_equal(loaded.score(test), values)
    np.testing.assert_array_equal(loaded.is_ood(test), detector.is_ood(test))


FLOAT32_INSIDE = ("nnguide",)  # whose matrix products round by the size of the batch


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_its_example_alone(name):
    detector, test = fitted(name), outputs(1)
    values = detector.score(test)
    order = np.random.default_rng(5).permutation(60)[:17]

    def rows(array):
        if isinstance(array, dict):
            return {key: rows(value) for key, value in array.items()}
        return array[order] if len(array) == 60 else array

    arrays = {field: rows(getattr(test, field)) for field in detector.entry.needs}
    rtol = 1e-6 if name in FLOAT32_INSIDE else 1e-9
    np.testing.assert_allclose(detector.score(Outputs(**arrays)), values[order], rtol=rtol)


def other_value(name, parameter):
    """A value that differs from the default, of OTHER or of the score's grid."""
    entry, short = scores.get(name), parameter.split(".")[-1]
    default = entry.parameters[parameter]
    if isinstance(default, bool):
        return not default
    known = [OTHER[short]] if short in OTHER else list(entry.grid.get(parameter, ()))
    found = [value for value in known if value != default] or [v / 2.0 for v in known]
    if not found:
        pytest.fail(
            f"Which value of `{parameter}` changes {name}? Give the parameter a grid in "
            "ood_suite/scores/__init__.py, or a value in OTHER in ood_suite/scores/scores_test.py."
        )
    return found[0]


@pytest.mark.parametrize(
    "name, parameter", [(name, p) for name in scores.ALL for p in scores.get(name).parameters]
)
def test_every_parameter_matters(name, parameter):
    other = {parameter: other_value(name, parameter)}
    if parameter == "clip":
        assert fitted(name, {"clip": 0.0}).learner.clip_ != 0.3
    assert not np.array_equal(fitted(name, other).score(outputs(1)), fitted(name).score(outputs(1)))
    assert scores.get(name).settings[0].items() <= scores.get(name).parameters.items()


@pytest.mark.parametrize("name", scores.SCORES)
def test_every_score_needs_its_arrays_and_refuses_damaged_ones(name):
    score = scores.SCORES[name]
    with pytest.raises(ValueError, match=f"{name} needs"):
        empty = Outputs(labels=np.arange(3), meta={"run": "r"})
        Detector(name).fit(empty, Outputs(images=np.zeros((1, 2, 2, 1), np.uint8)), empty)
    function = getattr(fitted(name).learner, "score", fitted(name).learner)
    arrays = outputs(0).require(score.needs, name)

    def spoilt(place, change):
        own = arrays[place]
        is_dict = isinstance(own, dict)
        other = {key: change(value) for key, value in own.items()} if is_dict else change(own)
        return [*arrays[:place], other, *arrays[place + 1 :]]

    for place in range(len(arrays)):
        with pytest.raises(ValueError):
            function(*spoilt(place, lambda array: array[:, None, None]))
        with pytest.raises(ValueError, match="NaN"):
            function(*spoilt(place, lambda array: np.full(array.shape, np.nan)))
    of_examples = [n for n, need in enumerate(score.needs) if not need.startswith("head_")]
    for place in of_examples if len(of_examples) > 1 else ():
        with pytest.raises(ValueError):
            function(*spoilt(place, lambda array: array[:1]))


@pytest.mark.parametrize("catalogue", (scores.SCORES, scores.SHAPERS))
def test_every_score_is_documented_and_says_its_arguments(catalogue):
    for name, score in catalogue.items():
        first, *blocks = inspect.getdoc(score.fn).split("\n\n")
        assert len(first) > 10, name  # the formula, or what it does
        for word in ("Defaults: ", "Fails: ", "Reference: "):
            assert sum(block.startswith(word) for block in blocks) == 1, (name, word)
        for function, needs in (("fit", score.fit_needs), ("score", score.needs)):
            method = getattr(score.fn, function, None)
            if catalogue is scores.SHAPERS and function == "score":
                method = getattr(score.fn, "shape", None)
            if not inspect.isclass(score.fn) and function == "score":
                method = score.fn
            if method is None:
                assert not needs
                continue
            parameters = inspect.signature(method).parameters.values()
            required = [p.name for p in parameters if p.default is p.empty and p.name != "self"]
            assert tuple(required) == needs, name


def test_the_catalogue_is_sorted_and_unknown_names_are_refused():
    for catalogue in (scores.SCORES, scores.SHAPERS):
        assert list(catalogue) == sorted(catalogue)
    with pytest.raises(ValueError, match="'liklihood'. Did you mean likelihood"):
        scores.get("liklihood")
    with pytest.raises(ValueError, match="Unknown shaper 'raect'. Did you mean react"):
        scores.get("raect+energy")
    with pytest.raises(ValueError, match="react shapes features: it needs .*react.energy"):
        scores.get("react")
    for wrong in ("react+knn", "react+react+energy"):
        with pytest.raises(ValueError, match="one score of logits alone, of energy"):
            scores.get(wrong)
    with pytest.raises(ValueError, match="Unknown parameter 'kk'. Known: k"):
        Detector("knn", parameters={"kk": 3})


def test_hand_numbers():
    test = Outputs(
        log_prob=np.array([-693.147180559945, -1000.0]),
        background_log_prob=np.array([-700.0, -900.0]),
        background_log_probs=np.array([[-700.0, -900.0], [-900.0, -1000.0]]),
        code_length=np.array([900.0, 1400.0]),
    )
    expected = {
        "likelihood": [693.147180559945, 1000.0],
        "likelihood_ratio": [-6.852819440055, 100.0],
        "background_mean": [-106.852819440055, 50.0],
        "input_complexity": [100.0, 1000.0 / np.log(2.0) - 1400.0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(Detector(name).score(test), values, rtol=1e-12)
    typicality = Detector("typicality").fit(Outputs(log_prob=np.array([-800.0, -1000.0])))
    np.testing.assert_allclose(typicality.score(test), [206.852819440055, 100.0])


def test_gen_of_sure_networks_by_hand():
    for margin in (20.0, 37.0, 60.0, 300.0, 720.0, 900.0):
        small = np.exp(np.longdouble(-margin))
        first = (2 * small / (1 + 2 * small) ** 2) ** 0.1  # of the largest, 1 - p = 2 small / ...
        p = small / (1 + 2 * small)
        expected = first + 2 * (p * (1 - p)) ** 0.1
        found = scores.get("gen").fn([[margin, 0.0, 0.0]])
        np.testing.assert_allclose(found, [float(expected)], rtol=1e-12)
        two = first + (p * (1 - p)) ** 0.1
        found = scores.get("gen").fn([[margin, 0.0, 0.0]], top=2)
        np.testing.assert_allclose(found, [float(two)], rtol=1e-12)
    assert scores.get("gen").fn([[5.0]]) == 0.0  # of one class


@pytest.mark.parametrize("name", ["react+energy", "optfs+energy", "ras+energy"])
def test_no_training_examples_are_refused(name):
    with pytest.raises(ValueError, match="no examples|no example"):
        Detector(name).fit(outputs(0), outputs(1).take(slice(0, 0)))


def test_what_has_no_answer_is_refused():
    with pytest.raises(ValueError, match="A head of one class has no boundaries"):
        scores.get("fdbd").fn().fit(np.eye(3)).score(np.eye(3), np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="The features do not vary"):
        scores.get("cop").fn().fit(np.zeros((9, 4)))
    given = outputs(0)
    sparse = np.zeros((60, 2000))
    sparse[:, 0] = 1.0
    bent = {"lowest": 99.9, "highest": 99.95}
    learner = scores.get("adascale_a").fn(**bent)
    learner.fit(sparse, sparse)
    head = np.ones((2000, 5)), given.head_bias
    with pytest.raises(ValueError, match="Lower `lowest` and `highest`"):
        learner.score(np.ones((3, 2000)), np.ones((3, 2000)), *head)


@pytest.mark.parametrize(
    "name, parameters, interval",
    [
        ("dice+energy", {"dice.percentile": 100.0}, "[0, 100)"),
        ("gen", {"gamma": 1.0}, "(0, 1)"),
        ("gen", {"gamma": 1.5}, "(0, 1)"),
        ("himplos", {"clip": -0.1}, "[0, inf)"),
        ("himplos", {"clip_percentile": 150.0}, "[0, 100]"),
        ("himplos", {"mask_percentile": -1.0}, "[0, 100]"),
        ("line", {"activation_percentile": 100.0}, "[0, 100)"),
        ("line", {"clip": -0.1}, "[0, inf)"),
        ("line", {"clip_percentile": 100.5}, "[0, 100]"),
        ("line", {"weight_percentile": -1.0}, "[0, 100)"),
        ("nci", {"alpha": -1.0}, "[0, inf)"),
        ("relation", {"least": 2.0}, "[0, 1)"),
        ("weiper", {"logits_weight": -1.0}, "[0, inf)"),
        ("weiper", {"msp_weight": -1.0}, "[0, inf)"),
    ],
)
def test_parameters_outside_their_range_are_refused(name, parameters, interval):
    [(parameter, value)] = parameters.items()
    wanted = f"`{parameter.split('.')[-1]}` must lie in {interval}. Received: {value}."
    with pytest.raises(ValueError, match=re.escape(wanted)):
        fitted(name, parameters)


def test_constant_features_are_constant_whatever_their_rounding():
    held_out, training = outputs(0), outputs(1)
    for part in (held_out, training):
        part.features[:, 3:6] = 0.1
    kernel = held_out.head_kernel
    double = scores.get("neco").fn().fit(training.features.astype(np.float64), kernel)
    assert (double.deviation_[3:6] == 1.0).all() and (double.deviation_[:3] != 1.0).all()


def test_two_sided_fisher_equals_scipy():
    """Its p-values by a count over all pairs, their sum by scipy.stats.combine_pvalues."""
    rng = np.random.default_rng(0)

    def density(count):
        values = rng.integers(-9, 0, (3, count)).astype(float)  # with ties
        return Outputs(log_prob=values[0], background_log_prob=values[1], code_length=-values[2])

    held_out, test = density(31), density(17)
    parts = ("likelihood", "likelihood_ratio", "input_complexity")
    known, seen = ([Detector(n).score(o) for n in parts] for o in (held_out, test))
    expected = []
    for row in range(17):
        values = []
        for own, new in zip(known, seen, strict=True):
            above, below = np.sum(own >= new[row]), np.sum(own <= new[row])
            values.append(min(1.0, 2.0 * min(1 + above, 1 + below) / 32.0))
        expected.append(stats.combine_pvalues(values, "fisher").statistic / 2.0)
    found = Detector("two_sided_fisher").fit(held_out).score(test)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_unfitted():
    with pytest.raises(ValueError, match="typicality learns: call fit first"):
        Detector("typicality").score(outputs(0))
    with pytest.raises(ValueError, match="no threshold"):
        Detector("likelihood").is_ood(outputs(0))
    with pytest.raises(ValueError, match="no threshold"):
        Detector("likelihood").save("never.npz")
    with pytest.raises(ValueError, match="knn learns from training data"):
        Detector("knn").fit(outputs(0))
    with pytest.raises(ValueError, match="needs validation OOD data"):
        Detector("mahalanobis_layers").fit(outputs(0), outputs(2))


def test_shifting_all_backgrounds_shifts_the_ratio_alone():
    test = outputs(2)
    moved = Outputs(log_prob=test.log_prob, background_log_prob=test.background_log_prob + 7.0)
    np.testing.assert_allclose(
        Detector("likelihood_ratio").score(moved), Detector("likelihood_ratio").score(test) + 7.0
    )


def test_outputs_of_another_layer_or_model_are_refused():
    held_out = outputs(0)
    held_out.meta |= {"features_layer": "avg_pool", "model_fingerprint": "a"}
    detector = Detector("energy").fit(held_out)
    other = outputs(1)
    other.meta |= {"features_layer": "block3", "model_fingerprint": "a"}
    with pytest.raises(ValueError, match="features_layer 'avg_pool'. Received: 'block3'"):
        detector.score(other)
