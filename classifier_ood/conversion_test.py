"""torchvision's networks in ours: features and logits equal frozen outputs of torchvision, for
seeded weights (tests/make_torchvision_references.py).
"""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from classifier_ood import conversion
from classifier_ood.configs import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD
from classifier_ood.torch_files import read_state
from ood_suite.files import load_npz
from ood_suite.runs.run import Run
from tests.seeded_weights import seeded_images, seeded_state
from tests.support import ROOT, command

CIFAR = {"mean": CIFAR_MEAN, "std": CIFAR_STD}
IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
# torchvision's name -> our backbone.
NETWORKS = {
    "densenet121": "densenet_imagenet",
    "mobilenet_v2": "mobilenet_v2",
    "resnet18": "resnet_imagenet",
    "resnet34": "resnet_imagenet",
    "resnet50": "resnet_imagenet",
    "resnet101": "resnet_imagenet",
    "vit_b_16": "vit",
}


@pytest.fixture(scope="module")
def frozen():
    return load_npz(ROOT / "tests" / "references" / "torchvision_networks.npz")


def state_of(frozen, network):
    return seeded_state(json.loads(str(frozen[f"{network}/shapes"])))


@pytest.mark.parametrize("network, backbone", NETWORKS.items())
def test_equal_to_torchvision(network, backbone, frozen):
    state = state_of(frozen, network)
    model, _ = conversion.convert(state, backbone, (224, 224), IMAGENET)
    assert model.name == {"vit_b_16": "vit_12_768_16"}.get(network, network)
    found = model.predict(seeded_images(2).astype(np.float32), verbose=0)
    for name in ("features", "logits"):
        expected = frozen[f"{network}/{name}"]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            found[name], expected, rtol=1e-3, atol=1e-5 * scale, err_msg=name
        )


def test_names_of_the_first_files(frozen):
    """DenseNet-121 was published with names such as denselayer1.norm.1."""
    state = state_of(frozen, "densenet121")
    old = {n.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): a
           for n, a in state.items()}  # fmt: skip
    assert set(old) != set(state)
    names = [conversion.canonical("densenet_imagenet", s) for s in (state, old)]
    assert names[0].keys() == names[1].keys()


