"""Training on two devices equals training on one, in each branch: a process of its own with two
logical CPU devices, because TensorFlow fixes its devices at the start.
"""

import json
import shutil
import signal

import numpy as np
import pytest

from ood_suite.files import read_csv
from ood_suite.training import devices
from tests.support import assert_same_run, forked

SCRIPT = """
import dataclasses, json, pathlib, sys
import tensorflow as tf
from absl import logging
logging.set_verbosity("info")
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
branch, folder, data_dir, strategy, batch_size, random, kill = sys.argv[1:]
common = {"batch_size": int(batch_size), "strategy": None if strategy == "one" else strategy}
if branch == "images":
    from images_ood import configs
    from images_ood.density_run import train
    experiment = dataclasses.replace(
        configs.EXPERIMENTS["fashion_small"], num_filters=4, num_resnet=1, dropout_p=float(random),
        mutation_rate=float(random), reg_weight=0.1, total_steps=4, eval_every=2,
        background_steps=0, **common,
    )
if branch == "reads":
    from genomics_ood import configs
    from genomics_ood.density_run import train
    experiment = dataclasses.replace(
        configs.EXPERIMENTS["bacteria"], units=8, num_layers=2, dropout_p=0.0, reg_weight=0.1,
        total_steps=4, eval_every=2, eval_reads=31, background_steps=0, **common,
    )
    data_dir = None
if branch in ("classifier", "um", "masks", "oe", "members"):
    from classifier_ood import configs
    from classifier_ood.classifier_run import train
    experiment = dataclasses.replace(
        configs.EXPERIMENTS["fashion"], options={"width": 4, "dropout": 0.0}, augmentation="none",
        learning_rate=0.01, epochs=1, **common,
    )
if branch in ("um", "masks", "oe"):
    from classifier_ood import finetune_run
    base = train(dataclasses.replace(experiment, strategy=None), "base", folder, data_dir)
    settings = configs.FineTuning(
        um=0.0 if branch == "oe" else 2.2, prune_rate=0.8 if branch == "masks" else 1.0,
        augmentation="none", learning_rate=0.01, epochs=1, **common,
    )
    if branch == "oe":
        settings = dataclasses.replace(settings, outliers="mnist", oe_method="energy")
    def train(experiment, exp, folder, data_dir):
        finetune_run.finetune(base, settings, 0, pathlib.Path(folder) / exp / branch, data_dir)
if branch == "members":
    from classifier_ood import leave_out_run
    def train(experiment, exp, folder, data_dir):
        settings = configs.LeaveOut(splits=2, outlier_factor=0.5)
        leave_out_run.train_ensemble(
            experiment, settings, exp, folder, data_dir=data_dir, members=(0,)
        )
if kill == "kill":
    import os, signal
    from ood_suite.training import fit
    plain = fit.save
    fit.save = lambda *args: (plain(*args), os.kill(os.getpid(), signal.SIGKILL))
train(experiment, "exp", folder, data_dir)
"""


def process(branch, folder, data_dir, strategy, batch_size=8, random=0.0, kill=""):
    return forked(SCRIPT, "-c", branch, folder, data_dir, strategy, batch_size, random, kill)


def trained(folder, *arguments, **options):
    """Folder of the run of a training that ends well."""
    done = process(arguments[0], folder, *arguments[1:], **options)
    assert done.returncode == 0, done.stderr
    assert ("Training on 2 devices" in done.stderr) == ("mirrored" in arguments)
    found = [*folder.glob("exp/*/config.json"), *folder.glob("exp/*/member0/config.json")]
    return found[-1].parent


def weights(run):
    """Of the finished model, by a process that knows nothing of devices."""
    import keras

    import genomics_ood.density  # noqa: F401 (registers the classes)
    import images_ood.pixelcnn  # noqa: F401

    return keras.saving.load_model(run / "model.keras", compile=False).get_weights()


