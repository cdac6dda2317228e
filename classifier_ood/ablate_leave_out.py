"""What each ingredient of a leave-out ensemble buys, on its test sets, from one training.

    python -m classifier_ood.ablate_leave_out --run=output/classifier_ood/fashion/leave_out_convnet

The score of the paper, beside it with ODIN's perturbation rule, without a perturbation, with only
one of its two terms, with fewer members, and the maximum softmax of the members' mean. Prints
AUROCs with 95% intervals and writes RUN/report/ablation.csv. Nothing is chosen here: temperature
and epsilon are as given (choose them with `ood_suite.eval --tune`).
"""

from absl import flags

from classifier_ood import ensemble
from ood_suite import intervals, metrics
from ood_suite.app import run_app
from ood_suite.runs import Run, write_csv
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
    """One dict per variant and OOD set: variant, ood, auroc, auroc_low, auroc_high.

    Args:
        run: Run of an ensemble. ood_sets: test sets in place of the run's.
    """
    roles = ensemble.data_sets(run.settings)
    names = ood_sets or [*run.settings["ood_near"], *run.settings["ood_far"]]
    own = _values(run, *roles["id_test"], data_dir, temperature, epsilon)
    rows = []
    for name in names:
        other = _values(run, (name,), "test", data_dir, temperature, epsilon)
        for variant, values in own.items():
            pair = values, other[variant]
            low, high = intervals.auroc_interval(*pair)
            auroc = metrics.auroc(metrics.Counts.of(*pair))
            row = {"variant": variant, "ood": name, "auroc": auroc}
            rows.append(row | {"auroc_low": low, "auroc_high": high})
    return rows


def _values(run, names, split, data_dir, temperature, epsilon):
    """{variant: scores} on one data set."""
    pairs = [(temperature, epsilon)]
    entropy, odin = (
        ensemble.extract(run, names, split, data_dir, pairs, rule=rule)
        for rule in ("entropy", "cross_entropy")
    )
    arrays = odin.member_logits | entropy.member_logits
    common = {"temperature": temperature, "epsilon": epsilon}
    count = ensembles.count_members(arrays)
    found = {
        variant: ensembles.leave_out(arrays, **common | changes)
        for variant, changes in variants(count).items()
    }
    return found | {"MSP of the mean": logits.msp(entropy.logits)}


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
    if "left_out" not in run.settings or "member" in run.settings:
        raise ValueError(f"{FLAGS.run} is no leave-out ensemble.")
    rows = ablate(run, FLAGS.temperature, FLAGS.epsilon, FLAGS.data_dir, FLAGS.ood)
    write_csv(run.folder / "report" / "ablation.csv", rows)
    print(table(rows))


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of a leave-out ensemble.")
    flags.DEFINE_string("checkpoint", "last", "Models of the members: last, best, first.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_float("temperature", 1000.0, "Of the softmax.")
    flags.DEFINE_float("epsilon", 0.002, "Step of the perturbation, in pixels / 255.")
    flags.DEFINE_list("ood", [], "OOD test sets in place of the run's.")
    flags.mark_flag_as_required("run")
    run_app(main)
