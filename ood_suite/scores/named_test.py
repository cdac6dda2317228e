"""Names with parameters: what is read, what is refused, and that they are what a score uses."""

import numpy as np
import pytest

from ood_suite import scores
from ood_suite.detector import Detector
from ood_suite.evaluation import evaluate
from ood_suite.evaluation.request import Request
from ood_suite.outputs import Outputs
from ood_suite.scores import named


def outputs(count, seed):
    rng = np.random.default_rng(seed)
    features = rng.gamma(1.0, size=(count, 8)).astype(np.float32)
    kernel, bias = np.random.default_rng(9).normal(size=(8, 3)), np.zeros(3)
    logits = features @ kernel
    return Outputs(
        features=features, logits=logits, labels=logits.argmax(axis=1).astype(np.int32),
        head_kernel=kernel, head_bias=bias,
    )  # fmt: skip


def test_a_command_line_is_read():
    text = "HIMPLoS(mask_percentile=60, clip=1.6),ODIN(temperature=1e3,epsilon=0.004),"
    text += "React(clip=1.6)+Energy,knn(k=5)&energy,ALL"
    assert scores.read(text.split(",")) == (
        "himplos(mask_percentile=60,clip=1.6)",
        "odin(temperature=1000.0,epsilon=0.004)",
        "react(threshold=1.6)+energy",
        "knn(k=5)&energy",
        "all",
    )


@pytest.mark.parametrize(
    "name,parameters",
    [
        ("knn(k=5)", {"k": 5}),
        ("himplos(mask_percentile=60,clip=1.6)", {"mask_percentile": 60.0, "clip": 1.6}),
        ("react(threshold=1.2)+energy(temperature=2)",
         {"react.threshold": 1.2, "energy.temperature": 2.0}),
        ("knn(k=5)&energy", {"knn.k": 5}),
    ],
)  # fmt: skip
def test_the_name_is_what_parameters_are(name, parameters, tmp_path):
    held_out, training, test = (outputs(60, seed) for seed in range(3))
    by_name = Detector(name).fit(held_out, training)
    given = Detector(named.bare(name), parameters=parameters).fit(held_out, training)
    np.testing.assert_array_equal(by_name.score(test), given.score(test))
    assert by_name.threshold_ == given.threshold_
    by_name.save(tmp_path / "detector.npz")
    loaded = Detector.load(tmp_path / "detector.npz")
    np.testing.assert_array_equal(loaded.score(test), by_name.score(test))
    assert loaded.name == name


def test_whole_numbers_may_be_written_as_floats():
    held_out, training, test = (outputs(60, seed) for seed in range(3))
    expected = Detector("knn(k=5)").fit(held_out, training).score(test)
    for detector in (
        Detector("knn(k=5.0)"), Detector("knn", parameters={"k": 5.0}),
        Detector("knn", parameters={"k": np.int64(5)}),
    ):  # fmt: skip
        np.testing.assert_array_equal(detector.fit(held_out, training).score(test), expected)
    with pytest.raises(ValueError, match="`k` must be like 50. Received: '5.5'"):
        Detector("knn", parameters={"k": 5.5})


@pytest.mark.parametrize(
    "name,message",
    [
        ("knn(kk=5)", "Unknown parameter 'kk' of knn. Known: k"),
        ("msp(k=5)", "Unknown parameter 'k' of msp. Known: none"),
        ("knn(k=2.5)", "`k` must be like 50"),
        ("knn(k=True)", "`k` must be like"),
        ("knn(k=10, k=20)", r"must be given once. Received: 'knn\(k=10, k=20\)'"),
        ("react(clip=1.6,threshold=2)+energy", "must be given once"),
        ("himplos(clip=1e999)", "`clip` must be like 0.0. Received: 'inf'"),
        ("knn(5)", "Parameters must be like knn"),
        ("knn(k=print)", "Parameters must be like knn"),
        ("knn(k=[1])", "Parameters must be like knn"),
        ("knn(**{'k': 1})", "Parameters must be like knn"),
        ("knn(k='a/b')", "Parameters must be like knn"),
        ("knn(k=" + "-" * 900 + "1)", "Parameters must be like knn"),
        ("knn(k=5", "Every bracket must be closed once"),
        ("knn(k=(5))", "Every bracket must be closed once"),
        ("enrgy(temperature=2)", "Unknown score 'enrgy'. Did you mean energy"),
        ("ENRGY", "Did you mean energy"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        scores.get(name)


def test_none_is_for_what_is_none_by_default():
    with pytest.raises(ValueError, match="`k` must be like 50. Received: 'None'"):
        Detector("knn", parameters={"k": None})
    with pytest.raises(ValueError, match="`react.threshold` must be like 0.0. Received: 'None'"):
        Detector("react+energy", parameters={"react.threshold": None})
    assert named.checked({"a": None}, {"a": None}) == {"a": None}
    assert named.checked({"a": None}, {"a": 2}) == {"a": 2}


def test_a_recommended_name_has_no_spaces():
    found = named.composed("react + energy", {"react.threshold": 1.6})
    assert found == "react(threshold=1.6)+energy"


@pytest.mark.parametrize("more", [{"tune": True}, {"preset": "cifar10_densenet"}])
def test_parameters_are_chosen_in_one_place(more, tmp_path):
    asked = Request(scores=("knn(k=5)",), **more)
    with pytest.raises(ValueError, match=f"--{min(more)} and knn.k=5. both choose parameters"):
        evaluate.evaluate(tmp_path, asked)
