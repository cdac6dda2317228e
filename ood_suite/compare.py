"""Compares evaluated runs: one score of many runs, or several scores, side by side.

    python -m ood_suite.compare --reports=A/report,B/report,C/report_best --scores=energy --out=DIR

Each report is a folder that `ood_suite.eval` wrote. The first one is the baseline: the difference
of the AUROCs is that on the same test examples, with its interval (DeLong), or with several repeats
their mean and standard deviation, and the p value of Student's paired test where both have several.
OOD sets that not all have are left out. Of three or more on at least two blocks (OOD sets in each
repeat) their ranks are compared too: Friedman's test, Conover's pairs, Holm's correction. Writes
comparison.html (one page, figures in it), comparison.md, comparison.csv, comparison.json and the
figures.
"""

import pathlib

from absl import flags

from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(_):
    if not FLAGS.scores:
        raise ValueError("--scores is empty.")
    # Loads matplotlib, which --help need not.
    from ood_suite import scores
    from ood_suite.evaluation import comparison, comparison_page

    found = comparison.read(FLAGS.reports, scores.read(FLAGS.scores))
    print(comparison_page.write(pathlib.Path(FLAGS.out), *found))
    print(f"The page: {FLAGS.out}/comparison.html")


if __name__ == "__main__":
    flags.DEFINE_list("reports", None, "Report folders; the first is the baseline.")
    flags.DEFINE_list("scores", ["energy"], "Scores to compare.")
    flags.DEFINE_string("out", "output/comparison", "Folder of what is written.")
    flags.mark_flag_as_required("reports")
    cli.run_app(main)
