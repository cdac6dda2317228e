"""Fine-tunes a trained classifier, so that it is a better OOD detector.

    python -m classifier_ood.finetune --run=RUN --um=auto                   # Unleashing Mask
    python -m classifier_ood.finetune --run=RUN --um=0.15 --prune_rate=0.8  # UMAP: learned masks
    python -m classifier_ood.finetune --run=RUN --control                   # the same with plain CE
    python -m classifier_ood.finetune --run=RUN --outliers=DATASET --oe_method=oe [--um=auto]

RUN is a run of classifier_ood.train, .convert or .extract --model. Without outliers the schedule is
Unleashing Mask's (100 epochs of batch 256 from learning rate 0.1), with outliers its outlier
exposure's (10 epochs from 0.01); flags override. What is fine-tuned goes to
RUN_finetuned/NAME/seed<s>, with first, best, last and epoch_<n> models as classifier_ood.train
keeps them (with masks also checkpoints/unmasked.keras, the network before), and
`python -m ood_suite.eval --run=RUN_finetuned/NAME --repeats` evaluates all seeds; --final does so
at once, for first, best and last.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags, logging

from classifier_ood import base_network, configs, train
from classifier_ood.train import check, keeper
from ood_suite import scores
from ood_suite.evaluation.evaluate import evaluate
from ood_suite.files import RunError, atomic_path, locked, write_json
from ood_suite.runs import jobs
from ood_suite.runs.cli import define_setting_flags, flag_overrides, run_app
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS
SAMPLINGS = ("random", "poem")
METHODS = ("oe", "energy", "poem", "doe")


def settings_from_flags():
    """The configs.FineTuning that the flags ask for, and whether um is to be read from a file."""
    if FLAGS.um is None and not FLAGS.control and FLAGS.outliers is None:
        raise ValueError(
            "Say what to do: --um=VALUE or --um=auto (Unleashing Mask), --control (the same "
            "schedule with plain cross entropy), or --outliers=DATASET."
        )
    for name, default in (("scores", ["all"]), ("inner_layers", []), ("tune", False)):
        if not FLAGS.final and FLAGS[name].value != default:
            raise ValueError(f"--{name} is for --final.")
    for name in FLAGS.scores if FLAGS.scores != ["all"] else ():
        scores.get(name)
    if FLAGS.um is not None and FLAGS.control:
        raise ValueError(
            "--control is plain cross entropy and would ignore --um: give one of them."
        )
    preset = configs.FINE_TUNINGS["outlier_exposure" if FLAGS.outliers else "unleashing_mask"]
    overrides = flag_overrides(preset)
    from_file = overrides.get("um") == "auto"
    if "um" in overrides:
        overrides["um"] = 0.0 if from_file else _number(overrides["um"])
    if FLAGS.outliers and not FLAGS.oe_method:
        overrides["oe_method"] = "oe"
    return dataclasses.replace(preset, **overrides), from_file


def _number(text):
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--um must be a number of nats, or auto. Received: {text!r}.") from error


def check_settings(settings):
    """ValueError for settings out of range, or that would ignore each other, naming the flag."""
    from classifier_ood.losses import CONSTRAINTS

    check(settings)
    if not 0.0 <= settings.um < float("inf"):
        raise ValueError(f"--um must be 0 or more, and finite. Received: {settings.um}.")
    if settings.um and settings.label_smoothing:
        raise ValueError("--um constrains the plain cross entropy: --label_smoothing must be 0.")
    if not 0.0 < settings.prune_rate <= 1.0:
        raise ValueError(
            f"--prune_rate is the share of weights KEPT, in (0, 1]. Received: "
            f"{settings.prune_rate}."
        )
    known = {
        "um_constraint": CONSTRAINTS, "oe_method": (None, *METHODS),
        "outlier_sampling": (None, *SAMPLINGS),
    }  # fmt: skip
    for name, values in known.items():
        if getattr(settings, name) not in values:
            value = getattr(settings, name)
            raise ValueError(f"--{name} must be one of {values}. Received: {value!r}.")
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
    if settings.pool_size < 1:
        raise ValueError(f"--pool_size must be positive. Received: {settings.pool_size}.")
    if sampling(settings) == "poem" and settings.eval_every > 1:
        raise ValueError("POEM chooses outliers before each epoch: --eval_every must be 1.")
    weight = settings.outlier_weight
    if weight is not None and not 0.0 < weight < float("inf"):
        raise ValueError(f"--outlier_weight must be positive and finite. Received: {weight}.")
    for name in ("warm_up", "steps_per_epoch"):
        if getattr(settings, name) < 0:
            raise ValueError(f"--{name} must be 0 or more. Received: {getattr(settings, name)}.")


def sampling(settings):
    """How outliers are chosen, "random" or "poem"; None without outliers."""
    if not settings.outliers:
        return None
    return settings.outlier_sampling or ("poem" if settings.oe_method == "poem" else "random")


def _check_effects(settings):
    """ValueError for a setting that is not its default where it has no effect."""
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
    }
    default = configs.FineTuning()
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
        the new Run, which is evaluated like its base.
    """
    import keras

    from ood_suite.training import backend

    check_settings(settings)
    settings = dataclasses.replace(
        settings, augmentation=settings.augmentation or base.settings.get("augmentation", "none")
    )
    backend.set_seed(seed)  # before the network is loaded, whose dropout draws its seeds
    network = base_network.load_network(base)
    sets = base_network.training_data(base, network, data_dir)
    if settings.batch_size > len(sets["training"]):
        raise ValueError(
            f"--batch_size must be at most {len(sets['training'])}, the number of training images. "
            f"Received: {settings.batch_size}."
        )
    earlier = base.config["fingerprints"].items()  # what it was shown stays no test for it
    prints = {name: mark for name, mark in earlier if name.startswith("outliers_")}
    prints |= {f"{s.name}_{s.split}": s.fingerprint for s in sets.values()}
    prints["base_model"] = base_network.model_fingerprint(base)
    outliers = None
    if settings.outliers:
        from classifier_ood import outlier_exposure

        outliers = outlier_exposure.load(settings.outliers, data_dir, network.input_shape[1:], seed)
        prints[f"outliers_{outliers.source.name}"] = outliers.source.fingerprint
    recorded = base.settings | dataclasses.asdict(settings) | {
        "features_layer": None,
        "input_range": "0..255",
        "backend": keras.backend.backend(),
        "strategy": None,  # of the training before
        "base_run": str(base.folder),
        "base_checkpoint": base.checkpoint,
        "repeat_id": seed,
        "random_seed": seed,
    }  # fmt: skip
    if outliers:
        recorded |= outlier_exposure.keep_apart(outliers, base.settings, data_dir)
    tuner = build(network, settings, sets["training"], seed)
    with locked(folder):
        run = Run.open(folder, recorded, base.config["extractor"], prints)
        if run.is_finished:
            logging.info("%s is finished: nothing to do.", folder)
            return run
        _fit(run, tuner, settings, sets, outliers, seed)
    return run


