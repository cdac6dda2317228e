"""What a trained PixelCNN++ says of a data set: log-probabilities, per-pixel maps, PNG lengths.

One npz a data set in the run's outputs/ (see ood_suite.outputs). `python -m ood_suite.extract` and
`python -m ood_suite.eval` call this.
"""

import numpy as np
from scipy.special import logsumexp

import images_ood.pixelcnn  # noqa: F401 (classes of stored models)
from ood_suite import data
from ood_suite.data.likeness import perceptual_hashes
from ood_suite.data.pictures import png_bits
from ood_suite.data.transforms import to_shape
from ood_suite.files import example_hashes
from ood_suite.outputs import Outputs
from ood_suite.runs.extraction import Extraction, Parts, hashes_of, kept
from ood_suite.training.stored_model import read_density

SCORES: tuple[str, ...] = (
    "background_mean", "input_complexity", "likelihood", "likelihood_ratio", "two_sided_fisher",
    "typicality",
)  # fmt: skip
PERTURBED: dict[str, str] = {}


def extract(
    run, names, split, *, data_dir=None, parts=Parts(), batch_size=100, shard=None
) -> Outputs:
    """Outputs of a finished run on one data set: log_prob, code_length, labels, hashes, and
    with `parts.maps` log_prob_map and images. See runs.extraction.Extractor.
    """
    if parts.perturbations or parts.inner_layers or parts.fields:
        raise ValueError("A density has no logits and no inner layers: these are of classifiers.")
    model = load_model(run)
    shape = model.options["image_shape"]
    source = data.first_available(names, split, data_dir, shape)
    job = Extraction(
        run, source, split, source.images,
        identity={"dtype": model.dtype_policy.name},
        prepare=lambda images: to_shape(images, shape),
        batch_size=batch_size,
        shard=shard,
    )  # fmt: skip

    def main_part(images):
        pixels = log_prob_map(model, images, batch_size)
        arrays = {
            "log_prob": pixels.sum(axis=(1, 2), dtype=np.float64),
            "code_length": np.array([png_bits(image) for image in images]),
            "example_hashes": example_hashes(images),
            "perceptual_hashes": perceptual_hashes(images),
        }
        return arrays | ({"log_prob_map": pixels, "images": images} if parts.maps else {})

    with_maps = None if parts.maps else job.on_file("maps")
    return with_maps or job.part("maps" if parts.maps else None, main_part)


def hashes(run, names, split, *, data_dir=None) -> Outputs | None:
    """Outputs with labels and hashes of the examples alone. See runs.extraction.Extractor."""
    shape = load_model(run).options["image_shape"]
    source = data.first_available(names, split, data_dir, shape)
    images = source.images
    return hashes_of(source, images, lambda images: to_shape(images, shape)[0], perceptual_hashes)


def load_model(run):
    """The run's PixelCNN, with averaged weights, not to be changed; see read_density."""
    return kept(run, "pixelcnn", lambda: read_density(run))


def log_prob_map(model, images, batch_size):
    """float32 (n, height, width) nats."""
    if model.options["num_classes"]:
        return _marginal_map(model, images, batch_size)
    return model.predict(images, batch_size=batch_size, verbose=0)


def _marginal_map(model, images, batch_size):
    """Per-pixel map of p(x) = mean over classes of p(x | class): no label is looked at.

    With P_i(c) = log p(x_1..x_i | c), the marginal of a prefix is M_i = logsumexp_c P_i(c) - log C,
    and pixel i counts M_i - M_{i-1}, so that the map still sums to log p(x).
    """
    classes = model.options["num_classes"]
    prefixes = []
    for label in range(classes):
        labels = np.full(len(images), label, np.int32)
        conditional = model.predict([images, labels], batch_size=batch_size, verbose=0)
        flat = conditional.reshape(len(images), -1).astype(np.float64)
        prefixes.append(np.cumsum(flat, axis=1))
    marginal = logsumexp(prefixes, axis=0) - np.log(classes)
    steps = np.diff(marginal, axis=1, prepend=0.0)
    return steps.reshape(conditional.shape).astype(np.float32)
