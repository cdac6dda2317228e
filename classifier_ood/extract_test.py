"""From a trained model to a report: our runs, kills, and every refusal with its message."""

import shutil
import signal

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from classifier_ood import copies, models
from classifier_ood.extract import extract, hashes
from classifier_ood.train_test import train
from ood_suite import outputs, scores
from ood_suite.data.npz import write_images
from ood_suite.detector import Detector
from ood_suite.evaluation.evaluate import evaluate_group
from ood_suite.evaluation.gathering import applicable_scores, gather
from ood_suite.evaluation.groups import Group
from ood_suite.evaluation.request import Request
from ood_suite.files import RunError, read_csv
from ood_suite.outputs import Outputs
from ood_suite.runs import extraction
from ood_suite.runs.extraction import Parts
from ood_suite.runs.run import Run
from ood_suite.training import backend
from tests.support import command

RULE = "cross_entropy"
ON_DEMAND = ("adascale_a", "adascale_l", "gram", "rankfeat")  # which "all" leaves out
PERTURBED = Parts(perturbations=((1000.0, 0.002, RULE), (1.0, 0.0, RULE)))


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_small_data):
    """(data_dir, Run) of a trained convnet with ten classes of 8x8 images."""
    folder = tmp_path_factory.mktemp("run")
    data_dir = write_small_data(folder / "data")
    rng = np.random.default_rng(2)
    glyphs = rng.integers(0, 255, (16, 8, 8, 1), dtype=np.uint8)
    write_images(data_dir / "glyphs_test.npz", glyphs, np.zeros(16))
    done = train(data_dir, folder, "--epochs=2")
    assert done.returncode == 0, done.stderr
    return data_dir, Run.load(folder / "fashion" / "convnet")


@pytest.fixture
def copy(run, tmp_path):
    """The same, to be spoilt."""
    data_dir = shutil.copytree(run[0], tmp_path / "data")
    ignore = shutil.ignore_patterns("outputs*", "report*")
    return data_dir, Run.load(shutil.copytree(run[1].folder, tmp_path / "run", ignore=ignore))


def evaluate(folder, data_dir, *arguments):
    return command(
        "ood_suite.eval", f"--run={folder}", f"--data_dir={data_dir}", "--resamples=20", *arguments
    )


def report_of(trained, data_dir, wanted, tuning=False, far=(), allow_overlap=False):
    """What the binary does with a single run, in this process: seconds less."""
    group = Group(0, Run.load(trained.folder), [])
    request = Request(
        scores=tuple(wanted), tune=tuning, ood_far=tuple(far), allow_overlap=allow_overlap,
        resamples=10,
    )  # fmt: skip
    return evaluate_group(group, gather(group, request, data_dir), request)


@pytest.mark.jax
def test_outputs_are_the_models(run):
    data_dir, trained = run
    outputs = extract(trained, ("mnist",), "test", data_dir=data_dir, parts=PERTURBED)
    model = keras.saving.load_model(trained.model_path, compile=False)
    images = np.load(data_dir / "mnist_test.npz")["images"].astype(np.float32)
    expected = model.predict(images, verbose=0)
    for name in ("features", "logits"):
        np.testing.assert_allclose(getattr(outputs, name), expected[name], rtol=1e-5, atol=1e-6)
    assert set(outputs.logits_perturbed) == {"T=1000,epsilon=0.002", "T=1,epsilon=0"}
    np.testing.assert_allclose(
        outputs.logits_perturbed["T=1,epsilon=0"], expected["logits"], rtol=1e-5, atol=1e-6
    )
    assert len(set(outputs.example_hashes)) == 20
    found = hashes(trained, ("mnist",), "test", data_dir=data_dir)
    for name in ("example_hashes", "perceptual_hashes"):
        np.testing.assert_array_equal(getattr(outputs, name), getattr(found, name))
    assert outputs.perceptual_hashes.shape == (20, 18)