def per_epoch(settings, training):
    return settings.steps_per_epoch or len(training) // settings.batch_size


def build(network, settings, training, seed):
    """The compiled FineTuneModel."""
    from classifier_ood import pruning
    from classifier_ood.classifier_model import CoupledSGD, schedule
    from classifier_ood.finetune_model import FineTuneModel
    from ood_suite.training import backend

    steps = per_epoch(settings, training)
    if settings.prune_rate < 1.0:
        network = pruning.masked(network, settings.prune_rate, seed)
    id_rows = settings.batch_size if settings.outliers else None
    tuner = FineTuneModel(network, settings, settings.um, id_rows, settings.warm_up * steps, seed)
    rate = schedule(
        settings.learning_rate_schedule, settings.learning_rate, settings.epochs, steps
    )  # fmt: skip
    optimizer = CoupledSGD(
        rate, settings.momentum, settings.nesterov, settings.weight_decay,
        global_clipnorm=1.0 if settings.oe_method == "doe" else None,
    )  # fmt: skip
    tuner.compile(optimizer=optimizer, jit_compile=backend.jit_compile())
    tuner.build((None, *network.input_shape[1:]))
    return tuner


def _fit(run, tuner, settings, sets, outliers, seed):
    from classifier_ood import pruning
    from ood_suite.training import fit as trainer

    steps = per_epoch(settings, sets["training"])
    if settings.prune_rate < 1.0:
        with atomic_path(run.folder / "checkpoints" / "unmasked.keras") as temporary:
            pruning.unmask(tuner.backbone).save(temporary)

    def finished_network():
        if settings.prune_rate < 1.0:
            report_masks(run, tuner, sets["held_out"])
        return tuner.network()

    trainer.fit(
        tuner,
        _stream(run, tuner, settings, sets["training"], outliers, seed),
        run,
        total_steps=settings.epochs * steps,
        eval_every=settings.eval_every * steps,
        batch_size=settings.batch_size,
        validation=(sets["held_out"].images, sets["held_out"].labels),
        monitor="accuracy",
        saved=finished_network,
        keep=keeper(run, tuner.network, steps, settings.save_every),
    )


