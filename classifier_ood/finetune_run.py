"""Runs of fine-tuning: a trained classifier is trained on in a run folder of its own, so that it is
a better OOD detector.
"""

import dataclasses
import pathlib

import keras
import numpy as np
from absl import logging

from classifier_ood import base_network, outlier_exposure, poem, pruning
from classifier_ood.classifier_model import PAD
from classifier_ood.classifier_run import check_settings as check_training
from classifier_ood.classifier_run import compile_model, keeper
from classifier_ood.configs import FineTuning
from classifier_ood.copies import in_precision, leaves, precision
from classifier_ood.finetune_model import FineTuneModel
from ood_suite.files import RunError, atomic_path, fingerprint, read_json, write_json
from ood_suite.runs.run import opened
from ood_suite.training import backend, devices
from ood_suite.training.fit import batches, fit


def check_settings(settings):
    """Refuses settings out of range, or that would ignore each other, by the flag's name."""
    check_training(settings)
    if settings.um and settings.label_smoothing:
        raise ValueError("--um constrains the plain cross entropy: --label_smoothing must be 0.")
    if bool(settings.outliers) != bool(settings.oe_method):
        raise ValueError("--oe_method and --outliers need each other.")
    _check_effects(settings)
    if settings.oe_method == "doe" and settings.prune_rate < 1.0:
        raise ValueError("--oe_method=doe changes weights, which --prune_rate < 1 freezes.")
    if settings.oe_method == "doe" and not settings.warm_up < settings.epochs:
        raise ValueError(
            f"--warm_up must be less than --epochs ({settings.epochs}), or DOE never searches. "
            f"Received: {settings.warm_up}."
        )
    if not -float("inf") < settings.m_in < settings.m_out < float("inf"):
        raise ValueError(
            f"--m_in must be less than --m_out. Received: {settings.m_in} and {settings.m_out}."
        )
    if not 1 <= settings.outlier_factor * settings.batch_size < float("inf"):
        raise ValueError(
            "--outlier_factor must give 1 outlier a batch at least. Received: "
            f"{settings.outlier_factor}."
        )
    if settings.strategy and (sampling(settings) == "poem" or settings.oe_method == "doe"):
        raise ValueError(
            "POEM asks the network between two steps, and DOE changes it within one: no --strategy "
            "with them."
        )
    if sampling(settings) == "poem" and settings.eval_every > 1:
        raise ValueError("POEM chooses outliers before each epoch: --eval_every must be 1.")


def sampling(settings):
    """How outliers are chosen, "random" or "poem"; None without outliers."""
    if not settings.outliers:
        return None
    return settings.outlier_sampling or ("poem" if settings.oe_method == "poem" else "random")


def _check_effects(settings):
    """Refuses a setting that is not its default where it has no effect (ValueError)."""
    has_margins = settings.oe_method in ("energy", "poem")
    effective = {
        "um_constraint": settings.um > 0.0,
        "outlier_sampling": bool(settings.outliers),
        "outlier_factor": bool(settings.outliers),
        "outlier_weight": bool(settings.outliers),
        "m_in": has_margins,
        "m_out": has_margins,
        "pool_size": sampling(settings) == "poem",
        "warm_up": settings.oe_method == "doe",
        "doe_direction": settings.oe_method == "doe",
    }
    default = FineTuning()
    for name, is_effective in effective.items():
        if not is_effective and getattr(settings, name) != getattr(default, name):
            raise ValueError(f"--{name} has no effect here: leave it out.")


def default_name(settings):
    """um, umap, control, oe, oe_um, ...: what a run is called."""
    constraint = "um" if settings.um else ""
    if settings.prune_rate < 1.0:
        constraint = "umap" if settings.um else "masks"
    method = {"energy": "energy_oe"}.get(settings.oe_method, settings.oe_method)
    return "_".join(filter(None, [method, constraint])) or "control"