@pytest.mark.skipif(not backend.has_bfloat16(), reason="this processor has no bfloat16")
def test_outputs_of_another_precision_are_not_taken(copy, monkeypatch):
    data_dir, run = copy
    network = keras.saving.load_model(run.model_path, compile=False)
    copies.in_precision(network, "mixed_bfloat16").save(run.model_path)
    found = {}
    for is_here in (True, False):
        monkeypatch.setattr(backend, "has_bfloat16", lambda here=is_here: here)
        extraction._KEPT.clear()  # as in another process
        found[is_here] = extract(run, ("mnist",), "test", data_dir=data_dir)
    assert [y.meta["dtype"] for y in found.values()] == ["mixed_bfloat16", "float32"]
    assert np.any(found[True].logits != found[False].logits)


def test_parameters_of_a_name_are_extracted_and_reported(run):
    """As --scores has them: what ODIN is asked for is what its outputs are of."""
    data_dir, trained = run
    asked = "odin(temperature=1000,epsilon=0.004)"
    report = report_of(trained, data_dir, (asked, "odin", "msp"), far=["mnist"])
    assert {row["score"] for row in report.rows} == {asked, "odin", "msp"}
    assert f"{asked}: its parameters were given with its name" in report.notes
    outputs = extract(
        trained, ("mnist",), "test", data_dir=data_dir,
        parts=Parts(perturbations=((1000, 0.004, RULE),)),
    )  # fmt: skip
    expected = scores.get("odin").make({"epsilon": 0.004})(outputs.logits_perturbed)
    np.testing.assert_array_equal(report.values[asked][1]["mnist"], expected)
    assert not np.array_equal(expected, report.values["odin"][1]["mnist"])


def test_an_absent_set_is_a_note_and_a_typing_error_is_none(run):
    data_dir, trained = run
    report = report_of(trained, data_dir, ("msp",), far=["mnist", "isun"])
    assert {row["ood"] for row in report.rows} == {"mnist"}
    assert any(n.startswith("isun is left out: There is no ") for n in report.notes)
    before = sorted(trained.folder.rglob("*.npz"))
    with pytest.raises(FileNotFoundError, match="Did you mean isun"):
        report_of(trained, data_dir, ("rankfeat",), far=["mnist", "isum"])
    assert sorted(trained.folder.rglob("*.npz")) == before
    with pytest.raises(FileNotFoundError, match="There is no .*isun_test.npz"):
        report_of(trained, data_dir, ("msp",), far=["isun"])


