"""Converted checkpoints against the outputs of torch itself, which tests/make_references.py froze;
and what a file may not do.
"""

import os
import pathlib
import pickle
import shutil
import zipfile

import keras
import numpy as np
import pytest

from classifier_ood import configs, conversion, models
from classifier_ood.torch_files import read_state
from ood_suite.files import load_npz
from ood_suite.runs.run import Run
from tests.support import command

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
    model, found = conversion.convert(read_state(FOLDER / file), backbone, (16, 16), CIFAR)
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
    model, options = conversion.convert(bare, "densenet", (16, 16), CIFAR)
    assert options["affine"] is False and not model.get_layer("bn1").trainable_weights


def test_missing_unexpected_and_misshaped_entries_are_named():
    state = read_state(FOLDER / "densenet.pth.tar")
    damaged = dict(state)
    damaged["extra.weight"] = damaged.pop("trans1.bn1.running_mean")
    damaged["fc.bias"] = damaged["fc.bias"][:2]
    with pytest.raises(ValueError, match="missing: trans1_bn1_moving_mean") as caught:
        conversion.convert(damaged, "densenet", (16, 16), CIFAR)
    assert "unexpected: extra.weight" in str(caught.value)
    assert "of another shape: fc.bias (2,)" in str(caught.value)
    with pytest.raises(
        ValueError, match="does not fit wrn_16_1. missing: block2_layer_0_convShort"
    ):
        conversion.convert(state, "wide_resnet", (16, 16), CIFAR)
    with pytest.raises(ValueError, match="The checkpoint is no densenet: it lacks fc.weight"):
        headless = {name: array for name, array in state.items() if not name.startswith("fc")}
        conversion.convert(headless, "densenet", (16, 16), CIFAR)
    with pytest.raises(ValueError, match="Known: densenet, wide_resnet, resnet_cifar"):
        conversion.convert(state, "vgg", (16, 16), CIFAR)
    twice = dict(state) | {"classifier.bias": state["fc.bias"]}
    with pytest.raises(ValueError, match="Two entries of the checkpoint come to fc.bias"):
        conversion.convert(twice, "densenet", (16, 16), CIFAR)


def test_shortcuts_of_the_input_are_told_by_their_name():
    """WRNs of other repositories have the same shapes, and a convolution of the block's input where
    ours is of the activated one: theirs is `shortcut`, in a Sequential or not.
    """
    arrays = load_npz(FOLDER / "networks.npz")
    state = conversion.canonical("wide_resnet", read_state(FOLDER / "wide_resnet.pt"))
    for name in (".shortcut.", ".shortcut.0."):
        theirs = renamed(state, (".convShortcut.", name), ("block", "layer"), (".layer.", "."))
        model, options = conversion.convert(theirs, "wide_resnet", (16, 16), CIFAR)
        assert options["shortcut"] == "input"
    for block, stride in (("block2_layer_0", 2), ("block3_layer_0", 2)):
        before = model.get_layer(f"{block}_shortcut").input
        ends = [before, model.get_layer(f"{block}_conv2").output, model.get_layer(block).output]
        x, y, both = keras.Model(model.inputs, ends).predict(arrays["images"], verbose=0)
        assert x.min() < 0.0  # nothing has acted on it
        kernel = state[f"{block.replace('_', '.')}.convShortcut.weight"][:, :, 0, 0]
        np.testing.assert_allclose(both, y + x[:, ::stride, ::stride] @ kernel.T, atol=1e-4)
    unknown = renamed(state, (".convShortcut.", ".downsample."))
    with pytest.raises(ValueError, match="missing: block2_layer_0_convShort.*downsample"):
        conversion.convert(unknown, "wide_resnet", (16, 16), CIFAR)
    with pytest.raises(ValueError, match="`shortcut` must be activated or input"):
        models.build("wide_resnet", (16, 16, 3), 3, {"shortcut": "none"})


def renamed(state, *pairs):
    for old, new in pairs:
        state = {name.replace(old, new): array for name, array in state.items()}
    return state


