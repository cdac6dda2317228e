"""The evaluation of a run, or of a folder of runs: scores, intervals, figures, report."""

import dataclasses
import json
import pathlib

import numpy as np
from absl import logging

from ood_suite import intervals, metrics, ranks, scores, selective
from ood_suite.data import corruptions
from ood_suite.detector import Detector
from ood_suite.evaluation import (
    diagrams,
    figures,
    read_figures,
    report,
    result_card,
    shifted,
    terminal,
    unit_tests,
)
from ood_suite.evaluation.below_chance import below_chance
from ood_suite.evaluation.classifier import classifier
from ood_suite.evaluation.costs import Costs
from ood_suite.evaluation.densities import density
from ood_suite.evaluation.gallery import gallery
from ood_suite.evaluation.groups import find_groups
from ood_suite.evaluation.overlap import (
    is_labelled,
    refuse_overlap,
    require_separate,
    trained_on_held_out,
)
from ood_suite.evaluation.request import ALL, Request
from ood_suite.evaluation.tuning import tune
from ood_suite.evaluation.verdict import next_command, recommended
from ood_suite.files import read_csv
from ood_suite.outputs import ON_DEMAND
from ood_suite.progress import progress
from ood_suite.runs.extraction import extractor_of
from ood_suite.runs.settings import check
from ood_suite.scores import named

DRAWN_CURVES, DRAWN_HISTOGRAMS = 8, 8  # scores beyond which a figure would not be read
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
    request = _read(request)
    folder = pathlib.Path(folder)
    groups = find_groups(folder, request.checkpoint)
    if len(groups) > 1 and not request.repeats:
        logging.info("Only repeat %d of %d; --repeats takes all.", groups[0].repeat_id, len(groups))
        groups = groups[:1]
    reports = [evaluate_group(g, gather(g, request, data_dir), request) for g in groups]
    for group, found in zip(groups, reports, strict=True):
        if hasattr(extractor_of(group.foreground), "load_classifier"):
            found.next_command = next_command(group.foreground, found.verdict, data_dir)
        drawn = gallery(group, found, request, data_dir)
        found.figures |= {"gallery": drawn} if drawn else {}
    suffix = "" if request.checkpoint == "last" else f"_{request.checkpoint}"
    target = pathlib.Path(out or folder / f"report{suffix}")
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


def _read(request):
    """The request with names of scores as the catalogue writes them; beside "all" stand only those
    that it leaves out, and those with parameters.

    Raises:
        ValueError: an unknown score or parameter, or parameters that something else chooses too.
    """
    names = scores.read(request.scores) if request.scores else ()
    (baseline,) = scores.read([request.baseline]) if request.baseline else (None,)
    for name in (*names, *filter(None, [baseline])):
        if name != "all":
            scores.get(name)
    given = [name for name in names if "(" in name]
    if given and (request.tune or request.preset):
        flag = "--tune" if request.tune else "--preset"
        raise ValueError(f"{flag} and {given[0]} both choose parameters: leave one out.")
    if "all" in names:  # and what it leaves out, if that is asked for by name
        names = (*ALL, *(n for n in names if n != "all" and (n in given or needs_on_demand(n))))
    return dataclasses.replace(request, scores=names, baseline=baseline)


def gather(group, request, data_dir=None):
    """The Material of a group, by the kind of its run.

    Raises:
        ValueError: what is asked for is not for such a run, or a score is unknown.
    """
    run = group.foreground
    extractor = extractor_of(run)
    if run.config["extractor"].startswith("genomics_ood"):
        for name in ("ood_shifted", "unit_tests"):
            if getattr(request, name):
                raise ValueError(f"--{name} is for models of images.")
    require_separate(run, request, bool(group.backgrounds) or request.tune, data_dir)
    if run.kind == "density":
        for name in ("tune", "inner_layers"):
            if getattr(request, name):
                raise ValueError(f"--{name} is for classifiers.")
        return density(group, request, data_dir=data_dir)
    if run.kind == "member":
        raise ValueError(
            f"{run.folder} is a member of an ensemble, and knows only some of the classes. "
            f"Evaluate the ensemble: --run={run.folder.parent}."
        )
    own, wanted = extractor.SCORES, request.scores
    if wanted[:1] == ALL:
        everything = own or scores.names()
        wanted = (*(n for n in everything if not needs_on_demand(n)), *wanted[1:])
    elif request.baseline:
        wanted = (*wanted, request.baseline)
    if request.optional and own:
        wanted = tuple(name for name in wanted if named.bare(name) in own)
    for name in wanted:
        if own and named.bare(name) not in own:
            raise ValueError(f"{run.folder} has the scores {', '.join(own)}. Received: {name}.")
    if of_layers(request.scores) and not request.inner_layers:
        request = dataclasses.replace(request, inner_layers=("usual",))
    if request.ood_validation and not (request.tune or request.inner_layers):
        raise ValueError("--ood_validation has no effect without --tune or --inner_layers.")
    if request.inner_layers and not of_layers(wanted):
        raise ValueError("--inner_layers has no effect without mahalanobis_layers or gram.")
    return classifier(group, request, wanted, data_dir)


