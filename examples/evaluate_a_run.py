"""Train a classifier in a run folder, evaluate it, and read what came out.

    python examples/evaluate_a_run.py

The same as `python -m classifier_ood.train --exp=fashion ...` and `python -m ood_suite.eval ...`.
"""

import dataclasses

from classifier_ood import classifier_run, configs
from ood_suite.evaluation.evaluate import evaluate
from ood_suite.evaluation.request import Request
from ood_suite.files import read_csv

experiment = dataclasses.replace(
    configs.EXPERIMENTS["fashion"], options={"width": 4}, epochs=1, batch_size=100
)
# Started again, this finds the run finished, or goes on where it was killed.
run = classifier_run.train(experiment, "fashion", "output/examples")

request = Request(scores=("msp", "energy", "knn", "vim", "mahalanobis"), resamples=200)
[report] = evaluate(run.folder, request)

best = max((row for row in report.rows if row["ood"] == "mnist"), key=lambda row: row["auroc"])
print(f"Best against digits: {best['score']}, AUROC {best['auroc']:.3f}.")
rows = read_csv(run.folder / "report/results.csv")
print(f"{len(rows)} rows, with intervals: {run.folder}/report/results.csv, report.html beside it.")
