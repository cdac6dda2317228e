"""The estimate of the loss constraint: a known answer, seeds, resumption, and what reads it."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

from classifier_ood import base_network, classifier_run, configs, loss_constraint, pruning
from classifier_ood.classifier_model import cross_entropy
from classifier_ood.configs import Estimate
from classifier_ood.copies import leaves
from ood_suite import data
from ood_suite.data.npz import write_images
from ood_suite.files import RunError
from ood_suite.runs.run import Run


@pytest.fixture(scope="module")
def base(tmp_path_factory, write_small_data):
    """(a trained run, its data_dir)."""
    folder = tmp_path_factory.mktemp("estimate")
    data_dir = write_small_data(folder / "data")
    experiment = dataclasses.replace(
        configs.EXPERIMENTS["fashion"], options={"width": 2, "dropout": 0.3}, epochs=1, batch_size=8
    )
    return classifier_run.train(experiment, "fashion", folder, data_dir), data_dir


@pytest.fixture
def run(base, tmp_path):
    """A copy of the run, which a test may write to."""
    import shutil

    folder = shutil.copytree(base[0].folder, tmp_path / "run")
    return Run.load(folder)


def mean_cross_entropy(network, images):
    logits = network.predict(images.images, verbose=0)["logits"].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(images)), images.labels].mean()


def test_it_is_the_cross_entropy_of_masked_networks(run, base):
    settings = Estimate(kept=0.9, masks=2, batch_size=50, seed=5)
    found = loss_constraint.estimate(run, settings, base[1])
    training = data.load("fashion_mnist", "train", base[1])
    network = keras.saving.load_model(run.model_path, compile=False)
    assert found["unmasked"] == pytest.approx(mean_cross_entropy(network, training), rel=1e-5)
    pruning.mask_at_random(network, 0.9, np.random.default_rng([5, 2]))
    assert found["losses"][1] == pytest.approx(mean_cross_entropy(network, training), rel=1e-5)
    assert found["um"] == pytest.approx(np.mean(found["losses"]))
    assert found["std"] == pytest.approx(np.std(found["losses"], ddof=1))
    assert json.loads((run.folder / "loss_constraint.json").read_text()) == found
    assert loss_constraint.load(run) == found


@pytest.mark.parametrize("conditions", ("evaluation", "training"))
def test_seeded_and_resumed(run, base, conditions):
    """Also with dropout and crops: the third mask is the same after a kill behind the first."""
    settings = Estimate(masks=3, images=40, conditions=conditions, batch_size=20)
    whole = loss_constraint.estimate(run, settings, base[1])
    path = loss_constraint.result_path(run)
    path.unlink()
    begun = {"made_with": whole["made_with"], "losses": whole["losses"][:1]}
    path.with_suffix(".partial.json").write_text(json.dumps(begun))
    with pytest.raises(RunError, match="--um=auto needs .* To make it: python -m"):
        loss_constraint.load(run)
    assert loss_constraint.estimate(run, settings, base[1]) == whole
    begun["losses"] = whole["losses"]
    path.unlink()
    path.with_suffix(".partial.json").write_text(json.dumps(begun))
    assert loss_constraint.estimate(run, settings, base[1]) == whole
    assert not path.with_suffix(".partial.json").exists()
    other = loss_constraint.estimate(run, dataclasses.replace(settings, seed=20261129), base[1])
    assert other["losses"] != whole["losses"]


def test_every_random_part_of_a_network_is_seeded(rng):
    """Also flips within it and the dropout of attention, which Keras seeds by chance."""
    images, found = rng.normal(size=(8, 6, 6, 1)).astype(np.float32), []
    for _ in range(2):
        keras.utils.set_random_seed(len(found))
        inputs = keras.Input((6, 6, 1))
        rows = layers.Reshape((6, 6))(layers.RandomFlip()(inputs))
        attended = layers.MultiHeadAttention(1, 4, dropout=0.5)(rows, rows)
        network = keras.Model(inputs, layers.Dropout(0.5)(layers.Flatten()(attended)))
        network.set_weights([np.ones_like(weight) for weight in network.get_weights()])
        states = loss_constraint._random_states(list(leaves(network)), network)
        for place, state in states.items():
            state.assign(np.uint32([7, place]))
        found.append(np.asarray(network(images, training=True)))
    np.testing.assert_array_equal(*found)
    assert len({tuple(np.asarray(state)) for state in states.values()}) == 3


def test_training_conditions_see_mixed_batches(run, base, tmp_path, monkeypatch):
    """Data sorted by class give the same estimate as unsorted ones, about."""
    training = data.load("fashion_mnist", "train", base[1])
    found, classes = [], []

    def seen(logits, labels):
        classes.append(len(set(labels.tolist())))
        return cross_entropy(logits, labels)

    monkeypatch.setattr(loss_constraint, "cross_entropy", seen)
    for order in (np.arange(64), np.argsort(training.labels, kind="stable")):
        config = run.config | {"fingerprints": {}}
        folder = tmp_path / f"data{len(found)}"
        for part in ("val", "test"):
            source = data.load("fashion_mnist", part, base[1])
            write_images(folder / f"fashion_mnist_{part}.npz", source.images, source.labels)
        write_images(
            folder / "fashion_mnist_train.npz", training.images[order], training.labels[order]
        )
        copy = Run(run.folder, config)
        settings = Estimate(kept=1.0, masks=1, conditions="training", batch_size=16)
        found.append(loss_constraint.estimate(copy, settings, folder)["um"])
    assert found[0] == pytest.approx(found[1], rel=0.1)
    assert len(classes) == 16 and min(classes) > 4  # of 16 images; sorted, there are two or three


def test_everything_kept_is_the_loss_itself(run, base):
    found = loss_constraint.estimate(run, Estimate(kept=1.0, masks=1), base[1])
    assert found["um"] == pytest.approx(found["unmasked"], rel=1e-6) and found["std"] == 0.0


@pytest.mark.jax
def test_training_conditions_have_batch_statistics_and_dropout(run, base):
    settings = Estimate(kept=1.0, masks=2, conditions="training", batch_size=16)
    found = loss_constraint.estimate(run, settings, base[1])
    assert abs(found["losses"][0] - found["losses"][1]) > 1e-4  # dropout and flips differ
    plain = loss_constraint.estimate(run, Estimate(kept=1.0, masks=1), base[1])
    assert abs(found["um"] - plain["um"]) > 1e-3


def test_an_estimate_of_another_model_is_refused(run, base):
    loss_constraint.estimate(run, Estimate(masks=1), base[1])
    network = base_network.load_network(run)
    network.layers[-1].kernel.assign(network.layers[-1].kernel * 2.0)
    network.save(run.model_path)
    with pytest.raises(RunError, match="is of another model"):
        loss_constraint.load(run)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kept": 0.0}, r"must lie in \(0, 1\]"),
        ({"masks": 0}, "--masks must be at least 1"),
        ({"conditions": "test"}, "--conditions must be one of evaluation, training"),
        ({"conditions": "training", "batch_size": 100}, "--batch_size must be at most"),
    ],
)
def test_refusals(run, base, changes, message):
    with pytest.raises(ValueError, match=message):
        loss_constraint.estimate(run, Estimate(**changes), base[1])
    assert not loss_constraint.result_path(run).exists()
