"""The reference's walk-through on tiny data: sweep, extraction, evaluation, samples."""

import json
import shutil
import signal

import keras
import numpy as np
import pytest

import images_ood.pixelcnn  # noqa: F401 - Keras finds our classes only once they are registered
from images_ood.train_test import TINY
from ood_suite.data.npz import write_images
from ood_suite.evaluation.groups import find_groups
from ood_suite.files import RunError, load_npz, read_csv
from ood_suite.outputs import Outputs
from ood_suite.runs.run import Run
from ood_suite.training import stored_model
from tests.support import ROOT, command


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, write_small_data):
    """(out_dir, data_dir) of a sweep of two repeats: foreground and two backgrounds each."""
    tmp_path = tmp_path_factory.mktemp("sweep")
    data_dir = write_small_data(tmp_path / "data")
    result = command(
        "images_ood.sweep", *TINY, "--total_steps=8", "--mutation_rates=0.1,0.3",
        "--reg_weights=0.5", "--repeats=2", "--save_every=4",
        f"--data_dir={data_dir}", f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return tmp_path, data_dir


def evaluate(folder, data_dir, *arguments):
    return command(
        "ood_suite.eval", f"--run={folder}", f"--data_dir={data_dir}", "--resamples=20", *arguments
    )


def test_the_sweep_trains_the_grid_once(sweep):
    out_dir, data_dir = sweep
    names = {path.parent.name for path in out_dir.glob("fashion_small/*/model.keras")}
    grid = {"reg0_mr0", "reg0.5_mr0.1", "reg0.5_mr0.3"}
    assert names == grid | {f"{name}_repeat1" for name in grid}
    again = command(
        "images_ood.sweep", *TINY, "--total_steps=8", "--mutation_rates=0.1,0.3",
        "--reg_weights=0.5", "--repeats=2", "--save_every=4",
        f"--data_dir={data_dir}", f"--out_dir={out_dir}",
    )  # fmt: skip
    assert again.stderr.count("is finished: nothing to do") == 6
    seeds = [
        Run.load(out_dir / "fashion_small" / name).settings["repeat_id"]
        for name in ("reg0_mr0", "reg0_mr0_repeat1")
    ]
    assert seeds == [0, 1]


def test_a_kept_step_is_evaluated(sweep, tmp_path):
    """Of foreground and backgrounds; the last step is kept too."""
    out_dir, data_dir = sweep
    folder, flags = out_dir / "fashion_small", (f"--out={tmp_path}", "--scores=likelihood_ratio")
    result = evaluate(folder, data_dir, "--ckpt_step=4", *flags)
    assert result.returncode == 0, result.stderr
    for name in ("reg0_mr0", "reg0.5_mr0.1", "reg0.5_mr0.3"):
        run = Run.load(folder / name, "step_4")
        early = Outputs.load(run.outputs_path("fashion_mnist", "val"))
        network = keras.saving.load_model(folder / name / "checkpoints/step_4.keras", compile=False)
        images = load_npz(data_dir / "fashion_mnist_val.npz")["images"]
        expected = network.predict(images, verbose=0).sum(axis=(1, 2))
        np.testing.assert_allclose(early.log_prob, expected, rtol=1e-5)
        final = keras.saving.load_model(folder / name / "model.keras", compile=False)
        assert np.abs(final.predict(images, verbose=0).sum(axis=(1, 2)) / expected - 1).min() > 1e-4
    refused = evaluate(folder, data_dir, "--ckpt_step=6", *flags)
    assert refused.returncode == 1
    assert "has no checkpoint 'step_6'. It has: last (= step_8), step_4." in refused.stderr
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    shutil.copy(folder / "reg0_mr0/config.json", tmp_path / "run")
    (tmp_path / "run/checkpoints/step_4.keras").write_bytes(b"cut")
    with pytest.raises(RunError, match="cannot be read .* Take another checkpoint of the run"):
        stored_model.read_model(Run.load(tmp_path / "run", "step_4"))
    twice = evaluate(folder, data_dir, "--ckpt_step=4", "--checkpoint=last", *flags)
    assert "--checkpoint and --ckpt_step both choose a model" in twice.stderr


def test_what_is_not_finished_is_left_out_whatever_is_asked_for(sweep, tmp_path):
    """A background that is on its way to the step, and a repeat whose foreground is."""
    out_dir, _ = sweep
    folder = shutil.copytree(out_dir / "fashion_small", tmp_path / "sweep")
    (folder / "reg0.5_mr0.3/model.keras").unlink()
    (folder / "reg0.5_mr0.3/checkpoints/step_4.keras").unlink()
    (folder / "reg0_mr0_repeat1/model.keras").unlink()
    for checkpoint in ("last", "step_4"):
        [group] = find_groups(folder, checkpoint)
        assert (group.repeat_id, group.foreground.checkpoint) == (0, checkpoint)
        assert [run.folder.name for run in group.backgrounds] == ["reg0.5_mr0.1"]
    (folder / "reg0_mr0/model.keras").unlink()
    with pytest.raises(RunError, match="No foreground run .* is finished"):
        find_groups(folder)


def test_evaluation_of_a_sweep(sweep):
    out_dir, data_dir = sweep
    folder = out_dir / "fashion_small"
    result = evaluate(folder, data_dir)
    assert result.returncode == 0, result.stderr
    assert "OOD: mnist (20 examples) against ID (24 examples)" in result.stdout
    assert "chosen of 2 on validation OOD notmnist" in " ".join(result.stdout.split())
    report = folder / "report"
    rows = read_csv(report / "results.csv")
    assert [row["score"] for row in rows] == [
        "background_mean", "input_complexity", "likelihood", "likelihood_ratio", "two_sided_fisher",
        "typicality",
    ]  # fmt: skip
    html = (report / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(list((report / "figures").glob("*.png")))
    assert "http://" not in html and "https://" not in html
    # The numbers are those of the outputs on disk, by another library.
    from sklearn.metrics import roc_auc_score

    results = json.loads((report / "results.json").read_text())
    [group] = results["groups"]
    chosen = max(group["choice"], key=lambda row: row["validation_auroc"])["background"]
    assert group["chosen"] == chosen

    def ratio(data, split="test"):
        # The figures show the maps of the test sets; notmnist chose the background.
        part = "maps" if split == "test" and data != "notmnist" else None
        foreground, background = (
            Outputs.load(Run.load(folder / run).outputs_path(data, split, part)).log_prob
            for run in ("reg0_mr0", chosen)
        )
        return background - foreground

    scores = np.r_[ratio("fashion_mnist"), ratio("mnist")]
    expected = roc_auc_score(np.r_[np.zeros(24), np.ones(20)], scores)
    row = next(row for row in rows if row["score"] == "likelihood_ratio")
    assert float(row["auroc"]) == pytest.approx(expected, abs=1e-12)
    validation = np.r_[ratio("fashion_mnist", "val"), ratio("notmnist")]
    expected = roc_auc_score(np.r_[np.zeros(24), np.ones(20)], validation)
    best = max(row["validation_auroc"] for row in group["choice"])
    assert best == pytest.approx(expected, abs=1e-12)


def test_repeats(sweep):
    out_dir, data_dir = sweep
    result = evaluate(out_dir / "fashion_small", data_dir, "--repeats", f"--out={out_dir / 'r'}")
    assert result.returncode == 0, result.stderr
    results = json.loads((out_dir / "r" / "results.json").read_text())
    rows = read_csv(out_dir / "r" / "results.csv")
    values = [float(row["auroc"]) for row in rows if row["score"] == "likelihood"]
    entry = next(e for e in results["over_repeats"] if e["score"] == "likelihood")
    assert len(values) == 2 and entry["repeats"] == 2
    assert entry["auroc_mean"] == pytest.approx(np.mean(values))
    assert entry["auroc_std"] == pytest.approx(np.std(values, ddof=1))
    assert "(standard deviation over repeats)" in " ".join(result.stdout.split())


def test_runs_of_other_settings_are_no_repeats(sweep, tmp_path):
    """Their mean was shown as one model's. A repeat that is not asked for is in nobody's way."""
    out_dir, data_dir = sweep
    for name in ("reg0_mr0", "reg0_mr0_repeat1"):
        shutil.copytree(out_dir / "fashion_small" / name, tmp_path / "mixed" / name)
    path = tmp_path / "mixed/reg0_mr0_repeat1/config.json"
    path.write_text(path.read_text().replace('"num_filters": 4', '"num_filters": 5'))
    refused = evaluate(tmp_path / "mixed", data_dir, "--repeats", "--scores=likelihood")
    assert refused.returncode == 1
    assert "is no repeat of reg0_mr0: num_filters is 5 there and 4 here" in refused.stderr
    one = evaluate(tmp_path / "mixed", data_dir, "--scores=likelihood")
    assert one.returncode == 0, one.stderr


def test_json_is_all_that_stands_on_standard_output(sweep, tmp_path):
    out_dir, data_dir = sweep
    result = evaluate(out_dir / "fashion_small", data_dir, "--json", f"--out={tmp_path}")
    assert result.returncode == 0, result.stderr
    said, written = json.loads(result.stdout), json.loads((tmp_path / "results.json").read_text())
    assert said.pop("report") == str(tmp_path) and said == written
    [group] = said["groups"]
    verdict = group["verdict"]
    assert verdict["validation_ood"] == "notmnist" and verdict["compared"] == 6
    assert verdict["has_chosen"] and group["next_command"] == ""  # densities are not calibrated
    row = next(row for row in group["rows"] if row["score"] == verdict["score"])
    assert isinstance(row["auroc"], float) and row["num_id"] == 24


def test_a_single_run_has_no_ratio_and_asking_for_it_says_why(sweep):
    out_dir, data_dir = sweep
    run = out_dir / "fashion_small" / "reg0_mr0"
    result = evaluate(run, data_dir, f"--out={out_dir / 's'}")
    assert result.returncode == 0, result.stderr
    assert "likelihood_ratio" not in result.stdout and "typicality" in result.stdout
    refused = evaluate(run, data_dir, "--scores=likelihood_ratio")
    assert refused.returncode == 1
    assert "likelihood_ratio needs `background_log_prob`" in refused.stderr
    typo = evaluate(run, data_dir, "--scores=likelihod")
    assert "Unknown score 'likelihod'. Did you mean likelihood? Known:" in typo.stderr


def test_shifts_and_unit_tests_of_a_ratio(sweep):
    out_dir, data_dir = sweep
    result = evaluate(
        out_dir / "fashion_small", data_dir, "--ood_shifted=contrast_5", "--unit_tests",
        f"--out={out_dir / 'u'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = read_csv(out_dir / "u/shifted.csv")
    assert {row["shift"] for row in rows} == {"clean", "contrast_5"} and "accuracy" not in rows[0]
    assert {row["score"] for row in read_csv(out_dir / "u/unit_tests.csv")} >= {"likelihood_ratio"}
    names = {path.name for path in out_dir.glob("fashion_small/reg0_mr0/outputs/*")}
    assert {"fashion_mnist+contrast_5_test.npz", "white@400_test.npz"} <= names  # without maps


def test_extraction_survives_a_kill(sweep, tmp_path):
    out_dir, data_dir = sweep
    run = tmp_path / "run"
    shutil.copytree(out_dir / "fashion_small" / "reg0_mr0", run)
    shutil.rmtree(run / "outputs", ignore_errors=True)
    arguments = (f"--run={run}", f"--data_dir={data_dir}")
    cut = command("ood_suite.extract", *arguments, kill_at=("save", 2))
    assert cut.returncode == -signal.SIGKILL
    finished = run / "outputs" / "fashion_mnist_val_maps.npz"
    before = finished.stat().st_mtime_ns
    assert not (run / "outputs" / "fashion_mnist_test_maps.npz").exists()
    result = command("ood_suite.extract", *arguments)
    assert result.returncode == 0, result.stderr
    assert finished.stat().st_mtime_ns == before
    outputs = Outputs.load(run / "outputs" / "mnist_test_maps.npz")
    assert outputs.log_prob_map.shape == (20, 8, 8)
    np.testing.assert_allclose(outputs.log_prob_map.sum((1, 2)), outputs.log_prob, rtol=1e-5)
    finished.write_bytes(finished.read_bytes()[:300])
    damaged = command("ood_suite.extract", *arguments)
    assert damaged.returncode == 1 and "fashion_mnist_val_maps.npz cannot be read" in damaged.stderr


def test_outputs_follow_the_data_and_the_model(sweep, tmp_path):
    from images_ood.extract import extract

    out_dir, data_dir = sweep
    folder = tmp_path / "run"
    shutil.copytree(out_dir / "fashion_small" / "reg0_mr0", folder)
    copied = shutil.copytree(data_dir, tmp_path / "data")
    run = Run.load(folder)
    first = extract(run, ("mnist",), "test", data_dir=copied)
    images = np.full((5, 8, 8, 1), 9, np.uint8)
    write_images(copied / "mnist_test.npz", images, np.zeros(5))
    second = extract(run, ("mnist",), "test", data_dir=copied)
    assert len(first) == 20 and len(second) == 5
    shutil.copy(out_dir / "fashion_small" / "reg0_mr0_repeat1" / "model.keras", run.model_path)
    third = extract(run, ("mnist",), "test", data_dir=copied)
    assert (third.log_prob != second.log_prob).all()


def test_a_damaged_model_and_an_unfinished_run_are_named(sweep, tmp_path):
    out_dir, data_dir = sweep
    folder = tmp_path / "run"
    shutil.copytree(out_dir / "fashion_small" / "reg0_mr0", folder)
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:1000])
    result = command("ood_suite.extract", f"--run={folder}", f"--data_dir={data_dir}")
    assert result.returncode == 1 and "model.keras cannot be read" in result.stderr
    (folder / "model.keras").unlink()
    result = evaluate(folder, data_dir)
    assert result.returncode == 1 and "has no finished model yet" in result.stderr


def test_refusals_of_the_evaluator(sweep, tmp_path):
    out_dir, data_dir = sweep
    assert "is no run and holds none" in evaluate(tmp_path, data_dir).stderr
    same = shutil.copytree(data_dir, tmp_path / "data")
    shutil.copy(same / "fashion_mnist_test.npz", same / "mnist_test.npz")
    run = shutil.copytree(out_dir / "fashion_small" / "reg0_mr0", tmp_path / "run")
    assert "The OOD set mnist is the ID set" in evaluate(run, same).stderr
    preset = evaluate(run, data_dir, "--preset=cifar10_densenet")
    assert "--preset is for classifiers" in preset.stderr
    absent = evaluate(run, data_dir, "--ood_validation=svhn_cropped", f"--out={tmp_path}/r")
    assert absent.returncode == 1 and "svhn_cropped" in absent.stderr
    assert "must have a value other than None" in command("ood_suite.eval").stderr


def test_runs_of_other_settings_or_data_are_not_compared(sweep, tmp_path):
    out_dir, data_dir = sweep
    folder = tmp_path / "mixed"
    for name in ("reg0_mr0", "reg0.5_mr0.1"):
        shutil.copytree(out_dir / "fashion_small" / name, folder / name)
    config = json.loads((folder / "reg0.5_mr0.1" / "config.json").read_text())
    config["settings"]["num_filters"] = 5
    config["fingerprints"]["fashion_mnist_train"] = "other"
    (folder / "reg0.5_mr0.1" / "config.json").write_text(json.dumps(config))
    result = evaluate(folder, data_dir)
    assert result.returncode == 1 and "num_filters (4 and 5)" in result.stderr
    assert "fashion_mnist_train" in result.stderr


def test_the_baseline_is_named_and_joined(sweep, tmp_path):
    out_dir, data_dir = sweep
    folder = out_dir / "fashion_small"
    refused = evaluate(folder, data_dir, "--baseline=likelyhood")
    assert "Unknown score 'likelyhood'" in refused.stderr
    result = evaluate(folder, data_dir, "--scores=typicality", f"--out={tmp_path}")
    assert result.returncode == 0, result.stderr
    rows = read_csv(tmp_path / "results.csv")
    assert [row["score"] for row in rows] == ["likelihood", "typicality"]
    assert rows[0]["versus_difference"] == "" and float(rows[1]["versus_p_value"]) <= 1.0
    assert (tmp_path / "report.html").read_text().count("<td>baseline</td>") == 1
    assert "--scores is empty" in evaluate(folder, data_dir, "--scores=").stderr


def test_cifar_chooses_on_validation_images():
    from images_ood import configs

    for name in ("cifar", "cifar_small"):
        assert configs.EXPERIMENTS[name].ood_validation_split == "val"


@pytest.mark.parametrize("name", ["classifier_fashion/wide_resnet", "dna_kmers/reg0_mr0"])
def test_runs_of_other_kinds_are_not_sampled(name):
    result = command("images_ood.sample", f"--run={ROOT}/pretrained/{name}")
    assert result.returncode == 1 and "is no density of images. Received: a run" in result.stderr


@pytest.mark.tensorflow
def test_samples_and_pixel_bits(sweep, tmp_path):
    from PIL import Image

    out_dir, data_dir = sweep
    run = f"--run={out_dir / 'fashion_small' / 'reg0_mr0'}"
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "bits.png"]
    for path in paths[:2]:
        result = command("images_ood.sample", run, "--num_samples=4", f"--out={path}")
        assert result.returncode == 0, result.stderr
    pictures = [np.asarray(Image.open(path)) for path in paths[:2]]
    np.testing.assert_array_equal(*pictures)  # the same seed
    assert pictures[0].std() > 10
    result = command(
        "images_ood.sample", run, "--dataset=uniform", "--num_images=4", f"--out={paths[2]}"
    )
    assert result.returncode == 0 and "bits per dimension" in result.stderr and paths[2].exists()
