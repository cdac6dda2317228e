"""Fine-tuning as a user does it: killed and continued, evaluated, refused where it misleads."""

import dataclasses
import json
import shutil
import signal
import zipfile

import keras
import numpy as np
import pytest

from classifier_ood import (
    base_network,
    classifier_run,
    configs,
    finetune,
    finetune_run,
    outlier_exposure,
    pruning,
)
from classifier_ood.train_test import weights
from ood_suite import data
from ood_suite.data.npz import write_images
from ood_suite.evaluation import groups
from ood_suite.files import RunError, load_npz, read_csv
from ood_suite.runs.run import Run
from ood_suite.training.backend import has_bfloat16
from tests import published
from tests.support import assert_same_run, command, opening

SMALL = configs.FineTuning(epochs=3, steps_per_epoch=4, batch_size=8, learning_rate=0.05)
OUTLIERS = {"outliers": "aux", "outlier_factor": 0.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory, write_small_data):
    """(a trained run, its data_dir, which has the auxiliary set aux too)."""
    folder = tmp_path_factory.mktemp("finetune")
    data_dir = write_small_data(folder / "data")
    images = np.random.default_rng(5).integers(0, 256, (48, 10, 10, 1), dtype=np.uint8)
    write_images(data_dir / "aux_train.npz", images, np.zeros(48))
    experiment = dataclasses.replace(
        configs.EXPERIMENTS["fashion"], options={"width": 2, "dropout": 0.2}, epochs=1, batch_size=8
    )
    return classifier_run.train(experiment, "fashion", folder, data_dir), data_dir


def flags_of(settings):
    defaults = configs.FINE_TUNINGS["outlier_exposure" if settings.outliers else "unleashing_mask"]
    found = [
        f"--{field.name}={getattr(settings, field.name)}"
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != getattr(defaults, field.name)
    ]
    return [*found, *([] if settings.um or settings.outliers else ["--control"])]


