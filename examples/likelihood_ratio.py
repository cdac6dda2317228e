"""The shipped PixelCNN++ of FashionMNIST, and its background: why the likelihood fails, and the
ratio does not.

    python examples/likelihood_ratio.py
"""

import pathlib

import numpy as np

from images_ood.extract import load_model, log_prob_map
from ood_suite import Run, data, metrics, scores, shipped
from ood_suite.evaluation.figures import pixel_maps

COUNT = 100

folder = shipped.run_folder("pretrained/images_fashion")
foreground, background = (
    load_model(Run.load(folder / name)) for name in ("reg0_mr0", "reg10_mr0.1")
)

maps = {}  # data set -> nats of every pixel, under both models
for name in ("fashion_mnist", "mnist"):
    images = data.load(name, "test").images[:COUNT]
    maps[name] = [log_prob_map(model, images, batch_size=50) for model in (foreground, background)]

for score in ("likelihood", "likelihood_ratio"):
    function = scores.get(score).fn
    arguments = 1 if score == "likelihood" else 2
    clothes, digits = (
        function(*(pixels.sum(axis=(1, 2)) for pixels in maps[name][:arguments]))
        for name in ("fashion_mnist", "mnist")
    )
    auroc = metrics.auroc(metrics.Counts.of(clothes, digits))
    print(f"{score:<17} AUROC {auroc:.3f} (clothes against digits, {COUNT} each)")

out = pathlib.Path("output/examples/bits_of_digits.png")
out.parent.mkdir(parents=True, exist_ok=True)
images = data.load("mnist", "test").images[:8]
bits = -maps["mnist"][0][:8] / np.log(2.0)
pixel_maps(images, bits, "what each pixel of a digit costs").savefig(out)
print(f"Wrote {out}.")
