"""Checkpoints of the likelihood-ratio authors' layout: their log-probabilities, and every refusal.
The checkpoints and the numbers are those of tests/reference_pixelcnn.py.
"""

import json
import re

import keras
import numpy as np
import pytest

from images_ood import checkpoint_files, conversion
from images_ood.extract import extract
from images_ood.pixelcnn import PixelCNN
from ood_suite.data.npz import write_images
from ood_suite.files import RunError, read_csv
from ood_suite.runs.run import Run
from tests import reference_pixelcnn as twin
from tests.support import command

pytestmark = pytest.mark.tensorflow
RESCALED = {"rescale_pixel_value": True, "num_logistic_mix": 2, "num_resnet": 2}
COLOUR = {"exp": "cifar", "n_channel": 3}


@pytest.fixture
def pair(tmp_path):
    """(model_dir, {folder: (params, weights)}) of a foreground and a background."""
    return tmp_path / "expfashion", twin.write_pair(tmp_path / "expfashion")


def convert(model_dir, **options):
    """Its Runs, in a folder beside it."""
    options = {"ckpt_step": 40, "out_dir": model_dir.parent / "out"} | options
    return conversion.convert(model_dir, **options)


@pytest.mark.parametrize(
    "changes",
    [{}, RESCALED, RESCALED | COLOUR, COLOUR | {"num_logistic_mix": 3}],
    ids=["raw", "rescaled", "colour", "raw colour"],
)
def test_log_probabilities_are_theirs(changes, tmp_path, rng):
    """Also in colour, where their coefficients multiply raw pixels whatever the network sees."""
    written = twin.write_pair(tmp_path / "models", **changes)
    runs = convert(tmp_path / "models")
    assert [run.folder.name for run in runs] == ["reg0_mr0", "reg0_mr0.1"]
    shape = (8, 8, changes.get("n_channel", 1))
    images = rng.integers(0, 256, (6, *shape)).astype(np.uint8)
    images[0], images[1] = 0, 255  # the edge bins
    for run, (params, weights) in zip(runs, written.values(), strict=True):
        expected = twin.log_prob(weights, params, images)
        assert expected.std() > 10 and np.isfinite(expected).all()
        model = keras.saving.load_model(run.model_path, compile=False)
        found = model.predict(images, verbose=0).sum(axis=(1, 2), dtype=np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("hierarchies", [2, 3])
def test_strided_layers_are_those_of_tensorflow_probability(hierarchies, rng):
    """The authors' network is an early version of TFP's, of which it keeps the names."""
    import tensorflow_probability as tfp

    reference = tfp.distributions.PixelCNN(
        (8, 8, 1), num_resnet=1, num_hierarchies=hierarchies, num_filters=3, num_logistic_mix=2,
        dropout_p=0.0, use_weight_norm=False,
    )  # fmt: skip
    weights = random_weights_of(reference.network._network.layers, rng)
    options = {"num_resnet": 1, "num_filters": 3, "num_logistic_mix": 2}
    model = PixelCNN((8, 8, 1), num_hierarchies=hierarchies, rescale_pixel_value=True, **options)
    conversion.fill(model, weights)
    images = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.float32)
    expected = np.asarray(reference.log_prob(images, training=False))
    found = model.predict(images, verbose=0).sum(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def random_weights_of(layers, rng):
    """Random masked weights, put into a network of TFP, by the names of the authors' files."""
    found = {}
    for kind in ("Conv2D", "Conv2DTranspose", "Dense"):
        made = [layer for layer in layers if type(layer).__name__ == kind]
        made.sort(key=lambda layer: int((re.findall(r"_(\d+)$", layer.name) or [0])[0]))
        name = {"Conv2DTranspose": "conv2d_transpose"}.get(kind, kind.lower())
        for number, layer in enumerate(made):
            kernel = rng.normal(0, 0.1, layer.kernel.shape)
            kernel = layer.kernel_constraint(kernel) if kind != "Dense" else kernel
            layer.set_weights([np.asarray(kernel), rng.normal(0, 0.1, layer.bias.shape)])
            own = f"{name}_{number}" if number else name
            found |= zip((f"{own}/kernel", f"{own}/bias"), layer.get_weights(), strict=True)
    return found


def test_a_run_says_what_it_is(pair, small_data):
    model_dir, _ = pair
    foreground, background = convert(model_dir, data_dir=small_data, name="theirs")
    assert background.folder == model_dir.parent / "out/theirs/reg0_mr0.1"
    assert foreground.kind == "density" and foreground.roles["id_test"].names == ("fashion_mnist",)
    prints = foreground.config["fingerprints"]
    files = "reg0.00_mr0.00/0/model/model_step40.ckpt"
    assert set(prints) == {files, "fashion_mnist_train", "fashion_mnist_val"}
    expected = {"mutation_rate": 0.1, "total_steps": 40, "repeat_id": 0, "ema": 0.0, "dropout_p": 0}
    assert expected.items() <= background.settings.items()
    again = convert(model_dir, data_dir=small_data, name="theirs")
    assert [run.config for run in again] == [foreground.config, background.config]
    assert Run.load(foreground.folder, "step_40").model_path == foreground.model_path
    outputs = extract(background, ("mnist",), "test", data_dir=small_data)
    assert outputs.log_prob.shape == (20,)
    twin.write_pair(model_dir, num_filters=5)
    with pytest.raises(RunError, match=r"made with other settings:\n  num_filters: 4 there, 5 now"):
        convert(model_dir, data_dir=small_data, name="theirs")


def test_the_embedded_sample_is_no_training_data(tmp_path):
    twin.write_pair(tmp_path / "models", n_dim=28)
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=r"has no fashion_mnist \(train\), which the check"):
        convert(tmp_path / "models", data_dir=tmp_path / "data")