CASES = {
    "masks": dataclasses.replace(SMALL, um=2.0, um_constraint="running", prune_rate=0.8),
    "poem_and_doe": dataclasses.replace(
        SMALL, oe_method="doe", outlier_sampling="poem", pool_size=40, warm_up=1, **OUTLIERS
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_runs_end_bit_identical(base, tmp_path, case):
    run, data_dir = base
    settings = CASES[case]
    expected = finetune_run.finetune(run, settings, 3, tmp_path / "whole", data_dir)
    arguments = [f"--run={run.folder}", f"--data_dir={data_dir}", "--seeds=3", "--name=cut"]
    calls = 2 if case == "masks" else 3  # of np.savez: checkpoints, and POEM's choices
    cut = command(
        "classifier_ood.finetune", *arguments, f"--out_dir={tmp_path}", *flags_of(settings),
        kill_at=("savez", calls),
    )  # fmt: skip
    assert cut.returncode == -signal.SIGKILL, cut.stderr
    folder = tmp_path / "cut" / "seed3"
    assert not (folder / "model.keras").exists()
    finetune_run.finetune(run, settings, 3, folder, data_dir)
    assert_same_run(folder, expected.folder)
    for path in sorted((expected.folder / "checkpoints").glob("outliers_*.npz")):
        np.testing.assert_array_equal(
            load_npz(path)["rows"], load_npz(folder / "checkpoints" / path.name)["rows"]
        )


def test_um_holds_the_loss_where_the_control_goes_on(base, tmp_path):
    run, data_dir = base
    longer = dataclasses.replace(SMALL, epochs=10, steps_per_epoch=8)
    rows = {}
    for um in (0.0, 3.0):
        settings = dataclasses.replace(longer, um=um)
        folder = tmp_path / f"um{um}"
        finetune_run.finetune(run, settings, 0, folder, data_dir)
        rows[um] = read_csv(folder / "logs" / "history.csv")
    assert {row["ascent"] for row in rows[0.0]} == {"0.0"}
    assert float(rows[0.0][-1]["cross_entropy"]) < 2.4
    last = [float(row["cross_entropy"]) for row in rows[3.0][-4:]]
    assert abs(np.mean(last) - 3.0) < 0.25
    assert 0.0 < np.mean([float(row["ascent"]) for row in rows[3.0]]) < 1.0
    assert float(rows[3.0][-1]["loss"]) >= 3.0


def test_masks_are_reported_and_can_be_taken_off(base, tmp_path):
    run, data_dir = base
    made = finetune_run.finetune(run, CASES["masks"], 0, tmp_path / "run", data_dir)
    report = json.loads((made.folder / "pruning.json").read_text())
    kernels = dict(pruning.kernels(keras.saving.load_model(made.model_path, compile=False)))
    for name, layer in report["layers"].items():
        size = int(np.prod(kernels[name].shape))
        kept = size - pruning.dropped_count(size, 0.8)
        assert layer == {"kept": kept, "of": size} and np.count_nonzero(kernels[name]) == kept
    unmasked = made.folder / "checkpoints" / "unmasked.keras"
    for ours, theirs in zip(weights(unmasked), weights(run.model_path), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert set(report["held_out_accuracy"]) == {"masked", "unmasked"}


def test_seeds_final_and_comparison(base, tmp_path):
    """Two seeds of outlier exposure, evaluated at once; the set that was trained on is no test."""
    run, data_dir = base
    done = command(
        "classifier_ood.finetune", f"--run={run.folder}", f"--data_dir={data_dir}", "--final",
        f"--out_dir={tmp_path}", "--outliers=mnist", "--seeds=0,1", "--epochs=2",
        "--batch_size=8", "--steps_per_epoch=2", "--scores=energy,msp",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mnist is trained on, and no longer one of ood_far" in done.stderr
    for suffix in ("", "_best", "_first"):
        results = json.loads((tmp_path / f"oe/report{suffix}/results.json").read_text())
        assert [group["repeat_id"] for group in results["groups"]] == [0, 1]
        energy = next(r for r in results["over_repeats"] if r["score"] == "energy")
        assert {"auroc_mean", "auroc_std"} <= set(energy)
        assert "mnist" not in {row["ood"] for row in results["groups"][0]["rows"]}
    again = command(
        "classifier_ood.finetune", f"--run={run.folder}", f"--data_dir={data_dir}", "--final",
        f"--out_dir={tmp_path}", "--outliers=mnist", "--seeds=0,1", "--epochs=2",
        "--batch_size=8", "--steps_per_epoch=2", "--scores=energy", "--ood_far=gaussian",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    rows = json.loads((tmp_path / "oe/report/results.json").read_text())["groups"][0]["rows"]
    assert {row["ood"] for row in rows} == {"gaussian"}
    others = np.random.default_rng(7).integers(0, 256, (9, 8, 8, 1), dtype=np.uint8)
    images = np.r_[data.load("mnist", "test", data_dir).images[:3], others]
    write_images(tmp_path / "some.npz", images, np.zeros(len(images)))
    shared = command(
        "classifier_ood.finetune", f"--run={run.folder}", f"--data_dir={data_dir}", "--final",
        "--outliers=mnist", f"--ood_far={tmp_path}/some.npz", f"--out_dir={tmp_path}/shared",
    )  # fmt: skip
    assert shared.returncode == 1 and "3 of the outliers of mnist are in" in shared.stderr
    assert not (tmp_path / "shared").exists()
    outliers = str(tmp_path / "some.npz")  # out of which the images of the base's test sets go
    finetune.refuse_shared(run, outliers, ("mnist",), data_dir)
    last, first = (weights(tmp_path / f"oe/seed{seed}/model.keras") for seed in (0, 1))
    assert any(np.any(a != b) for a, b in zip(last, first, strict=True))
    forced = command(
        "ood_suite.eval", f"--run={tmp_path}/oe/seed0", f"--data_dir={data_dir}",
        "--ood_far=mnist", "--scores=energy",
    )  # fmt: skip
    assert forced.returncode == 1 and "The OOD set mnist was used in training" in forced.stderr


def test_a_model_of_the_users_is_fine_tuned(base, tmp_path, caplog):
    """With a softmax in its head, pixels in 0..1, and held-out images in a folder."""
    from classifier_ood.own_model import own_run

    _, data_dir = base
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(3, 3, activation="relu")(inputs))
    keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x)).save(tmp_path / "m.keras")
    settings = {
        "exp": "own", "id_dataset": None, "repeat_id": 0, "features_layer": None,
        "input_range": "0..1", "image_shape": None, "ood_near": [], "ood_far": [],
        "ood_validation": [], "ood_validation_split": "val",
    }  # fmt: skip
    parts = {"id_train": str(data_dir / "fashion_mnist_train.npz"), "id_val": str(tmp_path / "val")}
    held_out = data.load("fashion_mnist", "val", data_dir)
    published.write_folder(tmp_path / "val", held_out.images, held_out.labels)
    own = own_run(tmp_path / "m.keras", tmp_path / "own", settings | parts)
    made = finetune_run.finetune(
        own, dataclasses.replace(SMALL, um=0.5), 0, tmp_path / "um", data_dir
    )
    assert not caplog.text
    from classifier_ood.extract import extract

    outputs = extract(made, ("mnist",), "test", data_dir=data_dir)
    assert outputs.logits.shape == (20, 10) and outputs.head_kernel.shape == (108, 10)
    masked = finetune_run.finetune(own, CASES["masks"], 0, tmp_path / "masked", data_dir)
    for name in ("model", "checkpoints/unmasked", "checkpoints/best"):
        with zipfile.ZipFile(masked.folder / f"{name}.keras") as file:
            assert b"Masked" not in file.read("config.json")  # a plain network, for anyone


@pytest.mark.parametrize("softmax", ["in its layer", "after it", "none"])
def test_logits_of_the_users_dict_are_logits(tmp_path, rng, softmax):
    """Two softmaxes, one of the model and one of the loss, cannot come below 1.46 nats."""
    inputs = keras.Input((8, 8, 1))
    features = keras.layers.Flatten()(inputs)
    inside = "softmax" if softmax == "in its layer" else None
    logits = keras.layers.Dense(10, activation=inside)(features)
    logits = keras.layers.Softmax()(logits) if softmax == "after it" else logits
    model = keras.Model(inputs, {"features": features, "logits": logits})
    run = Run.open(tmp_path, **opening({}))
    model.save(run.model_path)
    images = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.float32)
    kernel, bias = model.layers[2].get_weights()
    found = base_network.load_network(run).predict(images, verbose=0)
    np.testing.assert_allclose(found["logits"], images.reshape(3, -1) @ kernel + bias, rtol=1e-4)


def test_what_a_fine_tuned_network_takes_over_or_not_is_said(base, caplog):
    """Frozen layers stay frozen; features are the head's; outliers alone have black borders."""
    run, _ = base
    network = base_network.load_network(run)
    finetune_run._say_what_differs(run, network, SMALL)
    assert not caplog.text
    first = next(layer for layer in network.layers if getattr(layer, "kernel", None) is not None)
    first.trainable = False
    other = Run(run.folder, run.config | {"settings": run.settings | {"features_layer": "pool"}})
    settings = dataclasses.replace(SMALL, augmentation="none", **OUTLIERS)
    finetune_run._say_what_differs(other, network, settings)
    frozen = f"are frozen, as they were saved, and stay so: {first.name}"
    for text in (frozen, "are pool's, the new ones", "by up to 4 pixels, zeros moving in"):
        assert text in caplog.text
    caplog.clear()
    first.trainable = True
    shifted = dataclasses.replace(settings, augmentation="crop_flip")
    finetune_run._say_what_differs(run, network, shifted)
    assert not caplog.text


def test_a_frozen_network_is_refused(base, tmp_path):
    run, data_dir = base
    frozen = Run.open(tmp_path / "frozen", **opening(run.settings, run.config["fingerprints"]))
    model = keras.saving.load_model(run.model_path, compile=False)
    model.trainable = False
    model.save(frozen.model_path)
    with pytest.raises(RunError, match="All layers of .* are frozen"):
        finetune_run.finetune(frozen, SMALL, 0, tmp_path / "out", data_dir)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("prune_rate", [1.0, 0.8])
def test_a_training_in_bfloat16_keeps_files_in_float32(base, tmp_path, prune_rate):
    run, data_dir = base
    rows = {}
    for dtype in ("float32", "mixed_bfloat16"):
        settings = dataclasses.replace(SMALL, dtype=dtype, um=2.0, prune_rate=prune_rate)
        made = finetune_run.finetune(run, settings, 0, tmp_path / dtype, data_dir)
        assert made.settings["dtype"] == dtype
        rows[dtype] = [float(r["loss"]) for r in read_csv(made.folder / "logs" / "history.csv")]
        for path in made.folder.rglob("*.keras"):
            network = keras.saving.load_model(path, compile=False)
            assert {layer.dtype_policy.name for layer in network.layers} == {"float32"}
    assert rows["float32"] != rows["mixed_bfloat16"]
    np.testing.assert_allclose(rows["float32"], rows["mixed_bfloat16"], rtol=0.05)
    further = finetune_run.finetune(made, SMALL, 0, tmp_path / "further", data_dir)
    assert further.settings["dtype"] == "float32"  # as the files that it began with


def test_a_missing_or_unfinished_start_is_an_error(base, tmp_path):
    run, data_dir = base
    arguments = [f"--data_dir={data_dir}", "--control"]
    missing = command("classifier_ood.finetune", f"--run={tmp_path}/no", *arguments)
    assert missing.returncode == 1 and "is not a run folder" in missing.stderr
    unfinished = Run.open(tmp_path / "unfinished", **opening(run.settings))
    with pytest.raises(RunError, match="has no finished model yet"):
        finetune_run.finetune(unfinished, SMALL, 0, tmp_path / "out", data_dir)
    (tmp_path / "unfinished" / "model.keras").write_bytes(run.model_path.read_bytes()[:2000])
    with pytest.raises(RunError, match="cannot be read"):
        finetune_run.finetune(unfinished, SMALL, 0, tmp_path / "out", data_dir)
    with pytest.raises(RunError, match="has no checkpoint 'epoch_7'. It has: last, best, first"):
        Run.load(run.folder, "epoch_7")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Say what to do: --um=VALUE or --um=auto"),
        (["--um=0.1", "--control"], "--control is plain cross entropy and would ignore --um"),
        (["--um=much"], "--um must be a number of nats, or auto. Received: 'much'."),
        (["--um=auto"], "To make it: python -m classifier_ood.estimate_loss --run="),
        (["--control", "--final", "--scores=enrgy"], "Unknown score 'enrgy'"),
        (["--control", "--tune"], "--tune is for --final"),
        (["--control", "--ood_far=mnist"], "--ood_far is for --final"),
        (["--control", "--final", "--ood_far=mnits"], "mnits"),
        (["--control", "--final", "--ood_far=fashion_mnist"], "is the ID set fashion_mnist itself"),
        (["--outliers=mnist", "--final", "--ood_far=mnist"], "mnist is trained on (--outliers)"),
        (["--control", "--seeds=1,1"], "--seeds must be different"),
    ],
)
def test_typing_errors(base, arguments, message):
    done = command("classifier_ood.finetune", f"--run={base[0].folder}", *arguments)
    assert done.returncode == 1 and message in done.stderr


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"um": -1.0}, "--um must be 0 or more"),
        ({"oe_method": "oe"}, "--oe_method and --outliers need each other"),
        ({"m_in": -3.0}, "--m_in has no effect here"),
        ({"um_constraint": "sample"}, "--um_constraint has no effect here"),
        ({"outliers": "aux", "oe_method": "oe", "warm_up": 3}, "--warm_up has no effect here"),
        (OUTLIERS | {"oe_method": "doe", "warm_up": 3}, "--warm_up must be less than --epochs"),
        (OUTLIERS | {"oe_method": "poem", "strategy": "mirrored"}, "no --strategy with them"),
        (OUTLIERS | {"oe_method": "poem", "eval_every": 2}, "--eval_every must be 1"),
        (OUTLIERS | {"oe_method": "energy", "m_in": float("nan")}, "--m_in must be finite"),
        ({"outliers": "fashion_mnist", "oe_method": "oe"}, "The outliers are ID data: fashion_mn"),
        ({"um": 0.1, "label_smoothing": 0.1}, "--label_smoothing must be 0"),
        ({"prune_rate": 0.0}, r"--prune_rate must lie in \(0, 1\]"),
        ({"batch_size": 99}, "--batch_size must be at most 64"),
        (
            OUTLIERS | {"oe_method": "doe", "warm_up": 1, "prune_rate": 0.5},
            "changes weights, which --prune_rate",
        ),
        (OUTLIERS | {"oe_method": "mixup"}, "--oe_method must be one of"),
        (
            OUTLIERS | {"oe_method": "oe", "outlier_factor": 0.0},
            "--outlier_factor must be positive",
        ),
        (OUTLIERS | {"oe_method": "oe", "outlier_weight": -1.0}, "--outlier_weight must be posit"),
    ],
)
def test_refusals(base, tmp_path, changes, message):
    run, data_dir = base
    with pytest.raises(ValueError, match=message):
        settings = dataclasses.replace(SMALL, **changes)
        finetune_run.finetune(run, settings, 0, tmp_path / "out", data_dir)
    assert not (tmp_path / "out").exists()