def _stream(run, tuner, settings, training, outliers, seed):
    """function(step) -> batches, for training.fit."""
    from classifier_ood import outlier_exposure, poem
    from ood_suite.training import fit as trainer

    size, steps = settings.batch_size, per_epoch(settings, training)
    if outliers is None:
        return lambda step: trainer.batches([training.images], size, seed, step, training.labels)
    outlier_batch = round(size * settings.outlier_factor)
    count = steps * outlier_batch
    rows_of = outlier_exposure.at_random(outliers, count, seed)
    if sampling(settings) == "poem":
        rows_of = poem.Poem(
            tuner.backbone, outliers, training.images, run.folder / "checkpoints", seed, count,
            settings.pool_size,
        ).rows  # fmt: skip

    def batches(step):
        first = step // steps
        epochs = range(first, min(first + settings.eval_every, settings.epochs))
        # Now, in this thread, between two parts of the training: POEM asks the network.
        rows = {epoch: rows_of(epoch) for epoch in epochs}
        return outlier_exposure.joined_batches(
            training, outliers, size, outlier_batch, seed, rows, steps, step
        )

    return batches


def report_masks(run, tuner, held_out):
    """Writes pruning.json: weights kept per layer, accuracy on held-out data with and without
    masks.
    """
    from classifier_ood import pruning

    accuracies = {}
    for mode, network in (
        ("masked", tuner.network()), ("unmasked", pruning.unmask(tuner.backbone)),
    ):  # fmt: skip
        logits = network.predict(held_out.images, batch_size=100, verbose=0)["logits"]
        accuracies[mode] = float(np.mean(logits.argmax(axis=1) == held_out.labels))
    counts = pruning.kept_counts(tuner.backbone)
    layers = {name: {"kept": kept, "of": size} for name, (kept, size) in counts.items()}
    write_json(run.folder / "pruning.json", {"held_out_accuracy": accuracies, "layers": layers})
    logging.info(
        "Masks keep %d of %d weights. Held-out accuracy with them %.4f, without %.4f "
        "(--checkpoint=unmasked).",
        sum(kept for kept, _ in counts.values()), sum(size for _, size in counts.values()),
        accuracies["masked"], accuracies["unmasked"],
    )  # fmt: skip