def test_data_of_another_shape_are_refused(pair, small_data, tmp_path):
    images = np.zeros((40, 9, 9, 1), np.uint8)
    for split in ("train", "val"):
        write_images(small_data / f"fashion_mnist_{split}.npz", images, np.zeros(40))
    with pytest.raises(ValueError, match=r"shape \(9, 9, 1\), those of the checkpoint \(8, 8, 1\)"):
        convert(pair[0], data_dir=small_data)
    assert not (tmp_path / "out").exists()


def test_runs_and_steps(pair, tmp_path):
    model_dir, _ = pair
    twin.write_pair(model_dir, run="1", step=80)
    twin.write_pair(model_dir, run="1", step=120)
    runs = convert(model_dir, repeat_id=1, ckpt_step=120)
    assert [run.folder.name for run in runs] == ["reg0_mr0_repeat1", "reg0_mr0.1_repeat1"]
    assert runs[0].folder.parent.name == "fashion_converted_step120"
    with pytest.raises(RunError, match=r"no checkpoint of step 40\. It has: 80, 120\.$"):
        convert(model_dir, repeat_id=1)
    with pytest.raises(RunError, match=r"has 2 runs \(0, 1\), counted from 0. Received: .*id=2\.$"):
        convert(model_dir, repeat_id=2)
    with pytest.raises(RunError, match="repeat_id=-1: .*reg0.00_mr0.00 must hold model/"):
        convert(model_dir, repeat_id=-1)
    twin.write_pair(tmp_path / "flat", run=".")
    assert len(convert(tmp_path / "flat", repeat_id=-1)) == 2
    with pytest.raises(RunError, match="has 0 runs .* --repeat_id=-1 takes its model/"):
        convert(tmp_path / "flat")
    with pytest.raises(RunError, match=r"must hold folders reg<weight>_mr<rate>.* holds model\."):
        convert(model_dir / "reg0.00_mr0.00" / "0")
    with pytest.raises(RunError, match="nowhere is no folder"):
        convert(tmp_path / "nowhere")


def change(weights, name, function):
    weights[name] = function(weights[name])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda w: w.pop("conv2d_3/bias"), r"Weights missing: conv2d_3/bias \(1\)\.$"),
        (lambda w: w.update({"dense_9/bias": w["conv2d/bias"]}), r"left over: dense_9/bias \(1\)"),
        (
            lambda w: change(w, "conv2d_4/kernel", lambda k: k[:, :, :7]),
            r"conv2d_4/kernel \(float32\[3, 3, 7, 8\], not float32\[3, 3, 8, 8\]\)",
        ),
        (lambda w: change(w, "dense/bias", np.float64), r"dense/bias \(float64\[4\], not float32"),
        (lambda w: change(w, "conv2d_2/kernel", lambda k: k + 1e-6), "not causal: conv2d_2/kernel"),
        (
            lambda w: change(w, "dense_2/kernel", lambda k: k * np.nan),
            r"not finite: dense_2/kernel",
        ),
        (
            lambda w: w.update({"conv2d/gain": w["conv2d/bias"]}),
            "the variable PixelCNN/conv2d/gain has no place in a PixelCNN",
        ),
        (
            lambda w: w.update({"again/conv2d/bias": w["conv2d/bias"]}),
            "two variables come to conv2d/bias; one is PixelCNN/conv2d/bias",
        ),
    ],
    ids=["missing", "left over", "shape", "dtype", "masked", "nan", "no weight", "twice"],
)
def test_weights_that_do_not_fit_are_named(damage, message, pair, tmp_path):
    model_dir, written = pair
    params, weights = written["reg0.00_mr0.10"]
    damage(weights)
    twin.write_checkpoint(model_dir / "reg0.00_mr0.10" / "0", params, weights)
    with pytest.raises(ValueError, match=message):
        convert(model_dir)
    assert not (tmp_path / "out").exists()  # nor a run of the foreground, which is whole