def test_images_of_test_sets_are_taken_out_of_the_outliers(base, tmp_path):
    run, data_dir = base
    mixed, test = (data.load(name, "test", data_dir).images for name in ("mnist", "fashion_mnist"))
    fresh = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 1), dtype=np.uint8)
    write_images(tmp_path / "mixed.npz", np.concatenate([mixed[:5], fresh, test[:4]]), np.zeros(18))
    pool = outlier_exposure.load(str(tmp_path / "mixed.npz"), None, (8, 8, 1), 0)
    kept = outlier_exposure.keep_apart(pool, run, data_dir)
    assert pool.rows.tolist() == list(range(5, 14)) and "mnist" in kept["ood_far"]
    write_images(tmp_path / "only.npz", test[:4], np.zeros(4))
    only = outlier_exposure.load(str(tmp_path / "only.npz"), None, (8, 8, 1), 0)
    with pytest.raises(ValueError, match="All 4 outliers of only are in fashion_mnist"):
        outlier_exposure.keep_apart(only, run, data_dir)


def test_which_outliers_are_left_is_on_record(base, tmp_path):
    """A test set that comes or goes between a kill and the next start made other draws of them."""
    run, data_dir = base
    for part in data_dir.iterdir():
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.copy(part, tmp_path / "data")
    mixed = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 1), dtype=np.uint8)
    mixed[0] = data.load("mnist", "test", data_dir).images[0]
    write_images(tmp_path / "mixed.npz", mixed, np.zeros(9))
    outliers = {"outliers": str(tmp_path / "mixed.npz"), "oe_method": "oe"}
    settings = dataclasses.replace(SMALL, epochs=1, **outliers)
    first = finetune_run.finetune(run, settings, 0, tmp_path / "out", tmp_path / "data")
    assert "kept_outliers" in first.config["fingerprints"]
    path = tmp_path / "out/config.json"
    config = json.loads(path.read_text())
    del config["fingerprints"]["kept_outliers"]
    (tmp_path / "earlier").mkdir()
    shutil.copytree(tmp_path / "out", tmp_path / "earlier", dirs_exist_ok=True)
    (tmp_path / "earlier/config.json").write_text(json.dumps(config))
    finetune_run.finetune(run, settings, 0, tmp_path / "earlier", tmp_path / "data")  # goes on
    for part in (tmp_path / "data").glob("mnist*"):
        part.unlink()
    with pytest.raises(RunError, match="kept_outliers"):
        finetune_run.finetune(run, settings, 0, tmp_path / "out", tmp_path / "data")