def finetune(base, settings, seed, folder, data_dir=None):
    """Fine-tunes the network of a run in `folder`, or continues that, or finds it finished.

    Args:
        base: Run of the trained classifier. settings: configs.FineTuning.

    Returns:
        the new Run, which is evaluated like its base, but always by the features of its head.
    """
    check_settings(settings)
    settings = dataclasses.replace(
        settings, augmentation=settings.augmentation or base.settings.get("augmentation", "none")
    )
    with devices.scope(settings.strategy, settings.batch_size):
        return _finetune(base, settings, seed, folder, data_dir)


def _finetune(base, settings, seed, folder, data_dir):
    # Stage 1: the network, its data and the outliers, checked before a folder is made.
    backend.set_seed(seed)  # before the network is loaded, whose dropout draws its seeds
    network = base_network.load_network(base)
    if settings.dtype:
        network = in_precision(network, settings.dtype)
    _say_what_differs(base, network, settings)
    sets = base_network.training_data(base, network, data_dir)
    if settings.batch_size > len(sets["training"]):
        raise ValueError(
            f"--batch_size must be at most {len(sets['training'])}, the number of training images. "
            f"Received: {settings.batch_size}."
        )
    recorded = base.settings | dataclasses.asdict(settings) | {
        "features_layer": None,
        "input_range": "0..255",
        "backend": keras.backend.backend(),
        "normalization": None,  # this and the next: of the training before
        "temperature": None,
        "dtype": (settings.dtype or base.settings.get("dtype")) and precision(network),
        "base_run": str(base.folder),
        "base_checkpoint": base.checkpoint,
        "repeat_id": seed,
        "random_seed": seed,
    }  # fmt: skip
    earlier = base.config["fingerprints"].items()  # what it was shown stays no test for it
    prints = {name: mark for name, mark in earlier if name.startswith("outliers_")}
    prints |= {f"{s.name}_{s.split}": s.fingerprint for s in sets.values()}
    prints["base_model"] = base_network.model_fingerprint(base)
    outliers = None
    if settings.outliers:
        outliers = outlier_exposure.load(settings.outliers, data_dir, network.input_shape[1:], seed)
        prints[f"outliers_{outliers.source.name}"] = outliers.source.fingerprint
        recorded |= outlier_exposure.keep_apart(outliers, base, data_dir)
        if not _is_silent(folder, f"outliers_{outliers.source.name}", "kept_outliers"):
            prints["kept_outliers"] = fingerprint(outliers.rows)  # by the test sets that are there

    # Stage 2: the run folder, which may be finished or begun.
    model = build(network, settings, sets["training"], seed)
    with opened(
        folder,
        kind="classifier",
        extractor=base.config["extractor"],
        settings=recorded,
        fingerprints=prints,
        data_dir=data_dir,
    ) as run:
        if not run.is_finished:
            _fit(run, model, settings, sets, outliers, seed)
    return run


def _is_silent(folder, known, name):
    """Whether a folder holds a run of an earlier release: with the fingerprint `known`, without
    that of this name.
    """
    path = pathlib.Path(folder) / "config.json"
    config = read_json(path) if path.exists() else {}
    marks = config.get("fingerprints", {}) if isinstance(config, dict) else {}
    return known in marks and name not in marks


def _say_what_differs(base, network, settings):
    """Warns of what a fine-tuned network does not take over; RunError if all of it is frozen."""
    if not network.trainable_weights:
        raise RunError(
            f"All layers of {base.folder} are frozen. Set model.trainable = True, save the model "
            "and make a run of it anew."
        )
    kernels = [layer for layer in leaves(network) if getattr(layer, "kernel", None) is not None]
    frozen = [layer.name for layer in kernels if not layer.trainable]
    if frozen and settings.prune_rate == 1.0:
        logging.warning(
            "%d of %d layers with kernels are frozen, as they were saved, and stay so: %s, ...",
            len(frozen), len(kernels), frozen[0],
        )  # fmt: skip
    if name := base.settings.get("features_layer"):
        logging.warning("The features of %s are %s's, the new ones those of the head: scores of "
                        "features differ by that too.", base.folder, name)  # fmt: skip
    if settings.outliers and "crop" not in settings.augmentation:
        logging.warning(
            "Outliers are shifted by up to %d pixels, zeros moving in, and ID images are not: the "
            "network can learn to tell them by their borders. Give --augmentation=crop_flip unless "
            "the ID images' own borders are black.", PAD,
        )  # fmt: skip


