"""What a trained classifier says of a data set: features, logits, and on demand ODIN's perturbed
logits, inner layers, and what scores of feature maps and of perturbed features need.

One npz a data set and part in the run's outputs/ (see ood_suite.outputs). `python -m
ood_suite.extract` and `python -m ood_suite.eval` call this.
"""

import dataclasses

import numpy as np

from classifier_ood.keras_classifier import HEAD_INPUT, KerasClassifier
from classifier_ood.usual_layers import usual_layers
from ood_suite import data
from ood_suite.data.likeness import perceptual_hashes
from ood_suite.data.transforms import to_shape
from ood_suite.files import example_hashes
from ood_suite.outputs import ON_DEMAND, Outputs
from ood_suite.runs.extraction import (
    Extraction,
    Parts,
    hashes_of,
    joined,
    kept,
    perturbed_parts,
    short,
)
from ood_suite.scores import feature_maps
from ood_suite.scores.gaussian import TiedGaussian
from ood_suite.training import input_gradients
from ood_suite.training.stored_model import read_model

SCORES: tuple[str, ...] = ()
PERTURBED: dict[str, str] = {"odin": "cross_entropy"}
USUAL = ("usual",)  # --inner_layers: the ends of the stages
ADVICE = "If it needs classes of yours, save it as a plain functional model."


def extract(
    run, names, split, *, data_dir=None, parts=Parts(), batch_size=100, shard=None
) -> Outputs:
    """Outputs of a finished run on one data set: features, logits, labels, head, hashes, and
    what `parts` asks for. The Gaussians of `parts.epsilons` are fitted to the training split.
    See runs.extraction.Extractor.
    """
    unknown = set(parts.fields) - set(ON_DEMAND)
    if unknown or ("gram_sums" in parts.fields and not parts.inner_layers):
        raise ValueError(
            f"--fields must be of {', '.join(ON_DEMAND)}; gram_sums need --inner_layers, the "
            f"layers that they are of. Received: {', '.join(parts.fields)}."
        )
    if parts.inner_layers == USUAL:
        parts = dataclasses.replace(parts, inner_layers=usual_layers(load_classifier(run).model))
    classifier = load_classifier(run, parts.inner_layers)
    source = data.first_available(names, split, data_dir, classifier.image_shape)
    layer = run.settings.get("features_layer") or HEAD_INPUT
    dtype = {"dtype": classifier.dtype} if classifier.dtype else {}
    job = Extraction(
        run, source, split, source.images,
        identity={"features_layer": layer} | dtype,
        prepare=lambda images: to_shape(images, classifier.image_shape),
        batch_size=batch_size,
        shard=shard,
    )  # fmt: skip

    def predict(images):
        return classifier.predict(images, batch_size)

    def main_part(images):
        arrays = predict(images)
        kept_arrays = {name: arrays[name] for name in ("features", "logits")}
        return kept_arrays | {
            "example_hashes": example_hashes(images),
            "perceptual_hashes": perceptual_hashes(images),
        }

    def layers(images):
        return {k: v for k, v in predict(images).items() if k.startswith("layer_features/")}

    def perturbed(temperature, epsilons, rule):
        return kept(
            run, ("odin", temperature, epsilons, rule),
            lambda: input_gradients.odin(classifier.network, temperature, epsilons, rule),
        )  # fmt: skip

    found = [job.part(None, main_part, classifier.head)]
    if parts.inner_layers and "gram_sums" not in parts.fields:
        found.append(job.part(f"layers_{short(parts.inner_layers)}", layers))
    found += perturbed_parts(job, parts.perturbations, perturbed)
    if parts.inner_layers and any(parts.epsilons):
        found.append(_mahalanobis(job, classifier, parts, data_dir, batch_size))
    return joined([*found, *_on_demand(job, classifier, parts)])


def hashes(run, names, split, *, data_dir=None) -> Outputs | None:
    """Outputs with labels and hashes of the examples alone. See runs.extraction.Extractor."""
    shape = load_classifier(run).image_shape
    source = data.first_available(names, split, data_dir, shape)
    images = source.images
    return hashes_of(source, images, lambda images: to_shape(images, shape)[0], perceptual_hashes)


def _on_demand(job, classifier, parts):
    """Yields Outputs of each of `parts.fields`; gram_sums bring the layer_features too."""

    def batches(images):
        starts = range(0, len(images), job.batch_size)  # maps of a whole chunk may not fit
        return (images[start : start + job.batch_size] for start in starts)

    def moved(images):
        network = classifier.network
        move = kept(job.run, "least_salient", lambda: input_gradients.least_salient(network))
        return {"features_perturbed": move(images)}

    def first_component(images):
        maps = kept(job.run, "pooled_map", classifier.pooled_map)
        found = [feature_maps.rank_one(maps.predict_on_batch(part)) for part in batches(images)]
        return {"rank_one": np.concatenate(found)}

    def grams(images):
        key = ("maps", parts.inner_layers)
        maps = kept(job.run, key, lambda: classifier.maps(parts.inner_layers))
        found: dict[str, list] = {}
        for part in batches(images):
            for name, whole in maps.predict_on_batch(part).items():
                found.setdefault(f"gram_sums/{name}", []).append(feature_maps.gram_sums(whole))
                pooled = whole.mean(axis=tuple(range(1, whole.ndim - 1)))
                found.setdefault(f"layer_features/{name}", []).append(pooled)
        return {name: np.concatenate(arrays) for name, arrays in found.items()}

    functions = {"features_perturbed": moved, "gram_sums": grams, "rank_one": first_component}
    for field in parts.fields:
        suffix = f"_{short(parts.inner_layers)}" if field == "gram_sums" else ""
        yield job.part(field + suffix, functions[field])


def _mahalanobis(job, classifier, parts, data_dir, batch_size):
    """Outputs of inner layers at inputs moved towards a smaller Mahalanobis distance."""
    run, role = job.run, job.run.roles["training"]
    training = data.first_available(role.names, role.split, data_dir, classifier.image_shape)
    # Before the part's lock is held: it may have to write the training outputs.
    fit_on = extract(
        run, role.names, role.split, data_dir=data_dir,
        parts=Parts(inner_layers=parts.inner_layers), batch_size=batch_size,
    )  # fmt: skip

    def gradients():
        layer_features, labels = fit_on.require(("layer_features", "labels"), "The perturbation")
        gaussians = {}
        for name in parts.inner_layers:
            fitted = TiedGaussian().fit(layer_features[name], labels)
            gaussians[name] = fitted.means_, fitted.whitening_
        moving = [epsilon for epsilon in parts.epsilons if epsilon]
        return input_gradients.mahalanobis(classifier.network, gaussians, moving)

    key = ("mahalanobis", training.fingerprint, parts.inner_layers, parts.epsilons)

    def moved(images):
        arrays = kept(run, key, gradients)(images)
        return {f"layer_features/{name}": array for name, array in arrays.items()}

    name = f"mahalanobis_{short([*parts.inner_layers, *parts.epsilons])}"
    return job.part(name, moved, depends_on=training.fingerprint)


def load_classifier(run, inner_layers=()):
    """The run's model as a KerasClassifier, kept for the next call: not to be changed."""
    return kept(run, ("classifier", inner_layers), lambda: new_classifier(run, inner_layers))


def new_classifier(run, inner_layers=()):
    """The run's model as a KerasClassifier of its own; RunError if it cannot be read."""
    settings = run.settings
    return KerasClassifier(
        read_model(run, ADVICE),
        settings.get("features_layer"),
        inner_layers,
        settings.get("input_range", "0..255"),
        settings.get("image_shape"),
    )
