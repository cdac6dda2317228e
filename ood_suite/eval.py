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

import dataclasses

from absl import flags

from ood_suite.evaluation.request import Request
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(_):
    from ood_suite.evaluation.evaluate import evaluate  # loads matplotlib, which --help need not

    asked = cli.overrides(Request) | {"checkpoint": cli.checkpoint()}
    request = dataclasses.replace(Request(), **asked)
    evaluate(cli.run_folder(), request, data_dir=cli.data_dir(), out=FLAGS.out)


if __name__ == "__main__":
    cli.define_run("A run folder, or a folder of runs (an experiment's).", checkpoint=False)
    cli.define_ckpt_step()
    cli.define_data_dir("image_data or genomics_data")
    flags.DEFINE_string("out", None, "Folder of the report; default: RUN/report.")
    cli.define_settings(Request)
    cli.run_app(main)