def per_epoch(settings, training):
    return settings.steps_per_epoch or len(training) // settings.batch_size


def build(network, settings, training, seed):
    """The compiled FineTuneModel."""
    steps = per_epoch(settings, training)
    if settings.prune_rate < 1.0:
        network = pruning.masked(network, settings.prune_rate, seed)
    id_rows = settings.batch_size if settings.outliers else None
    model = FineTuneModel(
        network,
        settings,
        um=settings.um,
        id_rows=id_rows,
        warm_up=settings.warm_up * steps,
        seed=seed,
    )
    clip = 1.0 if settings.oe_method == "doe" else None
    compile_model(model, settings, steps, global_clipnorm=clip)
    model.build((None, *network.input_shape[1:]))
    return model


def _fit(run, model, settings, sets, outliers, seed):
    steps = per_epoch(settings, sets["training"])
    if settings.prune_rate < 1.0:
        with atomic_path(run.folder / "checkpoints" / "unmasked.keras") as temporary:
            devices.save(model.kept(pruning.unmask(model.backbone)), temporary)

    def finished_network():
        if settings.prune_rate < 1.0:
            report_masks(run, model, sets["held_out"])
        return model.network()

    fit(
        model,
        _stream(run, model, settings, sets["training"], outliers, seed),
        run,
        total_steps=settings.epochs * steps,
        eval_every=settings.eval_every * steps,
        batch_size=settings.batch_size,
        validation=(sets["held_out"].images, sets["held_out"].labels),
        monitor="accuracy",
        saved=finished_network,
        keep=keeper(run, model.network, steps, settings.save_every),
    )


def _stream(run, model, settings, training, outliers, seed):
    """function(step) -> batches, for training.fit."""
    size, steps = settings.batch_size, per_epoch(settings, training)
    if outliers is None:
        return lambda step: batches([training.images], size, seed, step, training.labels)
    outlier_batch = round(size * settings.outlier_factor)
    count = steps * outlier_batch
    rows_of = outlier_exposure.at_random(outliers, count, seed)
    if sampling(settings) == "poem":
        rows_of = poem.Poem(
            model.backbone, outliers, training.images, run.folder / "checkpoints", seed=seed,
            count=count, pool_size=settings.pool_size,
        ).rows  # fmt: skip

    order = devices.shared_out(size, outlier_batch)

    def joined(step):
        first = step // steps
        epochs = range(first, min(first + settings.eval_every, settings.epochs))
        # Now, in this thread, between two parts of the training: POEM asks the network.
        rows = {epoch: rows_of(epoch) for epoch in epochs}
        found = outlier_exposure.joined_batches(
            training, outliers, step, batch_size=size, outlier_batch=outlier_batch, seed=seed,
            rows=rows, per_epoch=steps,
        )  # fmt: skip
        return ((images[order], labels[order]) for images, labels in found)

    return joined


def report_masks(run, model, held_out):
    """Writes pruning.json: weights kept per layer, accuracy on held-out data with and without
    masks.
    """
    accuracies = {}
    for mode, network in (
        ("masked", model.network()), ("unmasked", model.kept(pruning.unmask(model.backbone))),
    ):  # fmt: skip
        found = backend.in_batches(backend.inference(network), held_out.images, 100)
        accuracies[mode] = float(np.mean(found["logits"].argmax(axis=1) == held_out.labels))
    counts = pruning.kept_counts(model.backbone)
    layers = {name: {"kept": kept, "of": size} for name, (kept, size) in counts.items()}
    write_json(run.folder / "pruning.json", {"held_out_accuracy": accuracies, "layers": layers})
    logging.info(
        "Masks keep %d of %d weights. Held-out accuracy with them %.4f, without %.4f "
        "(--checkpoint=unmasked).",
        sum(kept for kept, _ in counts.values()), sum(size for _, size in counts.values()),
        accuracies["masked"], accuracies["unmasked"],
    )  # fmt: skip
