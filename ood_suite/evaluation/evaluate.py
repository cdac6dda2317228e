"""The evaluation of a run, or of a folder of runs: scores, intervals, figures, report."""

import json
import pathlib

import numpy as np
from absl import logging

from ood_suite import scores
from ood_suite.data import corruptions
from ood_suite.detector import Detector
from ood_suite.evaluation import (
    diagrams,
    figures,
    gathering,
    read_figures,
    report,
    result_card,
    shifted,
    terminal,
    unit_tests,
)
from ood_suite.evaluation.below_chance import below_chance
from ood_suite.evaluation.costs import Costs
from ood_suite.evaluation.drawing import draw_figures
from ood_suite.evaluation.gallery import gallery
from ood_suite.evaluation.groups import find_groups, refuse_others
from ood_suite.evaluation.overlap import refuse_overlap, trained_on_held_out
from ood_suite.evaluation.request import Request
from ood_suite.evaluation.results import (
    classifier_figures,
    correct_p_values,
    data_notes,
    group_means,
    result_row,
    right,
)
from ood_suite.evaluation.tuning import tune
from ood_suite.evaluation.verdict import next_command, recommended
from ood_suite.progress import progress
from ood_suite.runs.extraction import extractor_of
from ood_suite.runs.settings import check

FEW = 10  # scores that need no progress bar
NO_OOD = "no OOD data"  # in place of an OOD set's name


def evaluate(folder, request=Request(), *, data_dir=None, out=None, beside=None):
    """Evaluates a run or a folder of runs, prints the table and writes the report.

    Args:
        folder: of a run, or of the runs of an experiment.
        data_dir: folder of the data sets. out: of the report; default: the folder's report/.
        beside: function(reports) -> a table of published numbers for the page, see page.render.

    Returns:
        list of report.GroupReport, one per repeat.

    Raises:
        ValueError: a score or a data set that does not fit. RunError: a run that cannot be used.
        FileNotFoundError: an OOD set of a name that nobody knows, or none that is there.
    """
    check(request)
    corruptions.expanded(request.ood_shifted)  # refuses unknown names before any work
    request = gathering.completed(request)
    folder = pathlib.Path(folder)
    groups = find_groups(folder, request.checkpoint)
    if len(groups) > 1 and not request.repeats:
        logging.info("Only repeat %d of %d; --repeats takes all.", groups[0].repeat_id, len(groups))
        groups = groups[:1]
    for group in groups[1:]:
        refuse_others(groups[0].foreground, group.foreground)
    reports = [evaluate_group(g, gathering.gather(g, request, data_dir), request) for g in groups]
    for group, found in zip(groups, reports, strict=True):
        if hasattr(extractor_of(group.foreground), "load_classifier"):
            found.next_command = next_command(group.foreground, found.verdict, data_dir)
        drawn = gallery(group, found, request, data_dir)
        found.figures |= {"gallery": drawn} if drawn else {}
    target = pathlib.Path(out or folder / f"report{request.suffix}")
    report.write(target, groups[0].foreground.config, reports, beside and beside(reports))
    shifted.write(target, reports)
    unit_tests.write(target, reports)
    result_card.write(target, groups, reports)
    if request.json:
        found = report.as_json(groups[0].foreground.config, reports) | {"report": str(target)}
        print(json.dumps(found, default=str))
    else:
        print(terminal.text(reports, target, everything=request.all))
    logging.info("Wrote results.csv, results.json and report.html to %s.", target)
    return reports


def evaluate_group(group, material, request):
    """All scores of one repeat on all test sets: a report.GroupReport with its figures."""
    # Stage 1: which scores, with which parameters. Validation data alone decide.
    names, baseline = gathering.names_of(material, request)
    parameters, tuned, tried = _parameters(names, material, request)

    # Stage 2: the test sets, which must share nothing with what was trained on or chosen by.
    tests = material.tests(parameters)
    id_test, ood_tests = tests.id_test, tests.ood
    warned = _test_notes(group, material, tests, request)
    warned += _choice_notes(parameters, names, material, request)
    advice = material.advice()

    # Stage 3: scores and thresholds of every example.
    costs = Costs()
    strict = gathering.is_strict(request)
    detectors, left_out = fit(names, parameters, material, costs, strict=strict)
    absent = [name for name in request.scores if request.optional and name not in names]
    warned += left_out + [f"{name} is left out: it is not for such a run" for name in absent]
    values = _values(detectors, tests, costs)

    # Stage 4: metrics with their intervals, one row per score and OOD set.
    rows = _rows(detectors, values, tests, baseline, request.resamples, group.repeat_id)
    warned += below_chance(rows, id_test, ood_tests)
    by_class = []
    if id_test.bases is not None:
        warned += read_figures.correlations(values, id_test)
        by_class = read_figures.class_rows(values, id_test, ood_tests)

    # Stage 5: what the report is made of, beside OOD data ID ones under shift and unit tests.
    drawn = draw_figures(group, values, detectors, id_test, ood_tests, by_class)
    under_shift, spectrum = shifted.evaluated(detectors, values, tests, right)
    if under_shift:
        best = shifted.best_of(spectrum) or names[0]
        drawn["shifts"] = diagrams.shifts([row for row in under_shift if row["score"] == best])
    of_two = {name: found for name, found in tried.items() if len(found[0][1]) == 2}
    drawn |= {f"tuning_{name}": figures.tuning(name, found) for name, found in of_two.items()}
    has_chosen = bool(tuned or material.choice)
    return report.GroupReport(
        repeat_id=group.repeat_id,
        rows=rows + group_means(rows, tests.near),
        choice=material.choice,
        chosen=material.chosen and material.chosen.folder.name,
        tuned=tuned,
        classifier=classifier_figures(id_test),
        notes=data_notes([id_test, *ood_tests.values(), material.validation_ood]) + warned,
        figures=drawn,
        values=values,
        test_sets={k: o.meta["fingerprint"] for k, o in {"id": id_test, **ood_tests}.items()},
        baseline=baseline,
        by_class=by_class,
        near=list(tests.near),
        costs=costs.rows(detectors, [id_test, *ood_tests.values()]),
        shifted=under_shift,
        full_spectrum=spectrum,
        data=result_card.data_of(material, tests),
        verdict=recommended(detectors, advice, ood_tests, has_chosen=has_chosen),
        unit_tests=unit_tests.rows(shifted.values_of(detectors, values, tests.units)),
    )


