"""A finished run as a starting point: its network, and the data that it was trained on."""

import numpy as np
from absl import logging

from classifier_ood import extract
from ood_suite import data
from ood_suite.data.streams import TfdsImages
from ood_suite.files import RunError, fingerprint
from ood_suite.training import devices


def model_fingerprint(run):
    return fingerprint(np.frombuffer(run.model_path.read_bytes(), np.uint8))


def load_network(run):
    """The run's network, pixels 0..255 -> {"features", "logits"}, for training.

    Raises:
        RunError: it is no single classifier, has no finished model, or that cannot be read.
    """
    if run.kind != "classifier":
        raise RunError(f"{run.folder} is no single classifier. Received: a run of kind {run.kind}.")
    run.require_finished()
    classifier = extract.new_classifier(run)
    ours = classifier.gives_logits and "features" in classifier.model.output
    is_plain = run.settings.get("input_range", "0..255") == "0..255"
    network = classifier.model if ours and is_plain else classifier.network
    devices.synchronize(network)
    return network


def training_data(run, network, data_dir):
    """{"training", "held_out"}: data.ImageSet of a run, checked against its network."""
    shape, classes = network.input_shape[1:], network.output["logits"].shape[1]
    roles, sets = run.roles, {}
    for role in ("training", "held_out"):
        if role not in roles:
            raise RunError(f"{run.folder} names no {role} ID data (--id_train, --id_val).")
        split = roles[role].split
        source = data.first_available(roles[role].names, split, data_dir, shape)
        if source.note:
            logging.info("Data: %s.", source.note)
        if isinstance(source.images, TfdsImages):
            raise ValueError(f"{source.name}: training needs images by number: write them as npz.")
        if source.images.shape[1:] != shape:
            raise ValueError(
                f"The images of {source.name} ({split}) have shape {source.images.shape[1:]}, "
                f"those of the network {shape}."
            )
        if not 0 <= source.labels.min() <= source.labels.max() < classes:
            raise ValueError(
                f"The labels of {source.name} ({split}) lie in {source.labels.min()}.."
                f"{source.labels.max()}, the network has {classes} classes."
            )
        recorded = run.config["fingerprints"].get(f"{source.name}_{split}", source.fingerprint)
        if source.fingerprint != recorded:
            raise RunError(
                f"{source.name} ({split}) is not what {run.folder} was trained with. Give the same "
                "--data_dir."
            )
        sets[role] = source
    return sets