def of_layers(names):
    """Those of these scores that look at inner layers."""
    return {"mahalanobis_layers", "gram"} & {named.bare(name) for name in names}


def applicable_scores(material, wanted):
    """Names of scores whose arrays are there; a score asked for by name must be."""
    if not wanted:
        raise ValueError(f"--scores is empty. Known: all, {', '.join(scores.names())}.")
    more = [name for name in wanted if name not in ALL]
    for name in more:
        material.held_out.require(scores.get(name).needs, name)
    if wanted[:1] != ALL:
        return wanted
    names = dict.fromkeys((*material.scores, *more))
    return [name for name in names if _applies(scores.get(name), material)]


def needs_on_demand(name):
    """Whether "all" leaves a score out, because it needs what is only extracted on demand."""
    return bool(set(scores.get(name).needs) & set(ON_DEMAND))


def _applies(entry, material):
    fit_data = material.training if entry.fit_on == "training" else material.held_out
    pairs = [(material.held_out, entry.needs), (fit_data, entry.fit_needs)]
    if "layer_features" in entry.needs and material.validation_ood is None:
        return False
    backgrounds = material.held_out.background_log_probs
    if "background_log_probs" in entry.needs and backgrounds is not None:
        if backgrounds.shape[1] < 2:  # the mean over one is likelihood_ratio again
            return False
    return all(
        outputs is not None and all(getattr(outputs, field) is not None for field in fields)
        for outputs, fields in pairs
        if fields
    )


def evaluate_group(group, material, request):
    """All scores of one repeat on all test sets: a report.GroupReport with its figures."""
    # Stage 1: which scores, with which parameters. Validation data alone decide.
    names, baseline = _names(material, request)
    known = scores.PRESETS.get(request.preset, {})
    parameters, tuned, tried = {n: known[n] for n in names if n in known}, [], {}
    if request.tune and request.preset:
        raise ValueError("--tune and --preset both choose parameters: leave one out.")
    if request.tune:
        if material.validation_ood is None:
            raise ValueError("--tune needs validation OOD data: the run's ood_validation is empty.")
        parameters, tuned, tried = tune(
            names, material.held_out, material.training, material.validation_ood
        )

    # Stage 2: the test sets, which must share nothing with what was trained on or chosen by.
    tests = material.tests(parameters)
    id_test, ood_tests, near = tests.id_test, tests.ood, tests.near
    if not ood_tests and group.foreground.kind != "density":
        raise ValueError(f"{group.foreground.folder} names no OOD test sets: give --ood_far.")
    warned = [] if ood_tests else [
        "There are no OOD test data: what is left out is everything but the share of ID test "
        "examples that each score accepts. Give --ood_far to have the rest"
    ]  # fmt: skip
    warned += [f"{name} is left out: {why.rstrip('.')}" for name, why in tests.missing.items()]
    warned += refuse_overlap(material, id_test, ood_tests, request.allow_overlap)
    warned += trained_on_held_out(material, id_test) + material.notes
    if material.chosen and not material.choice:
        name = material.chosen.folder.name
        warned.append(f"No validation OOD data chose the background: {name} is the default")
    warned += [f"{n}: its parameters were given with its name" for n in names if "(" in n]
    if request.preset:
        warned.append(f"Parameters of the preset {request.preset}: {parameters}.")

    # Stage 3: scores and thresholds of every example.
    costs = Costs()
    detectors, left_out = fit(names, parameters, material, costs, strict=_is_strict(request))
    warned += left_out
    absent = [name for name in request.scores if request.optional and name not in names]
    warned += [f"{name} is left out: it is not for such a run" for name in absent]
    values = {}
    for name, detector in _shown(detectors, "scoring"):
        with costs.of(name, "score"):
            of_ood = {n: detector.score(outputs) for n, outputs in ood_tests.items()}
            values[name] = detector.score(id_test), of_ood

    # Stage 4: metrics with their intervals, one row per score and OOD set.
    correct = right(id_test)
    rows = []
    for name, detector in _shown(detectors, "intervals"):
        accepted = float(np.mean(values[name][0] <= detector.threshold_))
        more = {"repeat": group.repeat_id, "threshold": detector.threshold_, "accepted": accepted}
        rows += [
            result_row(name, ood, values, baseline, request.resamples, correct) | more
            for ood in ood_tests
        ]
        if not ood_tests:
            rows.append({"score": name, "ood": NO_OOD, "num_id": len(id_test)} | more)
    correct_p_values(rows)
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
    return report.GroupReport(
        repeat_id=group.repeat_id,
        rows=rows + group_means(rows, near),
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
        near=list(near),
        costs=costs.rows(detectors, [id_test, *ood_tests.values()]),
        shifted=under_shift,
        full_spectrum=spectrum,
        data=result_card.data_of(material, tests),
        verdict=recommended(
            detectors, material.advice(), ood_tests, has_chosen=bool(tuned or material.choice)
        ),
        unit_tests=unit_tests.rows(shifted.values_of(detectors, values, tests.units)),
    )


