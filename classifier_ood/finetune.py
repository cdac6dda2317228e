"""Fine-tunes a trained classifier, so that it is a better OOD detector.

    python -m classifier_ood.finetune --run=RUN --um=auto                   # Unleashing Mask
    python -m classifier_ood.finetune --run=RUN --um=0.15 --prune_rate=0.8  # UMAP: learned masks
    python -m classifier_ood.finetune --run=RUN --control                   # the same with plain CE
    python -m classifier_ood.finetune --run=RUN --outliers=DATASET --oe_method=oe [--um=auto]

RUN is a run of classifier_ood.train, .convert or .own_model. Without outliers the schedule is
Unleashing Mask's (100 epochs of batch 256 from learning rate 0.1), with outliers its outlier
exposure's (10 epochs from 0.01); flags override. What is fine-tuned goes to
RUN_finetuned/NAME/seed<s>, with first, best, last and epoch_<n> models as classifier_ood.train
keeps them (with masks also checkpoints/unmasked.keras, the network before), and
`python -m ood_suite.eval --run=RUN_finetuned/NAME --repeats` evaluates all seeds; --final does so
at once, for first, best and last.
"""

import dataclasses
import pathlib

from absl import flags, logging

from classifier_ood import configs
from ood_suite import scores
from ood_suite.evaluation.request import Request
from ood_suite.files import RunError
from ood_suite.optional import quietly
from ood_suite.runs import cli, jobs
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS
OF_FINAL = (  # what can be asked of the evaluation at the end
    "scores", "inner_layers", "tune", "ood_near", "ood_far", "ood_validation", "baseline",
)  # fmt: skip


def settings_from_flags():
    """The configs.FineTuning that the flags ask for, and whether um is to be read from a file."""
    if FLAGS.um is None and not FLAGS.control and FLAGS.outliers is None:
        raise ValueError(
            "Say what to do: --um=VALUE or --um=auto (Unleashing Mask), --control (the same "
            "schedule with plain cross entropy), or --outliers=DATASET."
        )
    asked = {name for name in OF_FINAL if FLAGS[name].value is not None}
    if asked and not FLAGS.final:
        raise ValueError(f"--{min(asked)} is for --final.")
    for name in scores.read(FLAGS.scores or ()):
        if name != "all":
            scores.get(name)
    if FLAGS.um is not None and FLAGS.control:
        raise ValueError(
            "--control is plain cross entropy and would ignore --um: give one of them."
        )
    preset = configs.FINE_TUNINGS["outlier_exposure" if FLAGS.outliers else "unleashing_mask"]
    changes, from_file = cli.overrides(preset), FLAGS.um == "auto"
    if FLAGS.um is not None:
        changes["um"] = 0.0 if from_file else _number(FLAGS.um)
    if FLAGS.outliers and not FLAGS.oe_method:
        changes["oe_method"] = "oe"
    return dataclasses.replace(preset, **changes), from_file


def _number(text):
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--um must be a number of nats, or auto. Received: {text!r}.") from error


def main(_):
    settings, from_file = settings_from_flags()
    engine = cli.engine()
    base = Run.load(cli.run_folder(), FLAGS.checkpoint)
    seeds = cli.numbers("seeds", int)
    if len(seeds) < len(FLAGS.seeds) or min(seeds, default=-1) < 0:
        raise ValueError(f"--seeds must be different, and 0 or more. Received: {FLAGS.seeds}.")
    with quietly():  # not at the top: --help need not wait for Keras
        from classifier_ood import finetune_run, loss_constraint

    if from_file:
        estimate = loss_constraint.load(base)
        settings = dataclasses.replace(settings, um=estimate["um"])
        logging.info("um = %.4f nats, from %s.", settings.um, loss_constraint.result_path(base))
    if FLAGS.final:
        check_final(base, settings.outliers)
    whole = base.folder.resolve() if base.folder.name in ("", "..") else base.folder
    parent = pathlib.Path(FLAGS.out_dir or f"{whole}_finetuned")
    folder = parent / (FLAGS.name or finetune_run.default_name(settings))
    common = {"base": base, "settings": settings, "data_dir": cli.data_dir()}
    listed = [
        jobs.Job(
            f"seed{seed}",
            "classifier_ood.finetune_run:finetune",
            common | {"seed": seed, "folder": folder / f"seed{seed}"},
        )
        for seed in seeds
    ]
    busy = jobs.run(listed, folder, engine)
    if FLAGS.final:
        if busy:
            raise RunError(
                f"--final needs all seeds, and other processes are training {', '.join(busy)}."
            )
        evaluate_final(folder, folder / f"seed{seeds[0]}")


def check_final(base, outliers):
    """Opens the test sets of the evaluation at the end, before anything is trained."""
    from ood_suite.evaluation.overlap import require_separate

    request = Request(**cli.overrides(Request))
    asked = (*request.ood_near, *request.ood_far)
    if outliers and outliers in asked:
        raise ValueError(f"{outliers} is trained on (--outliers): it can be no OOD test set.")
    require_separate(base, request, request.tune, cli.data_dir())
    if outliers and asked:
        refuse_shared(base, outliers, asked, cli.data_dir())


def refuse_shared(base, outliers, asked, data_dir):
    """Refuses test sets that share images with what is trained on: the outliers without ID images
    and those of the base's own test sets (ValueError).
    """
    from classifier_ood import extract, outlier_exposure
    from ood_suite import data

    shape = extract.new_classifier(base).image_shape
    pool = outlier_exposure.load(outliers, data_dir, shape, 0)
    outlier_exposure.keep_apart(pool, base, data_dir)
    for name in asked:
        try:
            shared = pool.shared_with(data.load(name, "test", data_dir, shape))
        except FileNotFoundError:
            continue  # a note of the report
        if count := int(shared[pool.rows].sum()):
            raise ValueError(
                f"{count} of the outliers of {outliers} are in {name} too, which could be no test "
                "of what is trained on them. Take them out of one of the two."
            )


def evaluate_final(folder, first):
    """Evaluates all seeds below a folder: first, best, with masks unmasked, and last."""
    from ood_suite.evaluation.evaluate import evaluate

    kept = [
        name
        for name in ("first", "best", "unmasked")
        if (first / "checkpoints" / f"{name}.keras").exists()
    ]
    for checkpoint in (*kept, "last"):
        logging.info("Evaluating %s.", checkpoint)
        asked = cli.overrides(Request) | {"checkpoint": checkpoint, "repeats": True}
        evaluate(folder, Request(**asked), data_dir=cli.data_dir())


if __name__ == "__main__":
    cli.define_run("Run folder of the classifier to start from.")
    flags.DEFINE_string("um", None, "Loss constraint in nats, or auto (see estimate_loss).")
    flags.DEFINE_bool("control", False, "Plain cross entropy with the same schedule.")
    cli.define_settings(configs.FineTuning, without=("um",))
    flags.DEFINE_list("seeds", ["0"], "Independent repeats, one run each.")
    cli.define_name(None, "Name of the runs' folder; default: the method's.")
    flags.DEFINE_string("out_dir", None, "Where it goes; default: RUN_finetuned.")
    cli.define_data_dir("image_data")
    flags.DEFINE_bool("final", False, "Evaluate first, best, unmasked and last when all are done.")
    others = {field.name for field in dataclasses.fields(Request)} - set(OF_FINAL)
    cli.define_settings(Request, without=others)
    cli.define_settings(jobs.Engine)
    cli.run_app(main)
