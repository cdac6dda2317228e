"""torchvision's networks in ours: features and logits equal frozen outputs of torchvision, for
seeded weights (tests/make_torchvision_references.py).
"""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from classifier_ood import conversion
from classifier_ood.configs import IMAGENET_MEAN, IMAGENET_STD
from ood_suite.files import load_npz
from ood_suite.runs.run import Run
from tests.seeded_weights import seeded_images, seeded_state
from tests.support import ROOT, command

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


def test_the_binary_takes_imagenets_size_and_normalisation(frozen, tmp_path):
    save_file(state_of(frozen, "mobilenet_v2"), tmp_path / "m.safetensors")
    done = command(
        "classifier_ood.convert", f"--checkpoint={tmp_path / 'm.safetensors'}", "--exp=imagenet",
        "--backbone=mobilenet_v2", f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run.load(tmp_path / "imagenet" / "converted_mobilenet_v2")
    assert run.is_finished
    assert run.settings["options"] == {name: list(value) for name, value in IMAGENET.items()}
