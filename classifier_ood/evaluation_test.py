"""An evaluation beyond OOD sets, of a trained classifier from its command: shifts, unit tests."""

import hashlib

import numpy as np
import pytest
from scipy.special import softmax

from classifier_ood.train_test import train
from ood_suite import ranks, selective
from ood_suite.data.npz import write_images
from ood_suite.files import load_npz, read_csv, read_json
from ood_suite.outputs import Outputs
from ood_suite.runs.run import Run
from tests.support import command


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, write_small_data):
    """(report folder, stdout) of a convnet with ten classes of 8x8 images."""
    folder = tmp_path_factory.mktemp("run")
    data_dir = write_small_data(folder / "data")
    rng = np.random.default_rng(2)
    glyphs = rng.integers(0, 255, (16, 8, 8, 1), dtype=np.uint8)
    write_images(data_dir / "glyphs_test.npz", glyphs, np.zeros(16))
    done = train(data_dir, folder, "--epochs=2")
    assert done.returncode == 0, done.stderr
    run = Run.load(folder / "fashion" / "convnet")
    done = command(
        "ood_suite.eval", f"--run={run.folder}", f"--data_dir={data_dir}", "--resamples=20",
        "--scores=msp,energy,knn", "--ood_near=glyphs", "--ood_far=mnist", "--unit_tests",
        "--ood_shifted=contrast_1,contrast_5,shot_noise_3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return run.folder / "report", done.stdout


def test_shifts_are_apart_from_ood_means(evaluated):
    folder, said = evaluated
    rows = read_csv(folder / "shifted.csv")
    shifts = ["clean", "contrast_1", "contrast_5", "shot_noise_3"]
    assert [r["shift"] for r in rows if r["score"] == "msp"] == shifts
    own, (group,) = read_csv(folder / "results.csv"), read_json(folder / "results.json")["groups"]
    assert {r["ood"] for r in own if "mean" not in r["ood"]} == {"glyphs", "mnist"}
    assert any(r["ood"] == "mean of all (glyphs, mnist)" for r in own)
    clean = next(r for r in rows if (r["score"], r["shift"]) == ("energy", "clean"))
    assert float(clean["accuracy"]) == pytest.approx(group["classifier"]["accuracy"])
    accepted = next(float(r["accepted"]) for r in own if r["score"] == "energy")
    assert float(clean["flagged"]) == pytest.approx(1.0 - accepted)
    # The outputs on disk say the same.
    outputs = load_npz(folder.parent / "outputs/fashion_mnist+contrast_5_test.npz")
    expected = np.mean(outputs["logits"].argmax(1) == outputs["labels"])
    found = next(r for r in rows if (r["score"], r["shift"]) == ("msp", "contrast_5"))
    assert float(found["accuracy"]) == pytest.approx(expected)
    spectrum = read_csv(folder / "full_spectrum.csv")
    assert {(r["ood"], r["num_id"]) for r in spectrum} == {("glyphs", "96"), ("mnist", "96")}
    assert "ID data under shift" in said and (folder / "figures/shifts.png").exists()


def test_unit_tests_are_counted(evaluated):
    folder, said = evaluated
    rows = read_csv(folder / "unit_tests.csv")
    own = read_csv(folder / "results.csv")[0]["num_id"]
    permuted = {r["unit_test"] for r in rows if r["num"] == own}
    assert len(rows) == 3 * 15 and permuted == {"permuted_patches", "permuted_pixels"}
    assert {r["num"] for r in rows if r["unit_test"] not in permuted} == {"400"}
    failed = sum(r["failed"] == "True" for r in rows if r["score"] == "knn")
    line = next(line for line in said.splitlines() if line.startswith("  knn ") and "%)" in line)
    assert "Unit tests failed of 15" in said and int(line.split()[1]) == failed


def test_risks_and_costs(evaluated):
    folder, _ = evaluated
    rows = read_csv(folder / "results.csv")
    assert all(0 <= float(r[k]) <= 1 for r in rows for k in ("aurc", "scod_augrc", "autc"))
    assert {r["versus_p_holm"] == "" for r in rows if r["score"] == "knn"} == {False, True}
    tested = [r for r in rows if r["versus_p_value"]]
    holm = ranks.holm([float(r["versus_p_value"]) for r in tested])
    np.testing.assert_allclose([float(r["versus_p_holm"]) for r in tested], holm)
    run = Run.load(folder.parent)
    own, ood = (Outputs.load(run.outputs_path(n, "test")) for n in ("fashion_mnist", "mnist"))
    correct = own.logits.argmax(axis=1) == own.labels
    expected = selective.evaluate(*(-softmax(o.logits, axis=1).max(1) for o in (own, ood)), correct)
    [row] = [r for r in rows if (r["score"], r["ood"]) == ("msp", "mnist")]
    for name in ("aurc", "augrc", "scod_augrc"):
        assert float(row[name]) == pytest.approx(expected[name], abs=1e-6), name
    costs = read_csv(folder / "costs.csv")
    assert [r["score"] for r in costs] == ["msp", "energy", "knn"]
    assert float(costs[2]["learned_mib"]) > float(costs[0]["learned_mib"]) == 0.0
    assert float(costs[0]["extraction_seconds_per_10000"]) > 0


def test_names_of_shifts_are_checked_first(evaluated):
    folder, _ = evaluated
    done = command("ood_suite.eval", f"--run={folder.parent}", "--ood_shifted=contrats")
    assert done.returncode != 0 and "Did you mean contrast" in done.stderr


def test_the_result_card_says_what_was_measured_on_what(evaluated):
    folder, _ = evaluated
    card = read_json(folder / "result_card.json")
    (repeat,) = card["repeats"]
    (model,) = repeat["models"]
    expected = hashlib.sha256((folder.parent / "model.keras").read_bytes()).hexdigest()
    assert model["sha256"] == {"model.keras": expected} and "random_seed" in model["seeds"]
    assert repeat["data"]["held_out"]["n"] == 24 and repeat["data"]["ood:mnist"]["n"] == 20
    assert card["versions_of_evaluation"]["numpy"] == np.__version__
    rows = {(r["score"], r["ood"]): r for r in read_csv(folder / "results.csv")}
    for score, found in repeat["results"].items():
        for ood, cells in found["ood"].items():
            assert cells["near"] == (ood == "glyphs")
            for metric in ("auroc", "fpr95_id_positive", "fpr95_ood_positive"):
                row = rows[score, ood]
                expected = [float(row[metric + end]) for end in ("", "_low", "_high")]
                assert cells[metric] == expected


def test_the_leaderboard_has_openoods_columns(evaluated):
    folder, _ = evaluated
    header = (folder / "leaderboard.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == (  # of results/cifar10.csv in zjysteven/OpenOOD
        "Training,Postprocessor,Near-OOD_AUROC,Far-OOD_AUROC,ID_Accuracy,Outlier_Data,Arch,"
        "Additional_Description"
    )
    rows = {row["Postprocessor"]: row for row in read_csv(folder / "leaderboard.csv")}
    assert list(rows) == ["MSP", "EBO", "KNN"]
    own = {(r["score"], r["ood"]): float(r["auroc"]) for r in read_csv(folder / "results.csv")}
    assert rows["EBO"]["Near-OOD_AUROC"] == f"{100 * own['energy', 'glyphs']:.2f}"
    assert rows["EBO"]["Far-OOD_AUROC"] == f"{100 * own['energy', 'mnist']:.2f}"
    assert (rows["KNN"]["Training"], rows["KNN"]["Arch"]) == ("CrossEntropy", "convnet")
    assert rows["KNN"]["Additional_Description"] == "2 epochs"