def _parameters(names, material, request):
    """({score: parameters that are not its defaults}, rows and trials of the tuning)."""
    if not request.tune:
        known = scores.PRESETS.get(request.preset, {})
        return {name: known[name] for name in names if name in known}, [], {}
    if request.preset:
        raise ValueError("--tune and --preset both choose parameters: leave one out.")
    if material.validation_ood is None:
        raise ValueError("--tune needs validation OOD data: the run's ood_validation is empty.")
    return tune(names, material.held_out, material.training, material.validation_ood)


def _test_notes(group, material, tests, request):
    """What a reader must know of the test sets; refuses those that share examples with ID data."""
    if not tests.ood and group.foreground.kind != "density":
        raise ValueError(f"{group.foreground.folder} names no OOD test sets: give --ood_far.")
    notes = [] if tests.ood else [
        "There are no OOD test data: what is left out is everything but the share of ID test "
        "examples that each score accepts. Give --ood_far to have the rest"
    ]  # fmt: skip
    notes += [f"{name} is left out: {why.rstrip('.')}" for name, why in tests.missing.items()]
    notes += refuse_overlap(material, tests.id_test, tests.ood, request.allow_overlap)
    return notes + trained_on_held_out(material, tests.id_test) + material.notes


def _choice_notes(parameters, names, material, request):
    """What a reader must know of background and parameters."""
    notes = []
    if material.chosen and not material.choice:
        name = material.chosen.folder.name
        notes.append(f"No validation OOD data chose the background: {name} is the default")
    notes += [f"{n}: its parameters were given with its name" for n in names if "(" in n]
    if request.preset:
        notes.append(f"Parameters of the preset {request.preset}: {parameters}.")
    return notes


def _values(detectors, tests, costs):
    """{score: (scores of the ID test set, {OOD set: its scores})}."""
    values = {}
    for name, detector in _shown(detectors, "scoring"):
        with costs.of(name, "score"):
            of_ood = {n: detector.score(outputs) for n, outputs in tests.ood.items()}
            values[name] = detector.score(tests.id_test), of_ood
    return values


def _rows(detectors, values, tests, baseline, resamples, repeat_id):
    """A row for each score and OOD set."""
    correct, rows = right(tests.id_test), []
    for name, detector in _shown(detectors, "intervals"):
        accepted = float(np.mean(values[name][0] <= detector.threshold_))
        more = {"repeat": repeat_id, "threshold": detector.threshold_, "accepted": accepted}
        rows += [
            result_row(name, ood, values, baseline, resamples, correct) | more for ood in tests.ood
        ]
        if not tests.ood:
            rows.append({"score": name, "ood": NO_OOD, "num_id": len(tests.id_test)} | more)
    correct_p_values(rows)
    return rows


def _shown(mapping, title):
    """The items of a mapping of scores, with a progress bar where there are many."""
    return progress(mapping.items(), desc=title, unit="score", disable=len(mapping) < FEW)


def fit(names, parameters, material, costs, *, strict):
    """({score: fitted Detector}, notes): a score that cannot be fitted to these data is left out
    with a note, or, if `strict`, a ValueError.
    """
    detectors, notes = {}, []
    for name in progress(names, desc="fitting", unit="score", disable=len(names) < FEW):
        try:
            with costs.of(name, "fit"):
                detectors[name] = Detector(name, parameters=parameters.get(name)).fit(
                    material.held_out, material.training, material.validation_ood
                )
        except ValueError as error:
            if strict:
                raise
            notes.append(f"{name} is left out: {str(error).rstrip('.')}")
            logging.warning("%s.", notes[-1])
    return detectors, notes
