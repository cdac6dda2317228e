"""LogitNorm and T2FNorm: OpenOOD's numbers, hand numbers, their defining properties, and runs."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from keras import layers

from classifier_ood import losses
from classifier_ood.classifier_model import ClassifierModel, cross_entropy
from ood_suite.files import load_npz
from tests.support import command

PATH = pathlib.Path(__file__).parents[1] / "tests" / "references" / "normalization.npz"


@pytest.fixture(scope="module")
def frozen():
    return load_npz(PATH)


def model(frozen, normalization=None, temperature=1.0):
    """A ClassifierModel of the frozen head; its images are the features."""
    inputs = keras.Input((8,))
    body = layers.Dense(8, use_bias=False, kernel_initializer="identity", name="features")
    features = body(inputs)
    logits = layers.Dense(5, name="fc")(features)
    backbone = keras.Model(inputs, {"features": features, "logits": logits})
    backbone.layers[-1].set_weights([frozen["head_kernel"], frozen["head_bias"]])
    return ClassifierModel(backbone, normalization=normalization, temperature=temperature)


@pytest.mark.jax
@pytest.mark.parametrize("temperature", (0.04, 0.5))
def test_logitnorm_is_openoods(frozen, temperature):
    own, logits = model(frozen, "logit", temperature), {"logits": frozen["logits"]}
    loss = float(own.compute_loss(y=frozen["labels"], y_pred=logits))
    assert loss == pytest.approx(float(frozen[f"logitnorm/{temperature}/loss"]), rel=1e-6)
    outside = float(own.compute_loss(y=frozen["labels"], y_pred=logits, training=False))
    plain = float(model(frozen).compute_loss(y=frozen["labels"], y_pred=logits))
    assert outside == plain != pytest.approx(loss, rel=0.1)


def gradient(function, x):
    """Of a scalar function of float64, by central differences."""
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        found[i] = (float(function(x + step)) - float(function(x - step))) / 2e-6
    return found


def test_gradients_are_openoods(frozen):
    labels = frozen["labels"]

    def logitnorm(z):
        return np.mean(cross_entropy(losses.unit_length(z, 0.04), labels))

    logits = frozen["logits"].astype(np.float64)
    found, expected = gradient(logitnorm, logits), frozen["logitnorm/0.04/gradient"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # Longer logits alone neither help nor harm: the gradient has no part along them.
    assert np.abs(found).max() > 0.01
    np.testing.assert_allclose((found * logits).sum(1), 0.0, atol=1e-7)

    def t2fnorm(x):
        z = np.asarray(losses.unit_length(x, 0.1)) @ frozen["head_kernel"] + frozen["head_bias"]
        return np.mean(cross_entropy(z, labels))

    found = gradient(t2fnorm, frozen["features"].astype(np.float64))
    np.testing.assert_allclose(found, frozen["t2fnorm/gradient"], rtol=1e-4, atol=1e-5)


@pytest.mark.jax
def test_t2fnorm_is_openoods(frozen):
    own, x = model(frozen, "feature", 0.1), frozen["features"]
    found = own(x, training=True)
    np.testing.assert_allclose(found["logits"], frozen["t2fnorm/logits"], rtol=1e-5, atol=1e-5)
    loss = float(own.compute_loss(y=frozen["labels"], y_pred=found))
    assert loss == pytest.approx(float(frozen["t2fnorm/loss"]), rel=1e-6)
    saved = own.network()
    for at_test in (own(x, training=False), saved([x])):
        expected = frozen["t2fnorm/test_logits"]
        np.testing.assert_allclose(at_test["logits"], expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(at_test["features"], x)
    # The saved network keeps the contract: its features are the input of its last layer.
    kernel, bias = saved.layers[-1].get_weights()
    np.testing.assert_allclose(saved([x])["logits"], x @ kernel + bias, rtol=1e-5, atol=1e-4)


@pytest.mark.jax
def test_hand_numbers_and_scale(frozen):
    logits, labels = np.float32([[3.0, -4.0], [0.0, 2.0]]), np.array([0, 1])
    found = np.asarray(cross_entropy(losses.unit_length(logits, 1.0), labels))
    np.testing.assert_allclose(found, np.log1p(np.exp([-1.4, -1.0])), rtol=1e-6)
    own, labels = model(frozen, "logit", 0.04), frozen["labels"]
    once, longer, shorter = (
        float(own.compute_loss(y=labels, y_pred={"logits": scale * frozen["logits"]}))
        for scale in (1.0, 1000.0, 0.01)
    )
    assert longer == pytest.approx(once, rel=1e-5) and shorter == pytest.approx(once, rel=1e-5)


@pytest.mark.jax
@pytest.mark.parametrize("normalization", ("logit", "feature"))
def test_fit_lowers_the_loss_and_zeros_leave_it_finite(frozen, normalization):
    for images in (frozen["features"], np.zeros((6, 8), np.float32)):
        own = model(frozen, normalization, 0.1)
        own.backbone.layers[-1].set_weights([frozen["head_kernel"], np.zeros(5, np.float32)])
        own.compile(optimizer=keras.optimizers.SGD(0.01))
        history = own.fit(images, frozen["labels"], epochs=20, verbose=0).history["loss"]
        assert all(np.isfinite(np.asarray(weight)).all() for weight in own.weights)
        assert not images.any() or history[-1] < 0.8 * history[0]


def train(data_dir, out_dir, *arguments):
    return command(
        "classifier_ood.train", "--exp=fashion", "--options=width=2", "--batch_size=8",
        "--epochs=1", f"--data_dir={data_dir}", f"--out_dir={out_dir}", *arguments,
    )  # fmt: skip


@pytest.mark.jax
def test_runs(small_data, tmp_path):
    for name, arguments, temperature in (
        ("logit", (), 0.04), ("feature", (), 0.1), ("feature", ("--temperature=0.3",), 0.3),
    ):  # fmt: skip
        own = f"{name}{temperature}"
        arguments = (f"--normalization={name}", f"--name={own}", *arguments)
        done = train(small_data, tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        settings = json.loads((tmp_path / f"fashion/{own}/config.json").read_text())["settings"]
        assert (settings["normalization"], settings["temperature"]) == (name, temperature)
        again = train(small_data, tmp_path, *arguments)
        assert "is finished: nothing to do" in again.stderr
    last, same = (
        keras.saving.load_model(tmp_path / path, compile=False)
        for path in ("fashion/feature0.1/model.keras", "fashion/feature0.1/checkpoints/best.keras")
    )
    for ours, theirs in zip(last.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_runs_made_before_go_on(small_data, tmp_path):
    assert train(small_data, tmp_path).returncode == 0
    path = tmp_path / "fashion/convnet/config.json"
    config = json.loads(path.read_text())
    assert config["settings"].pop("normalization", "absent") is None
    assert config["settings"].pop("temperature", "absent") is None
    path.write_text(json.dumps(config))
    assert "is finished: nothing to do" in train(small_data, tmp_path).stderr
    other = train(small_data, tmp_path, "--normalization=logit")
    assert other.returncode == 1 and "normalization: None there, 'logit' now" in other.stderr


def test_refusals(small_data, tmp_path):
    for arguments, message in (
        (("--temperature=0.1",), "--temperature has no effect without --normalization"),
        (("--normalization=logit", "--temperature=0"), "--temperature must be positive"),
        (("--normalization=length",), "logit|feature"),
    ):
        done = train(small_data, tmp_path / "out", *arguments)
        assert done.returncode == 1 and message in done.stderr + done.stdout
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