def test_evaluation_of_every_score(run, tmp_path):
    data_dir, trained = run
    result = evaluate(
        trained.folder, data_dir, "--inner_layers=stage1,stage2", "--ood_near=glyphs",
        "--ood_far=mnist,gaussian", f"--out={tmp_path}", f"--scores=all,{','.join(ON_DEMAND)}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = read_csv(tmp_path / "results.csv")
    sets = list(dict.fromkeys(row["ood"] for row in rows))
    assert sets == [
        "glyphs", "mnist", "gaussian", "mean of near (glyphs)", "mean of far (mnist, gaussian)",
        "mean of all (glyphs, mnist, gaussian)",
    ]  # fmt: skip
    names = {row["score"] for row in rows}
    assert {"msp", "odin", "mahalanobis_layers", "react+energy", "himplos"} <= names
    of_others = {"log_prob", "member_logits"}  # density models, leave-out ensembles
    expected = {n for n in scores.ALL if not of_others & set(scores.get(n).needs)}
    # Too few examples, or features, here; said in the report.
    left_out = {"openmax", "she", "knn", "energy&vim&knn&mahalanobis", "lts+energy"}
    assert len(expected) > 40 and names | left_out == expected
    for name in left_out - names:
        assert f"Note: {name} is left out: " in result.stdout
    # The numbers are those of the outputs on disk, by another library.
    outputs = [
        Outputs.load(trained.outputs_path(name, "test")) for name in ("fashion_mnist", "mnist")
    ]
    energies = np.concatenate([-np.log(np.exp(o.logits.astype(float)).sum(1)) for o in outputs])
    expected = roc_auc_score(np.repeat([0, 1], [24, 20]), energies)
    row = next(row for row in rows if (row["score"], row["ood"]) == ("energy", "mnist"))
    assert float(row["auroc"]) == pytest.approx(expected, abs=1e-12)
    correct = outputs[0].logits.argmax(1) == outputs[0].labels
    pairs = (energies[:24, None] < energies[None, 24:]) * correct[:, None]
    assert float(row["oscr"]) == pytest.approx(pairs.mean(), abs=1e-6)
    mean = next(r for r in rows if r["score"] == "energy" and r["ood"].startswith("mean of far"))
    both = [r for r in rows if r["score"] == "energy" and r["ood"] in ("mnist", "gaussian")]
    assert float(mean["fpr95_id_positive"]) == pytest.approx(
        np.mean([float(r["fpr95_id_positive"]) for r in both])
    )
    assert f"ID accuracy: {correct.mean():.4f}" in result.stdout
    assert "OSCR" in (tmp_path / "report.html").read_text()
    assert {p.name for p in (tmp_path / "figures").glob("*.png")} >= {
        "overview.png", "histograms.png", "training.png", "curves_mnist.png",
    }  # fmt: skip


@pytest.mark.jax
def test_what_is_extracted_on_demand(copy):
    """A chunk of 16 images in batches of 7, against the model of the run: a new one, because the
    features of a network of two epochs are mostly 0 and do not move.
    """
    data_dir, trained = copy
    keras.utils.set_random_seed(3)
    models.build("convnet", (8, 8, 1), 10, {"width": 8}).save(trained.model_path)
    parts = Parts(inner_layers=("stage1",), fields=("features_perturbed", "gram_sums", "rank_one"))
    options = {"data_dir": data_dir, "batch_size": 7}
    outputs = extract(trained, ("glyphs",), "test", parts=parts, **options)
    model = keras.saving.load_model(trained.model_path, compile=False)
    images = np.load(data_dir / "glyphs_test.npz")["images"].astype(np.float32)
    inner = [model.get_layer("features").input, model.get_layer("stage1").output]
    last, first = keras.Model(model.inputs, inner).predict(images, verbose=0)
    for i in range(16):
        u, s, vt = np.linalg.svd(last[i].reshape(-1, last.shape[-1]), full_matrices=False)
        component = (s[0] * np.outer(u[:, 0], vt[0])).mean(axis=0)
        np.testing.assert_allclose(outputs.rank_one[i], component, rtol=1e-3, atol=1e-5)
        f = first[i].reshape(-1, first.shape[-1]).T.astype(np.float64) ** 3
        sums = (f @ f.T).sum(axis=1) ** (1 / 3)
        pooled = first[i].mean(axis=(0, 1))
        np.testing.assert_allclose(
            outputs.layer_features["stage1"][i], pooled, rtol=1e-4, atol=1e-6
        )
        found = outputs.gram_sums["stage1"][i].reshape(10, -1)[2]
        np.testing.assert_allclose(found, sums, rtol=1e-3, atol=1e-5)
    gradient = backend.input_gradient(lambda x: keras.ops.max(model(x)["logits"], axis=-1))(images)
    moved = images.copy()
    for image, slope in zip(moved, gradient, strict=True):
        for place in np.argsort(np.abs(slope), axis=None)[:3]:  # 5% of 64
            image.flat[place] += 255 * 0.125 * np.sign(slope.flat[place])
    expected = model.predict(moved, verbose=0)["features"]
    assert np.abs(expected - outputs.features).max() > 1e-3
    np.testing.assert_allclose(outputs.features_perturbed, expected, rtol=1e-4, atol=1e-5)
    usual = Parts(inner_layers=("usual",))
    found = extract(trained, ("glyphs",), "test", parts=usual, **options).layer_features
    assert list(found) == [f"stage{i}_bn2_relu" for i in (1, 2, 3)]
    for wrong in (("rank_on",), ("gram_sums",)):
        with pytest.raises(ValueError, match="--fields must be of features_perturbed, gram_sums"):
            extract(trained, ("glyphs",), "test", parts=Parts(fields=wrong), **options)


def test_a_plain_evaluation_does_not_pay_for_it(copy):
    data_dir, trained = copy
    group = Group(0, trained, [])
    material = gather(group, Request(), data_dir)
    assert not {"rankfeat", "adascale_a"} & set(applicable_scores(material, ("all",)))
    names = [path.stem for path in (trained.folder / "outputs").glob("*.npz")]
    assert names and not [n for n in names for field in outputs.ON_DEMAND if field in n]
    named = report_of(trained, data_dir, ["adascale_a", "rankfeat"], tuning=True, far=["mnist"])
    assert {row["score"] for row in named.rows} >= {"adascale_a", "rankfeat"}
    names = [path.stem for path in (trained.folder / "outputs").glob("*.npz")]
    assert not [n for n in names if "train" in n and ("rank_one" in n or "perturbed" in n)]


def test_tuning_uses_validation_data_only(copy):
    data_dir, trained = copy
    wanted = ["knn", "energy", "odin"]
    tuned = report_of(trained, data_dir, wanted, tuning=True, far=["mnist"]).tuned
    assert [row["score"] for row in tuned] == wanted
    # The choice is the best of the grid, on held-out and validation OOD outputs.
    sets = (("fashion_mnist", "val"), ("notmnist", "test"), ("fashion_mnist", "train"))
    held_out, ood, training = (Outputs.load(trained.outputs_path(*names)) for names in sets)
    found = {}
    for k in (50, 1, 5, 10):
        knn = Detector("knn", parameters={"k": k}).fit(held_out, training)
        scored = np.concatenate([knn.score(held_out), knn.score(ood)])
        found[k] = roc_auc_score(np.repeat([0, 1], [len(held_out), len(ood)]), scored)
    assert tuned[0]["validation_auroc"] == pytest.approx(max(found.values()), abs=1e-12)
    assert tuned[0]["with_defaults"] == pytest.approx(found[50], abs=1e-12)
    assert found[int(tuned[0]["chosen"].removeprefix("k = "))] == max(found.values())
    # Other test sets, the same choice.
    images = np.random.default_rng(1).integers(0, 99, (30, 8, 8, 1), dtype=np.uint8)
    write_images(data_dir / "mnist_test.npz", images, np.zeros(30))
    assert report_of(trained, data_dir, wanted, tuning=True, far=["mnist"]).tuned == tuned


def test_other_checkpoints(run, tmp_path):
    data_dir, trained = run
    flags = ("--scores=msp", f"--out={tmp_path}")
    result = evaluate(trained.folder, data_dir, "--checkpoint=first", *flags)
    assert result.returncode == 0, result.stderr
    first = Outputs.load(trained.folder / "outputs_first" / "mnist_test.npz")
    last = extract(trained, ("mnist",), "test", data_dir=data_dir)
    assert not np.array_equal(first.logits, last.logits)
    refused = evaluate(trained.folder, data_dir, "--checkpoint=bst", *flags)
    assert "has no checkpoint 'bst'. It has: last, best" in refused.stderr


def test_parts_follow_the_training_data_and_not_the_spelling_of_a_path(copy, tmp_path):
    data_dir, trained = copy
    options = {"parts": Parts(inner_layers=("stage1",), epsilons=(0.002,))}
    first = extract(trained, ("mnist",), "test", data_dir=data_dir, **options)
    times = {path: path.stat().st_mtime_ns for path in trained.folder.glob("outputs/*.npz")}
    moved = Run.load(trained.folder.rename(tmp_path / "moved"))
    extract(moved, ("mnist",), "test", data_dir=data_dir, **options)
    for path, time in times.items():
        assert (moved.folder / "outputs" / path.name).stat().st_mtime_ns == time
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (64, 8, 8, 1), dtype=np.uint8)
    write_images(data_dir / "fashion_mnist_train.npz", images, np.arange(64) % 10)
    second = extract(moved, ("mnist",), "test", data_dir=data_dir, **options)
    key = "stage1,epsilon=0.002"
    assert not np.array_equal(first.layer_features[key], second.layer_features[key])
    np.testing.assert_array_equal(first.layer_features["stage1"], second.layer_features["stage1"])


