"""What each ingredient of a leave-out ensemble buys, on its test sets, from one training.

    python -m classifier_ood.ablate_leave_out --run=output/classifier_ood/fashion/leave_out_convnet

The score of the paper, beside it with ODIN's perturbation rule, without a perturbation, with only
one of its two terms, with fewer members, and the maximum softmax of the members' mean. Prints
AUROCs with 95% intervals and writes all metrics to RUN/report/ablation.csv (of a checkpoint, to
report_<checkpoint>). Nothing is chosen here: temperature and epsilon are as given (choose them with
`ood_suite.eval --tune`).
"""

from absl import flags, logging

from classifier_ood import ensemble
from ood_suite import intervals, metrics
from ood_suite.evaluation.classifier import Classifier
from ood_suite.evaluation.evaluate import data_notes
from ood_suite.evaluation.groups import Group
from ood_suite.evaluation.overlap import refuse_overlap
from ood_suite.files import write_csv
from ood_suite.runs.cli import run_app
from ood_suite.runs.run import Run
from ood_suite.scores import ensembles, logits

FLAGS = flags.FLAGS


def variants(count):
    """{what: changes to the parameters of leave_out} for an ensemble of `count` members."""
    fewer = {f"{k} of {count} members": {"members": k} for k in range(1, count)}
    return {
        "leave_out": {},
        "with ODIN's rule": {"rule": "cross_entropy"},
        "without perturbation": {"epsilon": 0.0},
        "confidence only": {"terms": "confidence"},
        "entropy only": {"terms": "entropy"},
        **fewer,
    }


def ablate(run, temperature, epsilon, data_dir=None, ood_sets=()):
    """One dict per variant and OOD set: variant, ood, what it was made with, and all metrics, the
    AUROC with its interval.

    Args:
        run: Run of an ensemble. ood_sets: test sets in place of the run's.

    Raises:
        ValueError: parameters out of range, or OOD sets that share examples with what the run was
            made with.
    """
    step = {"temperature": temperature, "epsilon": epsilon}
    ensembles.check_step(**step)
    group, wanted = Group(0, run, []), list(ensemble.PERTURBED)
    material = Classifier(group, ensemble, data_dir, wanted, False, (), (), tuple(ood_sets))
    id_test, tests = material.tests({name: step for name in wanted})
    notes = refuse_overlap(material, id_test, tests, allowed=False)
    for note in data_notes([id_test, *tests.values()]) + notes:
        logging.info("Note: %s.", note)
    rows, own = [], _values(id_test, step)
    common = step | {"checkpoint": run.checkpoint, "num_id": len(id_test)}
    for name, outputs in tests.items():
        for variant, values in _values(outputs, step).items():
            pair = own[variant], values
            low, high = intervals.auroc_interval(*pair)
            row = {"variant": variant, "ood": name} | common | {"num_ood": len(outputs)}
            found = metrics.evaluate(*pair)
            rows.append(row | found | {"auroc_low": low, "auroc_high": high})
    return rows


def _values(outputs, step):
    """{variant: scores} of an ensemble's Outputs."""
    arrays = outputs.member_logits
    found = {
        variant: ensembles.leave_out(arrays, **step | changes)
        for variant, changes in variants(ensembles.count_members(arrays)).items()
    }
    return found | {"MSP of the mean": logits.msp(outputs.logits)}


def table(rows):
    """The rows as text, variants by OOD sets."""
    sets = list(dict.fromkeys(row["ood"] for row in rows))
    lines = [f"{'AUROC':<24}" + "".join(f"{ood:>24}" for ood in sets)]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells = [
            f"{row['auroc']:.4f} [{row['auroc_low']:.3f}, {row['auroc_high']:.3f}]"
            for row in rows
            if row["variant"] == variant
        ]
        lines.append(f"{variant:<24}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def main(_):
    run = Run.load(FLAGS.run, FLAGS.checkpoint)
    if not run.parts:
        raise ValueError(f"{FLAGS.run} is no leave-out ensemble.")
    rows = ablate(run, FLAGS.temperature, FLAGS.epsilon, FLAGS.data_dir, FLAGS.ood)
    suffix = "" if FLAGS.checkpoint == "last" else f"_{FLAGS.checkpoint}"
    write_csv(run.folder / f"report{suffix}" / "ablation.csv", rows)
    print(table(rows))


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of a leave-out ensemble.")
    flags.DEFINE_string("checkpoint", "last", "Of the members: last, best, first, epoch_<n>.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_float("temperature", 1000.0, "Of the softmax.")
    flags.DEFINE_float("epsilon", 0.002, "Step of the perturbation, in pixels / 255.")
    flags.DEFINE_list("ood", [], "OOD test sets in place of the run's.")
    flags.mark_flag_as_required("run")
    run_app(main)
