"""Writes tests/references/umap.state, as Unleashing Mask's code writes its networks with learned
masks, and umap.npz: what PyTorch computes with the masks that keep 80% and with the whole kernels.

    pip install torch==2.13.0 numpy scipy scikit-learn safetensors
    python tests/make_state_references.py

As in their files: the state dict of a DataParallel whose convolutions and head have scores beside
their weights, BatchNorm without gamma and beta, numbers of the training, and the optimizer's state.
"""

import json
import pathlib

import numpy as np
import torch
from make_references import DenseNet, randomised
from torch import nn

FOLDER = pathlib.Path(__file__).parent / "references"
KEPT = 0.8
MEAN, STD = torch.tensor((125.3, 123.0, 113.9)), torch.tensor((63.0, 62.1, 66.7))


def network():
    """A tiny DenseNet-BC with scores in its convolutions and its head."""
    torch.manual_seed(11)
    model = randomised(DenseNet(growth=2), 5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight = module.bias = None
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.scores = nn.Parameter(torch.randn_like(module.weight))
    return model.eval()


def mask(scores):
    """0 for the int((1 - KEPT) n) smallest |scores|, else 1."""
    flat = scores.abs().flatten()
    found = torch.ones_like(flat)
    found[flat.argsort()[: int((1 - KEPT) * len(flat))]] = 0.0
    return found.reshape(scores.shape)


def outputs(model, pixels):
    with torch.no_grad():
        return [part.numpy() for part in model(pixels)]


def main():
    model = network()
    tops = np.random.default_rng(12).integers(20, 256, (3, 1, 1, 3))  # colours that differ
    images = np.random.default_rng(13).integers(0, tops, (3, 16, 16, 3), dtype=np.uint8)
    pixels = ((torch.tensor(images).float() - MEAN) / STD).permute(0, 3, 1, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(pixels)[1].sum().backward()
    optimizer.step()  # so that there are momenta; the scores move with nothing but 0
    optimizer.zero_grad()
    whole = outputs(model, pixels)
    content = {
        "epoch": 99, "arch": "DenseNet",
        "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()},
        "best_acc1": 94.0, "best_acc5": 99.8, "best_train_acc1": 100.0, "best_train_acc5": 100.0,
        "optimizer": optimizer.state_dict(), "curr_acc1": 93.9, "curr_acc5": 99.7,
    }  # fmt: skip
    torch.save(content, FOLDER / "umap.state")
    for module in model.modules():
        if hasattr(module, "scores"):
            module.weight.data *= mask(module.scores.data)
    names = [f"{case}/{name}" for case in ("whole", "kept") for name in ("features", "logits")]
    arrays = dict(zip(names, [*whole, *outputs(model, pixels)], strict=True))
    versions = json.dumps({"torch": torch.__version__, "numpy": np.__version__})
    np.savez_compressed(FOLDER / "umap.npz", images=images, versions=versions, **arrays)


if __name__ == "__main__":
    main()
