"""The product outside its checkout: the wheel is built, installed into fresh environments, and used
in an empty folder. Runs with --run_wheel, because it installs packages.
"""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.wheel
TINY = ("--num_filters=4", "--num_resnet=1", "--total_steps=2", "--eval_images=20")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    make = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}"]
    subprocess.run([*make, str(ROOT)], check=True)
    [path] = folder.glob("*.whl")
    return path


def installed(folder, wheel, extras):
    """Path of the programs of a fresh environment with the wheel and the extras that it names."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--no-compile"]  # what is imported is compiled when it is
    subprocess.run([*install, f"{wheel}{extras}"], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    return installed(tmp_path_factory.mktemp("full"), wheel, "[tensorflow]")


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    return installed(tmp_path_factory.mktemp("bare"), wheel, "")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


def run(*command, cwd):
    own = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TF_CPP_MIN_LOG_LEVEL")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )


def succeeds(*command, cwd):
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_holds_data_and_models_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert not [
        n for n in names if n.endswith("_test.py") or n.startswith(("tests/", "benchmarks/"))
    ]
    for needed in (
        "image_data/samples/fashion_mnist_train.npz", "genomics_data/samples/bacteria_train.npz",
        "pretrained/images_fashion/reg0_mr0/model.keras", "ood_suite/py.typed",
        "pretrained/images_fashion/reg0_mr0/config.json",
        "pretrained/dna_kmers/reg0_mr0/model.npz",
        "pretrained/classifier_cifar10/wide_resnet/model.keras",
    ):  # fmt: skip
        assert needed in names, needed


def test_scoring_needs_three_packages(bare, empty):
    code = (
        "import numpy as np; from ood_suite import Detector, Outputs\n"
        "logits = np.random.default_rng(0).normal(size=(50, 4))\n"
        "print(Detector('energy').fit(Outputs(logits=logits)).threshold_ < 0)"
    )
    assert succeeds(bare / "python", "-c", code, cwd=empty).stdout == "True\n"
    listed = json.loads(succeeds(bare / "pip", "list", "--format=json", cwd=empty).stdout)
    names = {package["name"].lower() for package in listed}
    assert {"numpy", "scipy", "scikit-learn"} <= names
    assert not names & {"absl-py", "keras", "matplotlib", "tensorflow", "tqdm", "pillow"}
    lacking = run(bare / "ood", "eval", "--run=x", cwd=empty)
    assert lacking.returncode == 1 and "pip install 'ood-suite[eval]'" in lacking.stderr
    assert "Traceback" not in lacking.stderr


def test_the_command_explains_itself(bare, empty):
    listed = succeeds(bare / "ood", cwd=empty).stdout
    assert "images train" in listed and "classifier finetune" in listed
    assert listed == succeeds(bare / "ood", "-h", cwd=empty).stdout
    assert succeeds(bare / "ood", "--version", cwd=empty).stdout.startswith("ood-suite 0.")
    typo = run(bare / "ood", "evil", cwd=empty)
    assert typo.returncode == 1 and "There is no command 'evil'. Did you mean: eval?" in typo.stderr
    turned = run(bare / "ood", "--run=x", "eval", cwd=empty)
    assert "The command comes before its flags: ood COMMAND --run=x" in turned.stderr


def test_a_density_in_an_empty_folder(programs, empty):
    trained = succeeds(
        programs / "ood", "images", "train", "--exp=fashion_small", *TINY, "--eval_every=2",
        cwd=empty,
    )  # fmt: skip
    folder = "output/images_ood/fashion_small"
    assert f"Next: python -m ood_suite.eval --run={folder}" in trained.stderr
    assert "oneDNN" not in trained.stderr and "cuda" not in trained.stderr.lower()
    assert (empty / folder / "reg0_mr0/model.keras").exists()


def test_a_classifier_fine_tuned_and_evaluated(programs, empty):
    run_folder = "output/classifier_ood/fashion/convnet"
    succeeds(
        programs / "python", "-m", "classifier_ood.train", "--options=width=2", "--epochs=1",
        "--batch_size=1000", cwd=empty,
    )  # fmt: skip
    succeeds(
        programs / "python", "-m", "classifier_ood.finetune", f"--run={run_folder}", "--um=0.5",
        "--epochs=1", "--steps_per_epoch=1", "--batch_size=64", cwd=empty,
    )  # fmt: skip
    evaluated = succeeds(
        programs / "ood", "eval", f"--run={run_folder}_finetuned/um/seed0", "--scores=msp,energy",
        "--resamples=20", cwd=empty,
    )  # fmt: skip
    assert "mnist (2000 examples)" in " ".join(evaluated.stdout.split())


def test_the_shipped_run_is_evaluated_outside_site_packages(programs, empty):
    shipped = "pretrained/images_fashion/reg0_mr0"
    done = succeeds(
        programs / "ood", "extract", f"--run={shipped}", "--dataset=glyphs", "--nomaps", cwd=empty
    )
    assert "copied to output/pretrained" in done.stderr
    assert (empty / "output" / shipped / "outputs/glyphs_test.npz").exists()
    assert {path.name for path in empty.iterdir()} == {"output"}