def main(_):
    settings, from_file = settings_from_flags()
    engine = jobs.engine_from_flags()
    base = Run.load(FLAGS.run, FLAGS.checkpoint)
    if from_file:
        from classifier_ood import estimate_loss

        estimate = estimate_loss.load(base)
        settings = dataclasses.replace(settings, um=estimate["um"])
        logging.info("um = %.4f nats, from %s.", settings.um, estimate_loss.result_path(base))
    parent = pathlib.Path(FLAGS.out_dir or f"{str(base.folder).rstrip('/')}_finetuned")
    folder = parent / (FLAGS.name or default_name(settings))
    seeds = [int(seed) for seed in FLAGS.seeds]
    if len(set(seeds)) < len(seeds) or min(seeds, default=-1) < 0:
        raise ValueError(f"--seeds must be different, and 0 or more. Received: {FLAGS.seeds}.")
    common = {"base": base, "settings": settings, "data_dir": FLAGS.data_dir}
    listed = [
        jobs.Job(
            f"seed{seed}",
            "classifier_ood.finetune:finetune",
            common | {"seed": seed, "folder": folder / f"seed{seed}"},
        )
        for seed in seeds
    ]
    busy = jobs.run(listed, folder, engine)
    if not FLAGS.final:
        return
    if busy:
        raise RunError(f"--final needs all seeds, and other processes are at {', '.join(busy)}.")
    kept = [
        name
        for name in ("first", "best", "unmasked")
        if (folder / f"seed{seeds[0]}" / "checkpoints" / f"{name}.keras").exists()
    ]
    for checkpoint in (*kept, "last"):
        logging.info("Evaluating %s.", checkpoint)
        evaluate(
            folder, data_dir=FLAGS.data_dir, wanted=FLAGS.scores, tuning=FLAGS.tune,
            checkpoint=checkpoint, inner_layers=FLAGS.inner_layers, repeats=True,
        )  # fmt: skip


HELP = {
    "m_in": "Energy that ID examples should stay below (oe_method energy, poem).",
    "m_out": "Energy that outliers should stay above.",
    "outlier_factor": "Outliers per ID example in a batch.",
    "outlier_weight": "Of the outlier term; default: oe 0.5, energy and poem 0.1, doe 1.",
    "pool_size": "Images that POEM looks at before each epoch.",
    "prune_rate": "Share of each kernel KEPT by learned masks, the weights frozen; 1: no masks.",
    "steps_per_epoch": "Steps that count as an epoch; 0: a pass over the data.",
    "warm_up": "Epochs of DOE with plain outlier exposure.",
}

if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of the classifier to start from.")
    flags.DEFINE_string("checkpoint", "last", "Its model: last, best, first, epoch_<n>.")
    flags.DEFINE_string("um", None, "Loss constraint in nats, or auto (see estimate_loss).")
    flags.DEFINE_bool("control", False, "Plain cross entropy with the same schedule.")
    flags.DEFINE_enum("um_constraint", None, ["batch", "sample", "running"], "Where it acts.")
    flags.DEFINE_string("outliers", None, "Auxiliary OOD data: a data set, npz, folder, tfds:NAME.")
    flags.DEFINE_enum("oe_method", None, METHODS, "Loss on the outliers; default: oe.")
    flags.DEFINE_enum("outlier_sampling", None, SAMPLINGS, "Default: poem for poem, else random.")
    define_setting_flags(configs.FineTuning, HELP | train.HELP, train.CHOICES)
    flags.DEFINE_list("seeds", ["0"], "Independent repeats, one run each.")
    flags.DEFINE_string("name", None, "Name of the runs' folder; default: the method's.")
    flags.DEFINE_string("out_dir", None, "Where it goes; default: RUN_finetuned.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_bool("final", False, "Evaluate first, best and last when all seeds are done.")
    flags.DEFINE_list("scores", ["all"], "Of --final, see ood_suite.eval.")
    flags.DEFINE_list("inner_layers", [], "Of --final: layers for mahalanobis_layers.")
    flags.DEFINE_bool("tune", False, "Of --final: search the grids of the scores.")
    jobs.define_flags()
    flags.adopt_module_key_flags(jobs)
    flags.mark_flag_as_required("run")
    run_app(main)
