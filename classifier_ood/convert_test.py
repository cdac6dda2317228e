"""Converted checkpoints against the outputs of torch itself, which tests/make_references.py froze;
and what a file may not do.
"""

import os
import pathlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest

from classifier_ood import configs, convert
from classifier_ood.torch_files import read_state
from ood_suite.outputs import load_npz
from ood_suite.runs import Run
from ood_suite.testing import command

FOLDER = pathlib.Path(__file__).parents[1] / "tests" / "references"
CIFAR = {"mean": configs.CIFAR_MEAN, "std": configs.CIFAR_STD}


@pytest.mark.parametrize(
    "file, backbone, frozen, options",
    [
        ("densenet.pth.tar", "densenet", "densenet", {"depth": 16, "growth": 4}),
        ("densenet_legacy.pth", "densenet", "densenet", {"depth": 16, "growth": 4}),
        ("densenet.safetensors", "densenet", "densenet", {"depth": 16, "growth": 4}),
        ("wide_resnet.pt", "wide_resnet", "wide_resnet", {"depth": 10, "width": 1}),
        ("resnet18.pth", "resnet_cifar", "resnet18", {"depth": 18, "width": 4}),
        ("resnet50.pth", "resnet_cifar", "resnet50", {"depth": 50, "width": 2}),
    ],
)
def test_equals_torch(file, backbone, frozen, options):
    arrays = load_npz(FOLDER / "networks.npz")
    model, found = convert.convert(read_state(FOLDER / file), backbone, (16, 16), CIFAR)
    assert options.items() <= found.items() and found["affine"]
    outputs = model.predict(arrays["images"].astype(np.float32), verbose=0)
    for name in ("features", "logits"):
        np.testing.assert_allclose(
            outputs[name], arrays[f"{frozen}/{name}"], rtol=1e-3, atol=1e-4, err_msg=name
        )


def test_without_gamma_and_beta():
    state = read_state(FOLDER / "densenet.pth.tar")
    bare = {
        name: array
        for name, array in state.items()
        if not (".bn" in f".{name}" and name.endswith((".weight", ".bias")))
    }
    model, options = convert.convert(bare, "densenet", (16, 16), CIFAR)
    assert options["affine"] is False and not model.get_layer("bn1").trainable_weights


def test_missing_unexpected_and_misshaped_entries_are_named():
    state = read_state(FOLDER / "densenet.pth.tar")
    damaged = dict(state)
    damaged["extra.weight"] = damaged.pop("trans1.bn1.running_mean")
    damaged["fc.bias"] = damaged["fc.bias"][:2]
    with pytest.raises(ValueError, match="missing: trans1_bn1_moving_mean") as caught:
        convert.convert(damaged, "densenet", (16, 16), CIFAR)
    assert "unexpected: extra.weight" in str(caught.value)
    assert "of another shape: fc.bias (2,)" in str(caught.value)
    with pytest.raises(
        ValueError, match="does not fit wrn_16_1. missing: block2_layer_0_convShort"
    ):
        convert.convert(state, "wide_resnet", (16, 16), CIFAR)
    with pytest.raises(ValueError, match="The checkpoint is no densenet: it lacks fc.weight"):
        headless = {name: array for name, array in state.items() if not name.startswith("fc")}
        convert.convert(headless, "densenet", (16, 16), CIFAR)
    with pytest.raises(ValueError, match="Known: densenet, wide_resnet, resnet_cifar"):
        convert.convert(state, "vgg", (16, 16), CIFAR)
    twice = dict(state) | {"classifier.bias": state["fc.bias"]}
    with pytest.raises(ValueError, match="Two entries of the checkpoint come to fc.bias"):
        convert.convert(twice, "densenet", (16, 16), CIFAR)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/ood_suite_was_here",)


def test_a_pickle_cannot_run_anything(tmp_path):
    for name in ("evil.pth", "evil_legacy.pth"):
        path = tmp_path / name
        if "legacy" in name:
            path.write_bytes(pickle.dumps({"state_dict": Evil()}))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": Evil()}))
        with pytest.raises(ValueError, match=r"asks for (posix|os)\.system, which is neither"):
            read_state(path)
    assert not pathlib.Path("/tmp/ood_suite_was_here").exists()
    with pytest.raises(ValueError, match="asks for torch.nn.modules.batchnorm.BatchNorm2d"):
        read_state(FOLDER / "whole_module.pth")


def test_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_state(tmp_path / "none.pth")
    for name in ("densenet.pth.tar", "densenet_legacy.pth", "densenet.safetensors"):
        path = tmp_path / name
        content = (FOLDER / name).read_bytes()
        for size in (0, 10, len(content) // 2, len(content) - 40):
            path.write_bytes(content[:size])
            with pytest.raises(ValueError):
                read_state(path)
    path = tmp_path / "numbers.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"epoch": 3, "lr": 0.1}))
    with pytest.raises(ValueError, match="holds no state dict.*Received: epoch, lr"):
        read_state(path)


def test_the_binary(tmp_path):
    arguments = ("--backbone=wide_resnet", "--image_size=16,16", f"--out_dir={tmp_path}")
    source = FOLDER / "wide_resnet.pt"
    done = command("classifier_ood.convert", f"--checkpoint={source}", *arguments)
    assert done.returncode == 0, done.stderr
    assert "wrn_10_1: 77395 trainable parameters, 3 classes" in done.stderr
    run = Run.load(tmp_path / "cifar10" / "converted_wrn_10_1")
    assert run.is_finished and run.settings["options"]["depth"] == 10
    again = command("classifier_ood.convert", f"--checkpoint={source}", *arguments)
    assert "finished: nothing to do" in again.stderr
    other = shutil.copy(FOLDER / "densenet.pth.tar", tmp_path / "other.pth")
    refused = command("classifier_ood.convert", f"--checkpoint={other}", *arguments)
    assert refused.returncode == 1 and "does not fit wrn_16_1" in refused.stderr
    shown = command("classifier_ood.convert", "--help").stdout
    assert "Architecture of the" in shown and "BatchNorm" in shown