def _names(material, request):
    """(scores to evaluate, the baseline, which is among them if it can be)."""
    wanted, possible = request.scores, applicable_scores(material, ALL)
    if request.optional:
        wanted = tuple(name for name in wanted if _is_possible(name, material))
        if not wanted:
            known = ", ".join(request.scores)
            raise ValueError(f"The run has none of the protocol's scores: {known}.")
    names = applicable_scores(material, wanted)
    if request.baseline and request.baseline not in possible:
        raise ValueError(f"--baseline={request.baseline} has not the outputs that it needs.")
    baseline = request.baseline or material.baseline
    if baseline not in names and baseline in possible:
        names = [baseline, *names]
    return names, baseline


def _is_strict(request):
    """Whether a score that cannot be fitted is an error."""
    return request.scores[:1] != ALL and not request.optional


def _is_possible(name, material):
    """Whether a score that a protocol has is one for such a run."""
    return named.bare(name) in material.scores and _applies(scores.get(name), material)


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


def result_row(name, ood_name, values, baseline, resamples, correct=None):
    """One line of the results: metrics with intervals, and the difference to the baseline score.

    Args:
        values: {score: (id_scores, {data set: ood_scores})}.
        correct: bool (n_id,), whether the classifier is right, for OSCR and risks.
    """
    pair = values[name][0], values[name][1][ood_name]
    row = {"score": name, "ood": ood_name, "num_id": len(pair[0]), "num_ood": len(pair[1])}
    row |= metrics.evaluate(*pair)
    bounds = intervals.bootstrap_intervals(*pair, resamples=resamples)
    for metric, (low, high) in bounds.items():
        row |= {f"{metric}_low": low, f"{metric}_high": high}
    row["autc"] = metrics.autc(metrics.Counts.of(*pair))
    if correct is not None:
        row |= {"oscr": metrics.oscr(*pair, correct)} | selective.evaluate(*pair, correct)
    if baseline in values and name != baseline:
        other = values[baseline][0], values[baseline][1][ood_name]
        difference = intervals.paired_auroc_difference(pair, other)
        row |= {f"versus_{key}": value for key, value in difference.items()}
    return row


def correct_p_values(rows):
    """Adds `versus_p_holm`: the p values of all comparisons with the baseline, over all scores and
    OOD sets, as one family (Holm).
    """
    compared = [row for row in rows if "versus_p_value" in row]
    found = ranks.holm([row["versus_p_value"] for row in compared])
    for row, p_value in zip(compared, found, strict=True):
        row["versus_p_holm"] = float(p_value)


def group_means(rows, near):
    """Rows of plain means over the near, the far and all OOD sets of each score; none for a single
    set.
    """
    sets = list(dict.fromkeys(row["ood"] for row in rows))
    groups = {"near": [s for s in sets if s in near], "far": [s for s in sets if s not in near]}
    if not groups["near"]:
        groups = {}
    groups["all"] = sets
    found = []
    for title, members in groups.items():
        if len(sets) < 2 or not members:
            continue
        for name in dict.fromkeys(row["score"] for row in rows):
            own = [row for row in rows if row["score"] == name and row["ood"] in members]
            known = (*metrics.METRICS, "autc", "oscr", *selective.COLUMNS, "accepted")
            keys = [key for key in known if key in own[0]]
            means = {key: float(np.mean([row[key] for row in own])) for key in keys}
            label = f"mean of {title} ({', '.join(members)})"
            found.append({"score": name, "ood": label, "repeat": own[0]["repeat"]} | means)
    return found


def right(id_test):
    """bool (n,), whether a classifier is right on labelled examples; None for a density model."""
    return id_test.logits.argmax(axis=1) == id_test.labels if is_labelled(id_test) else None


def classifier_figures(id_test):
    """{"accuracy", "expected_calibration_error"} of the ID test set, {} for a density model."""
    if not is_labelled(id_test):
        return {}
    if id_test.labels.max() >= id_test.logits.shape[1]:
        raise ValueError(
            f"The ID test set has labels up to {id_test.labels.max()}, the model has "
            f"{id_test.logits.shape[1]} classes: is it the data set that the model was trained on?"
        )
    names = ["accuracy"]
    if id_test.member_logits is None:  # members' zeros for left-out classes are no probabilities
        names.append("expected_calibration_error")
    return {name: getattr(metrics, name)(id_test.logits, id_test.labels) for name in names}


def data_notes(tested):
    """What a reader must know of the data sets: samples, stand-ins, resizing."""
    found = [outputs.meta["note"] for outputs in tested if outputs and outputs.meta.get("note")]
    return list(dict.fromkeys(found))


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
        if outputs.example_names is not None:
            title = f"{name}, by {best[0]}"
            sheet = figures.contact_sheet(title, outputs.example_names, of_best[name])
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