@pytest.mark.jax
def test_a_killed_extraction_goes_on(copy, monkeypatch):
    data_dir, trained = copy
    monkeypatch.setattr(extraction, "CHUNK_BYTES", 8 * 64)
    monkeypatch.setattr(extraction, "FLUSH_EVERY_S", 0.0)
    expected = extract(trained, ("mnist",), "test", data_dir=data_dir, batch_size=8)
    path = trained.outputs_path("mnist", "test")
    path.unlink()
    calls, original = [], extraction.OutputsWriter.add

    def interrupted(self, arrays):
        calls.append(len(arrays["logits"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, arrays)

    monkeypatch.setattr(extraction.OutputsWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(trained, ("mnist",), "test", data_dir=data_dir, batch_size=8)
    assert path.with_suffix(".partial").exists() and not path.exists()
    resumed = extract(trained, ("mnist",), "test", data_dir=data_dir, batch_size=8)
    assert calls == [8, 8, 8, 4]  # the first chunk was not computed again
    np.testing.assert_array_equal(resumed.logits, expected.logits)
    assert not path.with_suffix(".partial").exists()


@pytest.mark.jax
def test_kill_minus_nine_in_an_extraction(copy):
    data_dir, trained = copy
    arguments = (f"--run={trained.folder}", f"--data_dir={data_dir}", "--dataset=mnist")
    cut = command("ood_suite.extract", *arguments, kill_at=("save", 1))
    assert cut.returncode == -signal.SIGKILL
    assert not trained.outputs_path("mnist", "test").exists()
    done = command("ood_suite.extract", *arguments)
    assert done.returncode == 0, done.stderr
    path = trained.outputs_path("mnist", "test")
    resumed = Outputs.load(path)
    path.unlink()
    whole = extract(trained, ("mnist",), "test", data_dir=data_dir)
    assert len(resumed) == 20
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)


def test_refusals(copy, tmp_path):
    data_dir, trained = copy
    same = shutil.copytree(data_dir, tmp_path / "same")

    def copied(name, target):
        shutil.copy(data_dir / f"{name}.npz", same / f"{target}.npz")

    def refused(message, **options):
        with pytest.raises(ValueError, match=message):
            report_of(trained, same, ["msp"], far=["mnist"], **options)

    images = np.load(data_dir / "fashion_mnist_test.npz")["images"]
    mixed = np.concatenate([np.load(data_dir / "mnist_test.npz")["images"], images[:3]])
    write_images(same / "mnist_test.npz", mixed, np.zeros(23))
    refused("3 of the 23 examples of the OOD set mnist are in the ID test set too")
    report_of(trained, same, ["msp"], far=["mnist"], allow_overlap=True)
    training = np.load(data_dir / "fashion_mnist_train.npz")["images"][:5]
    write_images(same / "mnist_test.npz", training, np.zeros(5))
    refused("5 of the 5 examples of the OOD set mnist are in the training set")
    copied("notmnist", "mnist_test")
    refused("OOD set mnist are in the validation OOD set too", tuning=True)
    copied("mnist_test", "mnist_test")
    copied("fashion_mnist_test", "fashion_mnist_val")
    refused("24 of the 24 examples of the ID test set are in the held-out ID")
    copied("fashion_mnist_val", "fashion_mnist_val")
    copied("fashion_mnist_test", "mnist_test")
    refused("The OOD set mnist is the ID set fashion_mnist itself")
    copied("mnist_test", "mnist_test")
    rows = report_of(trained, same, ["mahalanobis_layers"], far=["mnist"]).rows
    assert any(row["score"] == "mahalanobis_layers" for row in rows)  # of the usual layers
    shutil.copy(same / "notmnist.npz", same / "mnist.npz")
    with pytest.raises(ValueError, match="Two test sets have the same name: fashion_mnist, mnist"):
        report_of(trained, same, ["msp"], far=["mnist", f"{same}/mnist.npz"])
    neither = command("ood_suite.extract")
    assert "flag --run=None: Flag --run must have a value" in neither.stderr
    (trained.folder / "model.keras").write_bytes(b"PK")
    with pytest.raises(RunError, match="model.keras cannot be read"):
        report_of(trained, data_dir, ["msp"])


def test_other_data_than_the_run_was_made_with_are_noted(copy):
    data_dir, trained = copy
    plain = report_of(trained, data_dir, ["msp"])
    assert not any("are not those that" in note for note in plain.notes)
    images = np.load(data_dir / "fashion_mnist_val.npz")["images"]
    write_images(data_dir / "fashion_mnist_val.npz", 255 - images, np.zeros(len(images)))
    notes = report_of(trained, data_dir, ["msp"]).notes
    [note] = [note for note in notes if "are not those that" in note]
    assert note.startswith("the held-out ID examples") and "give its --data_dir" in note


def test_what_would_have_no_effect_is_refused(copy):
    data_dir, trained = copy
    group = Group(0, trained, [])
    with pytest.raises(ValueError, match="--inner_layers has no effect without mahalanobis"):
        gather(group, Request(scores=("msp",), inner_layers=("stage1",)), data_dir)
    trained.config["roles"] = {
        name: role for name, role in trained.config["roles"].items() if "ood" not in name
    }
    with pytest.raises(ValueError, match="names no OOD test sets: give --ood_far"):
        request = Request(scores=("msp",))
        evaluate_group(group, gather(group, request, data_dir), request)


def test_held_out_data_that_the_classifier_knows_are_noticed(copy):
    """As when a published checkpoint was trained on the whole training set."""
    data_dir, trained = copy
    rng = np.random.default_rng(0)
    model = keras.saving.load_model(trained.model_path, compile=False)
    for split, share in (("val", 1.0), ("test", 0.6)):
        images = rng.integers(0, 255, (400, 8, 8, 1), dtype=np.uint8)
        labels = model.predict(images, verbose=0)["logits"].argmax(1)
        labels = np.where(rng.random(400) < share, labels, (labels + 1) % 10)
        write_images(data_dir / f"fashion_mnist_{split}.npz", images, labels)
    report = report_of(trained, data_dir, ["msp", "energy"], far=["mnist"])
    [note] = [note for note in report.notes if "probably trained on the held-out" in note]
    assert "right on 100.00% of the held-out" in note
    for row in report.rows:
        assert 0.85 < row["accepted"] <= 1.0


def test_other_validation_ood_data_are_tuned_by_and_kept_apart_from_the_tests(copy):
    data_dir, trained = copy
    group, asked = Group(0, trained, []), {"scores": ("energy",), "tune": True}
    same = Request(**asked, ood_far=("mnist",), ood_validation=("mnist",))
    with pytest.raises(ValueError, match="are in the validation OOD set too"):
        gather(group, same, data_dir)  # before anything is extracted
    other = Request(**asked, ood_far=("mnist",), ood_validation=("uniform",))
    material = gather(group, other, data_dir)
    assert material.validation_ood.meta["dataset"] == "uniform"
    tuned = evaluate_group(group, material, other)
    assert [row["score"] for row in tuned.tuned] == ["energy"] and tuned.verdict["has_chosen"]
    fused = Request(scores=("odin(epsilon=0.004)&energy",), ood_validation=("notmnist",))
    advised = gather(group, fused, data_dir)
    assert advised.advice().meta["dataset"] == "notmnist"  # which recommends
    some = Request(scores=("energy",), ood_validation=("notmnist@5",))
    assert len(gather(group, some, data_dir).advice()) == 5
    write_images(data_dir / "bad.npz", np.zeros((4, 9, 8, 2), np.uint8), [0] * 4)
    bad = Request(scores=("energy",), ood_validation=(str(data_dir / "bad.npz"),))
    with pytest.raises(ValueError, match="2 channels"):
        gather(group, bad, data_dir).advice()
    assert {row["score"] for row in evaluate_group(group, advised, fused).rows} >= set(fused.scores)
