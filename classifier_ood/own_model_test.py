"""Models of users with their folders of images, from the file to a report."""

import shutil

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from classifier_ood import own_model
from classifier_ood.extract_test import evaluate
from ood_suite.outputs import Outputs
from tests.support import command


@pytest.fixture
def own(tmp_path, rng):
    """A user's model, and folders of images of several sizes."""
    model = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(6, 3, activation="relu"),
        layers.GlobalAveragePooling2D(name="pool"), layers.Dense(2, activation="softmax"),
    ])  # fmt: skip
    model.save(tmp_path / "mine.keras")
    for split, shift in (("train", 0), ("val", 0), ("test", 0), ("other", 90)):
        for label in ("cat", "dog"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for i in range(12):
                shape = (int(rng.integers(9, 30)), int(rng.integers(9, 30)), 3)
                pixels = rng.integers(shift, 160, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


def test_an_old_file_whose_head_has_a_relu(own):
    """As the network of PyPI's cifar-10-model: logits are what the activation acts on."""
    inputs = keras.Input((12, 12, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(inputs))
    below = keras.initializers.Constant(-1e4)  # whatever the other weights: negative logits
    head = keras.layers.Dense(2, activation="relu", bias_initializer=below)
    keras.Model(inputs, head(pooled)).save(own / "old.h5")
    made = command(
        "classifier_ood.own_model", f"--model={own}/old.h5", f"--id_val={own}/val",
        f"--id_test={own}/test", f"--ood_far={own}/other", f"--out_dir={own}/run",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "The last Dense layer has the activation relu, which is left out" in made.stderr
    done = evaluate(own / "run", own, "--scores=energy,max_logit")
    assert done.returncode == 0, done.stderr
    assert (own / "run/report/figures/gallery.png").exists()  # though no --image_shape was given
    outputs = Outputs.load(own / "run" / "outputs" / "other_test.npz")
    expected = outputs.features @ outputs.head_kernel + outputs.head_bias
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4, atol=1e-4)
    assert outputs.logits.min() < 0.0


def test_held_out_images_are_none_of_the_training(own):
    made = command(
        "classifier_ood.own_model", f"--model={own}/mine.keras", f"--id_train={own}/train",
        f"--id_val={own}/train", f"--id_test={own}/test",
    )  # fmt: skip
    assert made.returncode == 1 and "Give held-out ones as --id_val" in made.stderr


def test_a_sigmoid_head_is_said_to_be_none_of_one_softmax(own, caplog):
    inputs = keras.Input((12, 12, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(inputs))
    keras.Model(inputs, layers.Dense(2, activation="sigmoid")(pooled)).save(own / "labels.keras")
    settings = {
        "id_val": f"{own}/val", "features_layer": None, "input_range": "0..255",
        "image_shape": (12, 12, 3),
    }  # fmt: skip
    own_model.check(settings, own / "labels.keras")
    assert "with several labels an example, take scores of features" in caplog.text


@pytest.fixture
def colours(tmp_path, rng):
    """function(names, width): settings of folders of images, each mostly of a colour at both sides,
    and of a model that tells red, green and blue, in this order.
    """
    model = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(),
        layers.Dense(3, activation="softmax", kernel_initializer=keras.initializers.Identity(40)),
    ])  # fmt: skip
    model.save(tmp_path / "rgb.keras")

    def folders(names, width):
        for channel, name in enumerate(names):
            (tmp_path / "val" / name).mkdir(parents=True)
            for number in range(20):
                pixels = rng.integers(0, 160, (8, width, 3), dtype=np.uint8)
                pixels[:, : width // 3, channel] = pixels[:, -width // 3 :, channel] = 250
                Image.fromarray(pixels).save(tmp_path / "val" / name / f"{number}.png")
        return {
            "id_val": f"{tmp_path}/val", "features_layer": None, "input_range": "0..255",
            "image_shape": (8, 8, 3),
        }  # fmt: skip

    return folders


def test_classes_in_another_order_than_the_sub_folders(colours, tmp_path, caplog):
    own_model.check(colours(("red", "green", "blue"), 8), tmp_path / "rgb.keras")
    assert "seem to be in another order" in caplog.text
    assert "the accuracy is 3" in caplog.text and "it would be 100.0%" in caplog.text
    assert "with its outputs 0 for red, 2 for blue. Sub-folders are numbered as" in caplog.text
    assert "squash" not in caplog.text
    caplog.clear()
    labels = np.repeat(np.arange(100_000, 100_010), 20)  # whatever their number
    predicted = np.where(labels < 100_002, 200_001 - labels, labels)
    assert not own_model._compare_orders(predicted, labels, None)
    assert "outputs 100000 for 100001, 100001 for 100000. Number the labels" in caplog.text


def test_a_class_without_a_folder_is_told_and_no_order(colours, tmp_path):
    settings = colours(("green", "blue"), 8)
    with pytest.raises(ValueError, match="has 2 sub-folders .* and the model 3 outputs"):
        own_model.check(settings, tmp_path / "rgb.keras")


def test_images_that_the_model_saw_squashed(colours, tmp_path, caplog):
    settings = colours(("a_red", "b_green", "c_blue"), 40)
    own_model.check(settings, tmp_path / "rgb.keras")
    assert f"With {tmp_path}/val:squash the loss" in caplog.text
    caplog.clear()
    caplog.set_level("INFO", logger="absl")
    own_model.check(settings | {"id_val": f"{tmp_path}/val:squash"}, tmp_path / "rgb.keras")
    assert [record.message for record in caplog.records] == [
        "Accuracy on 60 held-out images: 100.0%."
    ]


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.95])
def test_no_order_is_doubted_without_evidence(classes, accuracy, caplog):
    """Mistakes spread over the classes; of many classes the labels tell no order at all."""
    rng = np.random.default_rng(classes)
    for _ in range(20):
        labels = rng.integers(0, classes, 500)
        wrong = rng.integers(0, classes, 500)
        predicted = np.where(rng.random(500) < accuracy, labels, wrong)
        assert own_model._compare_orders(predicted, labels, None)
    assert "another order" not in caplog.text


@pytest.mark.parametrize("count", [1, 2, 5, 500])
def test_no_framing_is_doubted_without_evidence(count, caplog):
    """Noise; and logits that are less sure squashed, of labels in a wrong order."""
    rng = np.random.default_rng(count)
    for _ in range(200):
        labels, cut, noise = rng.integers(0, 3, count), *rng.normal(size=(2, count, 3))
        own_model._compare_framings(cut, cut + noise, labels, "val")
        sure = 8.0 * np.eye(3)[(labels + 1) % 3]
        own_model._compare_framings(sure + noise, 0.7 * (sure + noise), labels, "val")
    assert "squash" not in caplog.text


def test_a_model_and_folders_of_a_user(own):
    arguments = (
        f"--model={own}/mine.keras", f"--id_train={own}/train", f"--id_val={own}/val",
        f"--id_test={own}/test", f"--ood_far={own}/other,gaussian", "--image_shape=8,8,3",
        f"--out_dir={own}/run",
    )  # fmt: skip
    before = (own / "mine.keras").read_bytes()
    made = command("classifier_ood.own_model", *arguments)
    assert made.returncode == 0 and "Next: python -m ood_suite.eval" in made.stderr, made.stderr
    assert "which pixels was the model trained on" not in made.stderr
    done = command("ood_suite.extract", f"--run={own}/run", "--odin_epsilon=0.002")
    assert done.returncode == 0, done.stderr
    assert (own / "mine.keras").read_bytes() == before
    outputs = Outputs.load(own / "run" / "outputs" / f"{own.name}_train_train.npz")
    assert outputs.features.shape == (24, 6) and outputs.labels.tolist() == [0] * 12 + [1] * 12
    result = evaluate(own / "run", own, "--scores=mahalanobis,energy,knn,odin")
    assert "`k` must lie in 1..24" in result.stderr
    result = evaluate(own / "run", own, "--scores=mahalanobis,energy,himplos,odin")
    assert result.returncode == 0, result.stderr
    assert "OOD: other (24 examples) against ID (24 examples)" in result.stdout
    found = Outputs.load(own / "run" / "outputs" / "other_test.npz")
    assert found.example_names[0].endswith("other/cat/0.png") and len(found.example_names) == 24
    assert (own / "run/report/figures/images_other.png").exists()
    typo = command(
        "classifier_ood.own_model", *arguments[:-1], "--features_layer=pol",
        f"--out_dir={own / 'b'}",
    )  # fmt: skip
    assert typo.returncode == 1 and "no layer 'pol'. Candidates:" in typo.stderr
    assert not (own / "b").exists()
    (own / "val" / "bird").mkdir()
    shutil.copy(own / "val" / "cat" / "1.png", own / "val" / "bird")
    classes = command("classifier_ood.own_model", *arguments)
    assert "must have the same sub-folders" in classes.stderr
    shutil.rmtree(own / "val" / "bird")
    missing = command("classifier_ood.own_model", arguments[0], "--id_val=x.npz", "--id_test=y.npz")
    assert "There is no file or folder x.npz" in missing.stderr
    for split in ("train", "val", "test"):
        (own / split / "emu").mkdir()
        shutil.copy(own / split / "cat" / "1.png", own / split / "emu")
    third = command("classifier_ood.own_model", *arguments[:-1], f"--out_dir={own / 'c'}")
    assert "(training) has labels up to 2, and the model 2 outputs" in third.stderr
    assert not (own / "c").exists()
    (own / "test" / "cat" / "broken.png").write_bytes(b"no image")
    broken = command("ood_suite.extract", f"--run={own}/run")
    assert broken.returncode == 1 and "broken.png cannot be read as an image" in broken.stderr