def test_seeds_of_other_settings_are_no_repeats(base, tmp_path):
    run, data_dir = base
    made = [
        finetune_run.finetune(run, settings, seed, tmp_path / f"um/seed{seed}", data_dir)
        for seed, settings in enumerate([dataclasses.replace(SMALL, epochs=1, um=0.1)] * 2)
    ]
    groups.refuse_others(*made)
    made[1].settings["um"] = 0.5
    with pytest.raises(RunError, match="um is 0.5 there and 0.1 here"):
        groups.refuse_others(*made)
    made[1].settings["base_run"] = "another"  # which has an estimate of its own
    groups.refuse_others(*made)
    made[1].settings["learning_rate"] = 7.0
    with pytest.raises(RunError, match="learning_rate is 7.0 there"):
        groups.refuse_others(*made)


def test_other_data_than_the_start_was_trained_on_are_refused(base, tmp_path):
    run, data_dir = base
    for part in ("train", "val"):
        found = data.load("fashion_mnist", part, data_dir)
        write_images(tmp_path / f"fashion_mnist_{part}.npz", 255 - found.images, found.labels)
    with pytest.raises(RunError, match="is not what .* was trained with"):
        finetune_run.finetune(run, SMALL, 0, tmp_path / "out", tmp_path)


def test_other_settings_in_the_same_folder_are_refused(base, tmp_path):
    run, data_dir = base
    finetune_run.finetune(run, SMALL, 0, tmp_path / "out", data_dir)
    with pytest.raises(RunError, match="um: 0.0 there, 0.3 now"):
        finetune_run.finetune(
            run, dataclasses.replace(SMALL, um=0.3), 0, tmp_path / "out", data_dir
        )