@pytest.mark.parametrize(
    "branch", ["images", "reads", "classifier", "um", "masks", "oe", "members"]
)
def test_two_devices_equal_one(branch, small_data, tmp_path):
    runs = [trained(tmp_path / "one", branch, small_data, "one")]
    if (tmp_path / "one/base").exists():  # fine-tuning starts from it, on one device
        shutil.copytree(tmp_path / "one/base", tmp_path / "mirrored/base")
    runs.append(trained(tmp_path / "mirrored", branch, small_data, "mirrored"))
    for one, mirrored in zip(*(read_csv(r / "logs/history.csv") for r in runs), strict=True):
        assert one.keys() == mirrored.keys()
        for name in one:
            assert float(mirrored[name]) == pytest.approx(float(one[name]), rel=1e-4, abs=1e-6), (
                name
            )
    for one, mirrored in zip(*map(weights, runs), strict=True):
        np.testing.assert_allclose(mirrored, one, rtol=1e-3, atol=2e-4)


def test_two_devices_go_on_after_a_kill(small_data, tmp_path):
    """With random layers, whose state a checkpoint holds once for all devices."""
    options = {"random": 0.3}
    plain = trained(tmp_path / "plain", "images", small_data, "mirrored", **options)
    cut = process("images", tmp_path / "cut", small_data, "mirrored", kill="kill", **options)
    assert cut.returncode == -signal.SIGKILL
    assert_same_run(trained(tmp_path / "cut", "images", small_data, "mirrored", **options), plain)


def test_two_devices_see_all_validation_images_that_are_read_on_demand():
    """Keras looked at the first batches of an iterator before it began, and lost some."""
    script = (
        SCRIPT.split("branch,")[0]
        + """
import keras, numpy as np
from ood_suite.training import devices, fit
class OnDemand:
    def __init__(self, array):
        self.array = array
    def __len__(self):
        return len(self.array)
    def __getitem__(self, rows):
        return self.array[rows]
rng = np.random.default_rng(0)
images, labels = rng.normal(size=(1230, 4)).astype("float32"), rng.integers(0, 2, 1230)
with devices.scope("mirrored", 8):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    for values in (images, OnDemand(images)):
        print(json.dumps(fit.evaluate(model, (values, labels), 8)))
"""
    )
    done = forked(script, "-c", *"abcdefg")
    assert done.returncode == 0, done.stderr
    whole, read = map(json.loads, done.stdout.splitlines())
    assert read == pytest.approx(whole) and "ran out of data" not in done.stderr


def test_batch_norm_is_of_all_devices_in_training_and_of_one_in_files(tmp_path, monkeypatch):
    import keras

    network = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    monkeypatch.setattr(devices, "count", lambda: 2)
    devices.synchronize(network)
    devices.save(network, tmp_path / "n.keras")
    assert network.layers[0].synchronized  # JAX reads no file that says so
    assert not keras.saving.load_model(tmp_path / "n.keras").layers[0].synchronized


def test_each_device_draws_its_own_numbers():
    script = (
        SCRIPT.split("branch,")[0]
        + """
from ood_suite.training import devices
from ood_suite.training.mutation import Mutation
import keras
with devices.scope("mirrored", 2):
    model = keras.Sequential([Mutation(0.5, seed=1)])
    devices.decorrelate(model)
    def draw():
        return model(tf.fill((1, 50), 9.0), training=True)
    for _ in range(2):
        drawn = devices._mirrored().run(tf.function(draw))
        print(json.dumps([part.numpy().tolist() for part in drawn.values]))
print(json.dumps(model.layers[0](tf.fill((1, 50), 9.0), training=True).numpy().tolist()))
"""
    )
    done = forked(script, "-c", *"abcdefg")
    assert done.returncode == 0, done.stderr
    first, second, _ = map(json.loads, done.stdout.splitlines())
    assert len({str(part) for part in [*first, *second]}) == 4


def test_refusals(small_data, tmp_path):
    odd = process("images", tmp_path, small_data, "mirrored", batch_size=7)
    assert "--batch_size must be a multiple of 2, the number of devices" in odd.stderr
    assert not (tmp_path / "exp").exists()
    with pytest.raises(ValueError, match="mirrored, or left out. Received: 'mirored'"):
        with devices.scope("mirored", 8):
            pass
