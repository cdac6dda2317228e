"""Evaluates a run, or a folder of runs, as an OOD detector.

    python -m ood_suite.eval --run=output/images_ood/fashion_small
    python -m ood_suite.eval --run=output/classifier_ood/fashion/convnet --scores=all --tune

Density models: a folder of runs holds a foreground model and background models (mutation_rate or
reg_weight not 0). The background is chosen by the AUROC of the likelihood ratio on VALIDATION data
(ID and OOD); the test sets choose nothing. Classifiers: every score of the catalogue, with its
default parameters or, with --tune, those of its grid that are best on validation data.

Missing outputs are extracted first. Writes results.csv, results.json, report.html and figures into
RUN/report/.
"""

from absl import flags

from ood_suite import scores
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(_):
    from ood_suite.evaluation.evaluate import evaluate  # loads matplotlib, which --help need not

    evaluate(
        cli.run_folder(),
        data_dir=FLAGS.data_dir,
        wanted=FLAGS.scores,
        tuning=FLAGS.tune,
        checkpoint=FLAGS.checkpoint,
        inner_layers=FLAGS.inner_layers,
        near=FLAGS.ood_near,
        far=FLAGS.ood_far,
        baseline=FLAGS.baseline,
        repeats=FLAGS.repeats,
        allow_overlap=FLAGS.allow_overlap,
        resamples=FLAGS.resamples,
        out=FLAGS.out,
    )


if __name__ == "__main__":
    cli.define_run("A run folder, or a folder of runs (an experiment's).")
    cli.define_data_dir("image_data or genomics_data")
    flags.DEFINE_list(
        "scores",
        ["all"],
        f"Scores: all, or some of {', '.join(scores.SCORES)}; and compositions such as "
        f"react+energy, of the shapers {', '.join(scores.SHAPERS)}.",
    )
    flags.DEFINE_bool("tune", False, "Search each score's grid on validation OOD (classifiers).")
    flags.DEFINE_list("inner_layers", [], "Layers of a classifier for mahalanobis_layers.")
    flags.DEFINE_list("ood_near", [], "OOD test sets near to the ID set, in place of the run's.")
    flags.DEFINE_list("ood_far", [], "OOD test sets far from the ID set, in place of the run's.")
    flags.DEFINE_string(
        "baseline",
        None,
        "Score that the others are compared with, pair by pair; default: likelihood, or msp.",
    )
    flags.DEFINE_bool(
        "repeats", False, "Evaluate all repeats; adds their mean and standard deviation."
    )
    flags.DEFINE_bool("allow_overlap", False, "Accept OOD sets that share examples with ID data.")
    flags.DEFINE_integer(
        "resamples", 1000, "Bootstrap resamples behind the intervals.", lower_bound=10
    )
    flags.DEFINE_string("out", None, "Folder of the report; default: RUN/report.")
    cli.run_app(main)
