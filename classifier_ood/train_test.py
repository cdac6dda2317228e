"""Training as a user does it: real processes, really killed; what is kept; and the refusals."""

import dataclasses
import json
import signal

import keras
import numpy as np
import pytest

from classifier_ood import classifier_run, configs
from ood_suite.data.npz import write_images
from ood_suite.files import load_npz, read_csv
from ood_suite.runs import cli
from tests.support import assert_same_run, command

TINY = (
    "--exp=fashion", "--options=width=2,dropout=0.2", "--batch_size=8", "--epochs=4",
    "--augmentation=crop_flip", "--save_every=2", "--label_smoothing=0.1",
)  # fmt: skip


def train(data_dir, out_dir, *arguments, **options):
    arguments = (*TINY, f"--data_dir={data_dir}", f"--out_dir={out_dir}", *arguments)
    return command("classifier_ood.train", *arguments, **options)


def weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


@pytest.fixture(scope="module")
def plain(tmp_path_factory, write_small_data):
    """(data_dir, run folder) of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("classifier")
    data_dir = write_small_data(folder / "data")
    done = train(data_dir, folder)
    assert done.returncode == 0, done.stderr
    return data_dir, folder / "fashion" / "convnet"


@pytest.mark.jax
def test_killed_runs_end_bit_identical(plain, tmp_path):
    data_dir, expected = plain
    for calls in (1, 3):
        out_dir = tmp_path / str(calls)
        cut = train(data_dir, out_dir, kill_at=("savez", calls))
        assert cut.returncode == -signal.SIGKILL
        resumed = train(data_dir, out_dir)
        assert resumed.returncode == 0, resumed.stderr
        assert ("Continuing from" in resumed.stderr) == (calls > 1)
        assert_same_run(out_dir / "fashion" / "convnet", expected)


@pytest.mark.jax
def test_what_is_kept(plain):
    _, folder = plain
    kept = {path.stem for path in (folder / "checkpoints").glob("*.keras")}
    assert kept == {"first", "best", "epoch_2", "epoch_4"}
    rows = read_csv(folder / "logs/history.csv")
    assert [int(row["step"]) for row in rows] == [8, 16, 24, 32]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(rows[0])
    with_tensorboard = keras.backend.backend() == "tensorflow"
    assert bool(list((folder / "logs").glob("events.*"))) == with_tensorboard
    last, fourth = weights(folder / "model.keras"), weights(folder / "checkpoints/epoch_4.keras")
    for ours, theirs in zip(last, fourth, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # best is the model of the first row with the highest validation accuracy
    data = load_npz(folder.parents[1] / "data" / "fashion_mnist_val.npz")
    model = keras.saving.load_model(folder / "checkpoints/best.keras", compile=False)
    logits = model.predict(data["images"].astype(np.float32), verbose=0)["logits"]
    accuracy = np.mean(logits.argmax(1) == data["labels"])
    assert accuracy == pytest.approx(max(float(row["val_accuracy"]) for row in rows), abs=1e-6)


def test_the_same_command_does_nothing_and_another_is_refused(plain):
    data_dir, folder = plain
    again = train(data_dir, folder.parents[1])
    assert again.returncode == 0 and "is finished: nothing to do" in again.stderr
    other = train(data_dir, folder.parents[1], "--weight_decay=0.1")
    assert other.returncode == 1 and "weight_decay: 0.0005 there, 0.1 now" in other.stderr
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert settings["options"] == {"width": 2, "dropout": 0.2} and settings["nesterov"] is True


def test_training_learns(tmp_path, rng):
    """Bright against dark images: nothing else than learning gives this accuracy."""
    for split, count in (("train", 200), ("val", 60)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 100, (count, 8, 8, 1)) + 120 * labels[:, None, None, None]
        write_images(tmp_path / f"fashion_mnist_{split}.npz", images.astype(np.uint8), labels)
    done = train(tmp_path, tmp_path / "out", "--epochs=3", "--batch_size=10")
    assert done.returncode == 0, done.stderr
    rows = read_csv(tmp_path / "out/fashion/convnet/logs/history.csv")
    assert float(rows[-1]["val_accuracy"]) > 0.95


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 0}, "--epochs must be at least 1. Received: 0."),
        ({"batch_size": 1000}, "--batch_size must be at most 64"),
        ({"label_smoothing": 1.0}, r"--label_smoothing must lie in \[0, 1\)"),
        ({"learning_rate": float("nan")}, "--learning_rate must be positive and finite"),
        ({"weight_decay": -1.0}, "--weight_decay must be 0 or more"),
        ({"momentum": 0.0}, "--nesterov has no effect without --momentum"),
        ({"options": {"depth": 3}}, "Unknown option 'depth' of the backbone convnet"),
        ({"backbone": "vgg"}, "Unknown backbone 'vgg'"),
        ({"options": {"width": "foo"}}, "The options .* do not fit convnet"),
    ],
)
def test_refusals(small_data, tmp_path, changes, message):
    experiment = dataclasses.replace(configs.EXPERIMENTS["fashion"], **changes)
    with pytest.raises(ValueError, match=message):
        classifier_run.train(experiment, "fashion", tmp_path / "out", small_data)
    assert not (tmp_path / "out").exists()


def test_models_that_no_evaluation_falls_on_are_said_not_to_be_kept(caplog):
    experiment = dataclasses.replace(configs.EXPERIMENTS["fashion"], eval_every=2, save_every=5)
    classifier_run.check_settings(experiment)
    assert "where there is an evaluation: every 10 epochs" in caplog.text


def test_labels_that_do_not_fit_are_refused(small_data, tmp_path):
    path = small_data / "fashion_mnist_train.npz"
    images = np.load(path)["images"]
    for labels, message in (
        (np.full(64, 3), "must be 0..classes - 1, each with images. Received: \\[3\\]"),
        (np.arange(64) % 5, "lie in 0..9, those of the training images in 0..4"),
    ):
        write_images(path, images, labels)
        with pytest.raises(ValueError, match=message):
            classifier_run.train(
                configs.EXPERIMENTS["fashion"], "fashion", tmp_path / "out", small_data
            )


def test_typing_errors(small_data, tmp_path):
    typo = train(small_data, tmp_path, "--exp=fashon")
    assert (
        typo.returncode == 1
        and "Unknown experiment 'fashon'. Did you mean fashion? Known: cifar10" in typo.stderr
    )


def test_options():
    assert cli._options(["depth=40", "affine=False", "application=ResNet50", "mean=0.5"]) == {
        "depth": 40, "affine": False, "application": "ResNet50", "mean": 0.5,
    }  # fmt: skip
    with pytest.raises(ValueError, match="must be name=value pairs. Received: 'depth'"):
        cli._options(["depth"])
