"""The loss constraint of Unleashing Mask, estimated from randomly masked weights.

A mask sets a random 1 - KEPT of every convolution's and the Dense layer's kernel to 0. The estimate
is the mean cross entropy of the masked network on the ID training set, averaged over masks: in
evaluation mode and without augmentation, or in training conditions as fine-tuning sees it
(augmented images, dropout, BatchNorm's statistics of each batch).

The released code draws a single mask without a seed, evaluates on augmented images, and prints the
number for the user to copy.
"""

import dataclasses

import keras
import numpy as np
from absl import logging

from classifier_ood import base_network, pruning
from classifier_ood.classifier_model import CropFlip, cross_entropy
from classifier_ood.copies import leaves
from ood_suite.files import RunError, read_json, write_json
from ood_suite.progress import progress
from ood_suite.runs.settings import check


def result_path(run):
    suffix = "" if run.checkpoint == "last" else f"_{run.checkpoint}"
    return run.folder / f"loss_constraint{suffix}.json"


def estimate(run, settings, data_dir=None):
    """The estimate of a finished run, a dict, which is also written into the run.

    Args:
        settings: configs.Estimate.

    Returns:
        {"um": mean over masks of the mean cross entropy in nats, "std": over masks (0 for one),
        "losses": of each mask, "unmasked": of the network as it is, "made_with": ...}.
    """
    check(settings)
    network = base_network.load_network(run)
    training = base_network.training_data(run, network, data_dir)["training"]
    count = min(settings.images or len(training), len(training))
    rows = np.random.default_rng([settings.seed, 0]).permutation(len(training))[:count]
    made_with = dataclasses.asdict(settings) | {
        "images": count,
        "training_fingerprint": training.fingerprint,
        "model_fingerprint": base_network.model_fingerprint(run),
    }
    path, partial = result_path(run), result_path(run).with_suffix(".partial.json")
    found = read_json(path) if path.exists() else {}
    if found.get("made_with") == made_with:
        logging.info("%s has this estimate already.", path)
        return found
    begun = read_json(partial) if partial.exists() else {}
    losses = begun["losses"] if begun.get("made_with") == made_with else []
    original = network.get_weights()
    evaluate = _evaluator(run, network, training, rows, settings)
    unmasked = evaluate("no mask", 0)
    for number in range(len(losses) + 1, settings.masks + 1):
        network.set_weights(original)
        pruning.mask_at_random(
            network, settings.kept, np.random.default_rng([settings.seed, number])
        )
        losses.append(evaluate(f"mask {number} of {settings.masks}", number))
        write_json(partial, {"made_with": made_with, "losses": losses})  # goes on after a kill
    result = {
        "um": float(np.mean(losses)),
        "std": float(np.std(losses, ddof=1)) if len(losses) > 1 else 0.0,
        "losses": losses,
        "unmasked": unmasked,
        "made_with": made_with,
    }
    write_json(path, result)
    partial.unlink()
    return result


def load(run):
    """The estimate on file of a run's model; RunError if there is none, or of another model."""
    path = result_path(run)
    command = f"python -m classifier_ood.estimate_loss --run={run.folder}"
    command += "" if run.checkpoint == "last" else f" --checkpoint={run.checkpoint}"
    found = read_json(path) if path.exists() else {}
    if not found:
        raise RunError(f"--um=auto needs {path}. To make it: {command}")
    if found["made_with"]["model_fingerprint"] != base_network.model_fingerprint(run):
        raise RunError(
            f"{path} is of another model than {run.model_path}. Make it again: {command}"
        )
    return found


def _evaluator(run, network, training, rows, settings):
    """function(title, number) -> mean cross entropy of the network with the weights it has."""
    size, augment = settings.batch_size, None
    model, rows = network, np.sort(rows)
    if settings.conditions == "training":
        augment = CropFlip(run.settings.get("augmentation", "none"), settings.seed)

        class InTraining(keras.Model):  # a functional model would be called for inference
            def __init__(self):
                super().__init__()
                self.parts = [augment, network]  # variables that are not the model's are constants

            def call(self, images):
                return network(augment(images, training=True), training=True)

        model = InTraining()
        # In random order and whole batches only, as in training: BatchNorm sees the batches.
        rows = np.random.default_rng([settings.seed, 0, 1]).permutation(rows)
        rows = rows[: len(rows) // size * size]
        if not len(rows):
            raise ValueError(
                f"--batch_size must be at most the number of images. Received: {size}."
            )

    states = _random_states([*leaves(network), *filter(None, [augment])], network)

    def evaluate(title, number):
        seed = (1000 * settings.seed + number) % 2**32
        for place, state in states.items():  # each mask has its own dropout and crops
            state.assign(np.uint32([seed, place]))
        total = 0.0
        starts = range(0, len(rows), size)
        for start in progress(starts, desc=title, unit="batch"):
            batch = rows[start : start + size]
            logits = model.predict_on_batch(training.images[batch])["logits"]
            total += float(np.sum(cross_entropy(logits, training.labels[batch])))
        return total / len(rows)

    return evaluate


def _random_states(layers, network):
    """{place: variable} of the random layers, and behind them of all else in the network that is
    random: flips and rotations of Keras, the dropout within attention.
    """
    found = {
        k: x.seed_generator.state for k, x in enumerate(layers) if hasattr(x, "seed_generator")
    }
    known = {id(variable) for variable in (*found.values(), *network.weights)}
    others = [variable for variable in network.variables if id(variable) not in known]
    return found | dict(enumerate(others, start=len(layers)))