@pytest.mark.parametrize("scope", ["", "model/PixelCNN_1/"])
def test_other_scopes(scope, pair):
    model_dir, written = pair
    plain = convert(model_dir, name="plain")
    for folder, (params, weights) in written.items():
        twin.write_checkpoint(model_dir / folder / "0", params, weights, scope=scope)
    for runs in zip(plain, convert(model_dir, name="scoped"), strict=True):
        models = [keras.saving.load_model(run.model_path, compile=False) for run in runs]
        for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut", "empty", "absent", "flipped"])
def test_damaged_files_are_named(suffix, damage, pair):
    model_dir, _ = pair
    path = model_dir / f"reg0.00_mr0.10/0/model/model_step40.ckpt.{suffix}"
    content = bytearray(path.read_bytes())
    content[5] ^= 255  # of conv2d/bias
    cut = {"cut": content[:-300], "empty": b"", "flipped": bytes(content)}
    path.unlink() if damage == "absent" else path.write_bytes(cut[damage])
    absent = suffix == "index" and damage == "absent"
    message = "has no checkpoint of step 40" if absent else "model_step40.ckpt cannot be read"
    with pytest.raises(RunError, match=message):
        convert(model_dir)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_filters": None}, r"lacks num_filters\. Is num_filter meant for it\?$"),
        ({"num_filters": "4"}, "num_filters must be a whole number. Received: '4'"),
        ({"num_filters": True}, "num_filters must be a whole number. Received: True"),
        ({"num_resnet": 0}, "params.json: num_resnet must be at least 1. Received: 0"),
        ({"n_dim": 0}, "n_dim must be at least 1"),
        ({"n_dim": 9, "num_hierarchies": 2}, "divisible by 2"),
        ({"rescale_pixel_value": 0}, "rescale_pixel_value must be true or false. Received: 0"),
        ({"mutation_rate": "0"}, "mutation_rate must be a number"),
        ({"mutation_rate": float("nan")}, "mutation_rate must be a number. Received: nan"),
        ({"mutation_rate": 0.3}, "belongs into reg0.00_mr0.30, and lies in reg0.00_mr0.00"),
        ({"num_hierarchies": 4}, r"num_hierarchies must lie in \[1, 3\]"),
        ({"num_hierarchies": 2}, "does not fit its params.json. Weights missing: conv2d_"),
        ({"use_weight_norm": True}, "use_weight_norm must be false"),
        ({"exp": "fashon"}, "Unknown experiment 'fashon'. Did you mean fashion"),
    ],
    ids=str,
)
def test_params_that_cannot_be_are_refused(changes, message, pair):
    path = pair[0] / "reg0.00_mr0.00/0/model/params.json"
    params = json.loads(path.read_text()) | changes | {"num_filter": 4}
    path.write_text(json.dumps({name: v for name, v in params.items() if v is not None}))
    with pytest.raises(ValueError, match=message):
        convert(pair[0])


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_damaged_params_are_named(content, pair):
    path = pair[0] / "reg0.00_mr0.00/0/model/params.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises((RunError, ValueError), match=r"params\.json"):
        convert(pair[0])


def test_unknown_params_are_noted(pair, caplog):
    path = pair[0] / "reg0.00_mr0.00/0/model/params.json"
    path.write_text(json.dumps(twin.PARAMS | {"colour": "blue"}))
    params = checkpoint_files.read_params(path)
    assert "colour" not in params and params["num_filters"] == 4
    assert "not known and not used: ['colour']" in caplog.text


def test_from_checkpoints_to_a_table(tmp_path):
    """On the embedded images, as a user does it."""
    twin.write_pair(tmp_path / "models", n_dim=28)
    arguments = (f"--model_dir={tmp_path / 'models'}", f"--out_dir={tmp_path / 'out'}")
    done = command("images_ood.convert", *arguments, "--ckpt_step=40", "--repeat_id=0")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out/fashion_converted_step40"
    assert f"Next: python -m ood_suite.eval --run={folder}" in done.stderr
    result = command("ood_suite.eval", f"--run={folder}", "--resamples=20", "--ckpt_step=40")
    assert result.returncode == 0, result.stderr
    rows = {row["score"]: row for row in read_csv(folder / "report_step_40/results.csv")}
    assert {"likelihood", "likelihood_ratio"} <= rows.keys()
    assert list((folder / "reg0_mr0.1/outputs").glob("mnist_test*.npz"))
    refused = command("images_ood.convert", *arguments, "--ckpt_step=50000")
    assert refused.returncode == 1 and "It has: 40." in refused.stderr
    assert "Traceback" not in refused.stderr
