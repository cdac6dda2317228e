"""A finished run as a starting point: its network, and the data that it was trained on."""

import numpy as np
from absl import logging

from classifier_ood import extract
from ood_suite import data
from ood_suite.data.streams import TfdsImages
from ood_suite.files import RunError, fingerprint


def model_fingerprint(run):
    return fingerprint(np.frombuffer(run.model_path.read_bytes(), np.uint8))


def load_network(run):
    """The run's network, pixels 0..255 -> {"features", "logits"}, for training.

    Raises:
        RunError: the run has no finished model, or it cannot be read.
    """
    if not run.is_finished:
        raise RunError(
            f"{run.folder} has no finished model to start from. Its command continues it."
        )
    view, settings = extract.new_view(run), run.settings
    outputs = view.model.output
    ours = isinstance(outputs, dict) and {"features", "logits"} <= set(outputs)
    is_plain = settings.get("input_range", "0..255") == "0..255"
    network = view.model if ours and is_plain else view.network
    for layer in network._flatten_layers():
        if getattr(layer, "synchronized", False):  # trained on several devices, goes on on one
            layer.synchronized = False
    return network


def training_data(run, network, data_dir):
    """{"training", "held_out"}: data.ImageSet of a run, checked against its network."""
    shape, classes = network.input_shape[1:], network.output["logits"].shape[1]
    roles, found = extract.data_sets(run.settings), {}
    for role in ("training", "held_out"):
        if role not in roles:
            raise RunError(f"{run.folder} names no {role} ID data (--id_train, --id_val).")
        names, split = roles[role]
        known = data.first_available(names, split, data_dir, shape)
        if known.note:
            logging.info("Data: %s.", known.note)
        if isinstance(known.images, TfdsImages):
            raise ValueError(f"{known.name}: training needs images by number: write them as npz.")
        if known.images.shape[1:] != shape:
            raise ValueError(
                f"The images of {known.name} ({split}) have shape {known.images.shape[1:]}, those "
                f"of the network {shape}."
            )
        if not 0 <= known.labels.min() <= known.labels.max() < classes:
            raise ValueError(
                f"The labels of {known.name} ({split}) lie in {known.labels.min()}.."
                f"{known.labels.max()}, the network has {classes} classes."
            )
        recorded = run.config["fingerprints"].get(f"{known.name}_{split}", known.fingerprint)
        if known.fingerprint != recorded:
            raise RunError(
                f"{known.name} ({split}) is not what {run.folder} was trained with. Give the same "
                "--data_dir."
            )
        found[role] = known
    return found