def test_names_found_in_the_wild():
    """The same network under the names of other code: same outputs."""
    images = load_npz(FOLDER / "networks.npz")["images"].astype(np.float32)
    densenet, resnet = (read_state(FOLDER / f) for f in ("densenet.pth.tar", "resnet18.pth"))
    torchvision = read_state(FOLDER / "densenet.safetensors")
    published = renamed(torchvision, (".norm1.", ".norm.1."), (".conv2.", ".conv.2."))
    weiaicunzai = {}
    for name, array in resnet.items():
        name = name.replace("fc.", "linear.")
        if name.startswith("layer"):
            group, block, part, *rest = name.split(".")
            places = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}
            part = f"residual_function.{places[part]}" if part in places else part
            name = ".".join([f"conv{int(group[-1]) + 1}_x", block, part, *rest])
        else:
            name = name.replace("conv1.", "conv1.0.").replace("bn1.", "conv1.1.")
        weiaicunzai[name] = array
    for backbone, state, other in (
        ("densenet", densenet, published),
        ("densenet", densenet, renamed(densenet, ("trans1.bn1", "trans1.bn"))),
        ("resnet_cifar", resnet, weiaicunzai),
    ):
        assert set(state) != set(other)
        pair = [conversion.convert(s, backbone, (16, 16), CIFAR)[0] for s in (state, other)]
        logits = [model.predict(images, verbose=0)["logits"] for model in pair]
        np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("reduction, depth", [(0.7, 22), (0.3, 40), (0.5, 16), (0.64, 16)])
def test_the_reduction_is_found(reduction, depth):
    from classifier_ood import models

    options = {"depth": depth, "growth": 6, "reduction": reduction}
    model = models.build("densenet", (16, 16, 3), 3, options)
    kept = [
        (layer.kernel.shape[-1], layer.kernel.shape[-2])
        for layer in (model.get_layer(f"trans{i}_conv1") for i in (1, 2))
    ]
    found = conversion._reduction(kept)
    assert [int(before * found) for _, before in kept] == [after for after, _ in kept]


def tensor_pickle(storage, shape, strides):
    """Opcodes of torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, {})."""

    def numbers(values):
        return b"(" + b"".join(b"I%d\n" % v for v in values) + b"t"

    inner = storage or b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\ntQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + inner + b"I0\n" + numbers(shape)
        + numbers(strides) + b"I00\n(dtR"
    )  # fmt: skip


@pytest.mark.parametrize(
    "storage, shape, strides, message",
    [
        (None, [4096], [0], "reaches beyond its storage"),
        (None, [4096], [1], "reaches beyond its storage"),
        (None, [1000000, 1000000], [0, 0], "reaches beyond its storage"),
        (None, [1], [-1], "has shape"),
        (tensor_pickle(None, [1], [0]), [1], [1], "of what is no storage"),
    ],
)
def test_tensors_stay_within_their_storage(tmp_path, storage, shape, strides, message):
    path = tmp_path / "evil.pth"
    content = b"(dS'w'\n" + tensor_pickle(storage, shape, strides) + b"s."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", np.ones(1, np.float32).tobytes())
    with pytest.raises(ValueError, match=message):
        read_state(path)
    good = b"(dS'w'\n" + tensor_pickle(None, [1], [1]) + b"s."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", good)
        archive.writestr("archive/data/0", np.ones(1, np.float32).tobytes())
    assert read_state(path)["w"] == 1.0


def test_a_state_dict_within_itself_ends(tmp_path):
    path, endless = tmp_path / "endless.pth", {"lr": 0.1}
    endless["model"] = endless
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(endless))
    with pytest.raises(ValueError, match="no state dict"):
        read_state(path)


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
    larger = arguments[0], "--image_size=32,32", arguments[2]
    refused = command("classifier_ood.convert", f"--checkpoint={source}", *larger)
    assert refused.returncode == 1 and "image_size: [16, 16] there, None now" in refused.stderr
    other = shutil.copy(FOLDER / "densenet.pth.tar", tmp_path / "other.pth")
    refused = command("classifier_ood.convert", f"--checkpoint={other}", *arguments)
    assert refused.returncode == 1 and "does not fit wrn_16_1" in refused.stderr
    shown = command("classifier_ood.convert", "--help").stdout
    assert "Architecture of the" in shown and "BatchNorm" in shown
