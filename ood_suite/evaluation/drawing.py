"""Which figures a report has: drawn from the scores of one repeat."""

import os

from ood_suite import metrics
from ood_suite.evaluation import diagrams, figures, read_figures
from ood_suite.evaluation.overlap import is_labelled
from ood_suite.evaluation.results import right
from ood_suite.files import read_csv

DRAWN_CURVES, DRAWN_HISTOGRAMS = 8, 8  # scores beyond which a figure would not be read


def draw_figures(group, values, detectors, id_outputs, ood_outputs, by_class=()):
    """{file name: Figure} of one repeat."""
    drawn = {}
    thresholds = {name: detector.threshold_ for name, detector in detectors.items()}
    if len(values) > DRAWN_HISTOGRAMS:
        drawn["histograms"] = figures.histogram_grid(values, thresholds)
    else:
        for name, (id_scores, ood_scores) in values.items():
            drawn[f"histogram_{name}"] = figures.histograms(
                name, id_scores, ood_scores, thresholds[name]
            )
    aurocs = {
        name: {k: metrics.auroc(metrics.Counts.of(own, scored)) for k, scored in ood.items()}
        for name, (own, ood) in values.items()
    }
    if len(values) > DRAWN_CURVES:
        drawn["overview"] = figures.overview(aurocs)
    best = sorted(values, key=lambda name: -sum(aurocs[name].values()))[:DRAWN_CURVES]
    for ood_name in ood_outputs:
        pairs = {name: (values[name][0], values[name][1][ood_name]) for name in best}
        title = f"{id_outputs.meta['dataset']} against {ood_name}"
        drawn[f"curves_{ood_name}"] = figures.curves(title, pairs)
    of_best = {id_outputs.meta["dataset"]: values[best[0]][0], **values[best[0]][1]}
    for name, outputs in {id_outputs.meta["dataset"]: id_outputs, **ood_outputs}.items():
        names = outputs.example_names
        if names is not None and any(map(os.path.isfile, names)):  # not those of an archive
            title = f"{name}, by {best[0]}"
            sheet = figures.contact_sheet(title, names, of_best[name])
            drawn[f"images_{name}"] = sheet
        if outputs.log_prob_map is not None and outputs.log_prob_map.ndim == 3:
            drawn[f"heat_maps_{name}"] = figures.heat_maps(name, outputs)
    if is_labelled(id_outputs) and ood_outputs:
        shown = {name: values[name] for name in best}
        drawn["risk_coverage"] = diagrams.risk_coverage(shown, right(id_outputs))
    if id_outputs.bases is not None:
        drawn |= read_figures.figures(values, id_outputs, ood_outputs, by_class)
    if id_outputs.code_length is not None:
        drawn["complexity"] = figures.likelihood_against_complexity(id_outputs, ood_outputs)
    runs = [group.foreground, *group.backgrounds]
    folders = [folder for run in runs for folder in run.parts or [run.folder]]
    histories = {folder.name: read_csv(folder / "logs" / "history.csv") for folder in folders}
    histories = {name: rows for name, rows in histories.items() if rows}
    if histories:
        drawn["training"] = figures.training_curves(histories)
    return drawn
