"""Writes tests/references/torchvision_networks.npz: features and logits of torchvision's networks
for seeded weights and images, which the tests make again (tests/seeded_weights.py).

    pip install torch torchvision numpy
    python tests/make_torchvision_references.py
"""

import json
import pathlib

import numpy as np
import torch
import torchvision
from seeded_weights import seeded_images, seeded_state

PATH = pathlib.Path(__file__).parent / "references" / "torchvision_networks.npz"
NETWORKS = (
    "densenet121",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "vit_b_16",
)
CLASSES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def outputs(name, pixels):
    """{"features", "logits", "shapes"} of a network, shapes being those of its state dict."""
    network = getattr(torchvision.models, name)(num_classes=CLASSES).eval()
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    state = {key: torch.tensor(value) for key, value in seeded_state(shapes).items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    linear = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    entered = []
    linear.register_forward_hook(lambda module, inputs, output: entered.append(inputs[0]))
    scaled = (torch.tensor(pixels) / 255.0 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        logits = network(scaled.permute(0, 3, 1, 2).float())
    return {"features": entered[0].numpy(), "logits": logits.numpy(), "shapes": json.dumps(shapes)}


def main():
    found = {
        f"{name}/{key}": value
        for name in NETWORKS
        for key, value in outputs(name, seeded_images(2)).items()
    }
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    np.savez_compressed(PATH, versions=json.dumps(versions), **found)
    for name in NETWORKS:
        print(name, found[f"{name}/logits"][0, :4], np.abs(found[f"{name}/features"]).max())


if __name__ == "__main__":
    main()