def test_other_networks_are_refused(frozen):
    resnet, densenet = state_of(frozen, "resnet18"), state_of(frozen, "densenet121")
    for state, backbone, message in (
        (resnet, "mobilenet_v2", "no mobilenet_v2: it lacks features.0.0.weight"),
        (resnet, "resnet_cifar", r"of another shape: conv1.weight \(64, 3, 7, 7\)"),
        (densenet, "resnet_imagenet", "no resnet_imagenet: it lacks conv1.weight"),
        (densenet, "densenet", "does not fit densenet_bc"),
        ({n: a for n, a in densenet.items() if "denselayer24" not in n}, "densenet_imagenet",
         r"No DenseNet-121: its blocks have \[6, 12, 23, 16\]"),
        ({n: a for n, a in resnet.items() if not n.startswith("layer4.1")}, "resnet_imagenet",
         r"No ResNet-18, -34, -50 or -101: it has \(2, 2, 2, 1\) blocks"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            conversion.convert(state, backbone, (224, 224), IMAGENET)
    vit = state_of(frozen, "vit_b_16")
    with pytest.raises(ValueError, match=r"of another shape: tokens.embeddings \(197, 768\)"):
        conversion.convert(vit, "vit", (240, 224), IMAGENET)
    del vit["class_token"]
    with pytest.raises(ValueError, match=r"no vit: class_token must have.* \(0,\), \(1, 197, 768"):
        conversion.convert(vit, "vit", (224, 224), IMAGENET)
    wide = resnet | {"layer1.0.conv1.weight": np.zeros((128, 64, 3, 3), np.float32)}
    with pytest.raises(ValueError, match="does not fit resnet18. of another shape: layer1.0.conv1"):
        conversion.convert(wide, "resnet_imagenet", (224, 224), IMAGENET)


def test_a_name_of_torchvision_is_checked(frozen):
    state = state_of(frozen, "resnet18")
    model, options = conversion.convert(state, "resnet18", (224, 224), IMAGENET)
    assert model.name == "resnet18" and options["depth"] == 18
    with pytest.raises(ValueError, match="no resnet34: resnet_imagenet with {.*'depth': 18"):
        conversion.convert(state, "resnet34", (224, 224), IMAGENET)
    for backbone, _ in conversion.TORCHVISION.values():
        assert backbone in conversion.NAME_MAPS


@pytest.mark.parametrize("case, kept", [("whole", 1.0), ("kept", 0.8)])
def test_a_state_file_of_unleashing_mask(case, kept):
    """Written by PyTorch, with scores of masks, optimizer and numbers of the training."""
    state = read_state(ROOT / "tests" / "references" / "umap.state")
    arrays = load_npz(ROOT / "tests" / "references" / "umap.npz")
    state = conversion.masked(state, kept)
    model, options = conversion.convert(state, "densenet", (16, 16), CIFAR)
    assert options["affine"] is False and options["growth"] == 2
    found = model.predict(arrays["images"].astype(np.float32), verbose=0)
    for name in ("features", "logits"):
        expected = arrays[f"{case}/{name}"]
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-6)
    assert np.abs(arrays["whole/logits"] - arrays["kept/logits"]).max() > 0.01
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = np.asarray(layer.kernel)
            assert (kernel == 0.0).sum() == int((1.0 - kept) * kernel.size)
    state = {"fc.weight": np.ones((2, 5)), "fc.scores": np.arange(10.0).reshape(2, 5)}
    assert conversion.masked(state, 0.8)["fc.weight"].sum() == 9  # (1 - 0.8) * 10 is below 2


def test_scores_of_masks_are_not_overlooked():
    state = read_state(ROOT / "tests" / "references" / "umap.state")
    with pytest.raises(ValueError, match="--prune_rate, .* entries such as conv1.scores"):
        conversion.masked(state)
    plain = {name: array for name, array in state.items() if not name.endswith(".scores")}
    assert conversion.masked(plain) == plain
    with pytest.raises(ValueError, match="Received: no such entry, --prune_rate=0.8"):
        conversion.masked(plain, 0.8)
    with pytest.raises(ValueError, match="fc.scores must have the shape of fc.weight"):
        conversion.masked(state | {"fc.scores": np.zeros((2, 2), np.float32)}, 0.8)
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        conversion.masked(state, 0.0)


def convert(path, out, *arguments):
    return command("classifier_ood.convert", f"--checkpoint={path}", f"--out_dir={out}", *arguments)


def test_the_binary_takes_imagenets_size_and_normalisation(frozen, tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(state_of(frozen, "mobilenet_v2"), path)
    done = convert(path, tmp_path, "--backbone=mobilenet_v2")
    assert done.returncode == 0, done.stderr
    run = Run.load(tmp_path / "imagenet" / "converted_mobilenet_v2")
    assert run.is_finished and run.settings["id_dataset"] == "imagenet:imagenet"
    assert run.settings["options"] == {name: list(value) for name, value in IMAGENET.items()}
    done = convert(path, tmp_path, "--backbone=mobilenet_v2", "--exp=imagenet_v2")
    assert done.returncode == 0, done.stderr
    second = Run.load(tmp_path / "imagenet_v2" / "converted_mobilenet_v2")
    own = (second.settings["id_dataset"], *second.settings["ood_near"], *second.settings["ood_far"])
    assert len(own) == 6 and all(name.endswith(":imagenet_232") for name in own)


def test_the_second_version_of_weights_is_known_by_its_file():
    assert conversion.experiment_of("imagenet", "0676ba61" + "0" * 56) == "imagenet"
    assert conversion.experiment_of("imagenet", "11ad3fa6" + "0" * 56) == "imagenet_v2"
    assert conversion.experiment_of("cifar10", "11ad3fa6" + "0" * 56) == "cifar10"


def test_the_binary_takes_a_state_file(tmp_path):
    path = ROOT / "tests" / "references" / "umap.state"
    refused = convert(path, tmp_path)
    assert refused.returncode == 1 and "--prune_rate, the share that" in refused.stderr
    done = convert(path, tmp_path, "--prune_rate=0.8", "--normalised=himplos")
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "cifar10").iterdir()
    settings = Run.load(folder).settings
    assert settings["prune_rate"] == 0.8
    assert settings["options"]["mean"] == [125.307, 122.961, 113.8575]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--backbone=resnet5",), "Unknown backbone 'resnet5'. Did you mean resnet50"),
        (("--exp=imagnet",), "Unknown experiment 'imagnet'. Did you mean imagenet?"),
        (("--normalised=himplo",), "Unknown normalisation 'himplo'. Did you mean himplos?"),
        (("--normalised=cifar", "--mean=1,2,3"), "leave out --mean and --std"),
        (("--mean=a,b,c",), "--mean must be numbers. Received: a,b,c"),
        (("--std=nan,nan,nan",), "`std` must be finite"),
        (("--mean=.4914,.4822,.4465", "--std=.2023,.1994,.2010"), "mean=[125.307, 122.961, 113.8"),
        (("--image_size=32",), "--image_size must be height,width"),
    ],
)
def test_refusals_of_the_binary(arguments, message, tmp_path):
    path = ROOT / "tests" / "references" / "densenet.pth.tar"
    refused = convert(path, tmp_path / "out", *arguments)
    assert refused.returncode == 1 and message in refused.stderr, refused.stderr
    assert not (tmp_path / "out").exists()
