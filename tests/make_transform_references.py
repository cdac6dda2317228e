"""Writes tests/references/torchvision.npz: what torchvision's transforms make of images of several
sizes, on Pillow images as its data sets have them, and on tensors with antialiasing.

    pip install torch torchvision numpy pillow
    python tests/make_transform_references.py
"""

import json
import pathlib

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

PATH = pathlib.Path(__file__).parent / "references" / "torchvision.npz"
SIZE = 28  # of the results: 256/224 and 232/224 of it are the whole numbers 32 and 29
SIZES = ((28, 28), (37, 45), (64, 64), (75, 100), (101, 30), (20, 33))  # height, width
TRANSFORMS = {
    "centre_crop": v2.CenterCrop(SIZE),
    "imagenet": v2.Compose([v2.Resize(SIZE * 256 // 224), v2.CenterCrop(SIZE)]),
    "imagenet_232": v2.Compose([v2.Resize(SIZE * 232 // 224), v2.CenterCrop(SIZE)]),
    "shorter_side": v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE)]),
    "squash": v2.Resize((SIZE, SIZE)),
}


def main():
    rng = np.random.default_rng(0)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    arrays = {"versions": json.dumps(versions | {"pillow": PIL.__version__})}
    for height, width in SIZES:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        key = f"{height}x{width}"
        arrays[f"{key}/image"] = image
        tensor = torch.tensor(image).permute(2, 0, 1)
        for name, transform in TRANSFORMS.items():
            arrays[f"{key}/{name}"] = np.asarray(transform(Image.fromarray(image)))
        arrays[f"{key}/squash_of_tensor"] = TRANSFORMS["squash"](tensor).permute(1, 2, 0).numpy()
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
