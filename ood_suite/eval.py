"""Evaluates a run, or a folder of runs, as an OOD detector.

    python -m ood_suite.eval --run=output/images_ood/fashion_small

A folder of runs holds a foreground model and background models (mutation_rate or reg_weight not 0).
The background is chosen by the AUROC of the likelihood ratio on VALIDATION data (ID and OOD); the
test sets choose nothing. Missing outputs are extracted first. Writes results.csv, results.json,
report.html and figures into RUN/report/.
"""

import dataclasses
import importlib
import pathlib

import numpy as np
from absl import flags, logging

from ood_suite import figures, intervals, metrics, report, scores
from ood_suite.app import run_app
from ood_suite.detector import Detector
from ood_suite.outputs import Outputs
from ood_suite.runs import Run, RunError, read_csv

FLAGS = flags.FLAGS
# What a background model may set otherwise than its foreground; all else would be compared with it.
MAY_DIFFER = {
    "background_steps", "eval_every", "eval_images", "ema_overwrite_frequency", "mutation_rate",
    "mutation_rates", "reg_weight", "reg_weights", "total_steps",
}  # fmt: skip


@dataclasses.dataclass
class Group:
    """The models of one repeat: a foreground run and its background runs (none for a single
    run).
    """

    repeat_id: int
    foreground: Run
    backgrounds: list


def find_groups(folder):
    """Groups of a run folder, or of a folder of runs, by repeat; RunError if there is no finished
    foreground.
    """
    folder = pathlib.Path(folder)
    if (folder / "config.json").exists():
        return [Group(0, Run.load(folder), [])]
    runs = [Run.load(path.parent) for path in sorted(folder.glob("*/config.json"))]
    if not runs:
        raise RunError(f"{folder} is no run and holds none. Train first, or check --run.")
    unfinished = [run.folder.name for run in runs if not run.is_finished]
    if unfinished:
        logging.warning("Left out, because not finished: %s.", ", ".join(unfinished))
    groups = {}
    for run in runs:
        if run.is_finished:
            groups.setdefault(run.settings["repeat_id"], []).append(run)
    found = []
    for repeat_id, members in sorted(groups.items()):
        foregrounds = [run for run in members if not is_background(run)]
        if not foregrounds:
            raise RunError(
                f"{folder} holds no finished foreground run (mutation_rate 0, reg_weight 0) of "
                f"repeat {repeat_id}."
            )
        found.append(
            Group(repeat_id, foregrounds[0], [run for run in members if is_background(run)])
        )
    if not found:
        raise RunError(
            f"No run in {folder} is finished. Repeat its training command: it continues."
        )
    for group in found:
        for run in group.backgrounds:
            refuse_mixture(group.foreground, run)
    return found


def refuse_mixture(foreground, background):
    """RunError when a background differs from its foreground in more than it may."""
    differences = []
    for part in ("settings", "fingerprints"):
        ours, theirs = foreground.config[part], background.config[part]
        differences += [
            f"{key} ({ours[key]!r} and {theirs[key]!r})"
            for key in sorted(set(ours) & set(theirs) - MAY_DIFFER)
            if ours[key] != theirs[key]
        ]
    if differences:
        raise RunError(
            f"{foreground.folder.name} and {background.folder.name} cannot be compared, they "
            f"differ in {', '.join(differences)}. Keep one experiment's runs in a folder."
        )


def is_background(run):
    return run.settings["mutation_rate"] > 0.0 or run.settings["reg_weight"] > 0.0


class Extraction:
    """Outputs of a group's runs on the data sets of the experiment, extracted where absent."""

    def __init__(self, group, data_dir):
        self.group = group
        self.data_dir = data_dir
        settings = group.foreground.settings
        self.id_names = (settings["id_dataset"],)
        self.validation_names = tuple(settings["ood_validation"])
        self.validation_split = settings["ood_validation_split"]
        self.ood_names = tuple(settings["ood_test"])
        self.extractor = importlib.import_module(group.foreground.config["extractor"])

    def of(self, run, names, split, maps=False):
        return self.extractor.extract(run, names, split, self.data_dir, maps)

    def joined(self, names, split, chosen, maps=False):
        """The foreground's Outputs with those of the backgrounds beside them; `chosen` is the
        ratio's background.
        """
        outputs = self.of(self.group.foreground, names, split, maps)
        if not self.group.backgrounds:
            return outputs
        backgrounds = [
            self.of(run, names, split, maps and run is chosen) for run in self.group.backgrounds
        ]
        ratio = backgrounds[self.group.backgrounds.index(chosen)] if chosen else None
        return dataclasses.replace(
            outputs,
            background_log_probs=np.stack([b.log_prob for b in backgrounds], axis=1),
            background_log_prob=ratio.log_prob if chosen else None,
            background_log_prob_map=ratio.log_prob_map if chosen else None,
        )


def choose_background(extraction):
    """(chosen run or None, rows): validation AUROC of the likelihood ratio for every background
    model.
    """
    backgrounds = extraction.group.backgrounds
    if not backgrounds:
        return None, []
    id_outputs = extraction.joined(extraction.id_names, "val", None)
    ood_outputs = extraction.joined(extraction.validation_names, extraction.validation_split, None)
    ratio = scores.get("likelihood_ratio").fn
    rows = []
    for column, run in enumerate(backgrounds):
        counts = metrics.Counts.of(
            *(
                ratio(o.log_prob, o.background_log_probs[:, column])
                for o in (id_outputs, ood_outputs)
            )
        )
        rows.append({
            "background": run.folder.name,
            "mutation_rate": run.settings["mutation_rate"],
            "reg_weight": run.settings["reg_weight"],
            "validation_ood": ood_outputs.meta["dataset"],
            "validation_auroc": metrics.auroc(counts),
        })  # fmt: skip
    return backgrounds[int(np.argmax([row["validation_auroc"] for row in rows]))], rows


def applicable_scores(outputs, wanted):
    """Names of scores whose arrays are there; a score asked for by name must be."""
    if not wanted:
        raise ValueError(f"--scores is empty. Known: all, {', '.join(scores.SCORES)}.")
    if wanted != ["all"]:
        for name in wanted:
            outputs.require(scores.get(name).needs, name)
        return wanted
    return [
        name
        for name, score in scores.SCORES.items()
        if all(getattr(outputs, field) is not None for field in score.needs)
    ]


def evaluate_group(group, data_dir, wanted, baseline, resamples):
    """All scores of one repeat on all test sets.

    Returns:
        report.GroupReport with one row per score and OOD set, and the figures.
    """
    extraction = Extraction(group, data_dir)
    chosen, choice = choose_background(extraction)
    held_out = extraction.joined(extraction.id_names, "val", chosen)
    id_outputs = extraction.joined(extraction.id_names, "test", chosen, maps=True)
    ood_outputs = {
        name: extraction.joined((name,), "test", chosen, maps=True) for name in extraction.ood_names
    }
    refuse_overlap(id_outputs, ood_outputs)
    names = applicable_scores(id_outputs, wanted)
    if baseline not in names and baseline in applicable_scores(id_outputs, ["all"]):
        names = [baseline, *names]
    detectors = {name: Detector(name).fit(held_out) for name in names}
    values = {
        name: (
            detectors[name].score(id_outputs),
            {k: detectors[name].score(o) for k, o in ood_outputs.items()},
        )
        for name in names
    }
    rows = [
        result_row(name, ood_name, values, baseline, resamples)
        | {"repeat": group.repeat_id, "threshold": detectors[name].threshold_}
        for name in names
        for ood_name in ood_outputs
    ]
    drawn = draw_figures(group, values, detectors, id_outputs, ood_outputs)
    return report.GroupReport(
        repeat_id=group.repeat_id,
        rows=rows,
        choice=choice,
        chosen=chosen and chosen.folder.name,
        notes=data_notes(extraction, [id_outputs, *ood_outputs.values()]),
        figures=drawn,
        baseline=baseline,
    )


def result_row(name, ood_name, values, baseline, resamples):
    """One line of the results: metrics with intervals, and the difference to the baseline score.

    Args:
        values: {score: (id_scores, {data set: ood_scores})}.
    """
    pair = values[name][0], values[name][1][ood_name]
    row = {"score": name, "ood": ood_name, "num_id": len(pair[0]), "num_ood": len(pair[1])}
    row |= metrics.evaluate(*pair)
    bounds = intervals.bootstrap_intervals(*pair, resamples=resamples)
    for metric, (low, high) in bounds.items():
        row |= {f"{metric}_low": low, f"{metric}_high": high}
    if baseline in values and name != baseline:
        other = values[baseline][0], values[baseline][1][ood_name]
        difference = intervals.paired_auroc_difference(pair, other)
        row |= {f"versus_{key}": value for key, value in difference.items()}
    return row


def data_notes(extraction, tested):
    """What a reader must know of the data sets: samples, stand-ins, resizing."""
    notes = [outputs.meta["note"] for outputs in tested if outputs.meta.get("note")]
    if extraction.group.backgrounds:
        validation = extraction.of(
            extraction.group.foreground, extraction.validation_names, extraction.validation_split
        )
        if validation.meta.get("note"):
            notes.append(f"validation OOD: {validation.meta['note']}")
    return notes


def refuse_overlap(id_outputs, ood_outputs):
    """ValueError when two of the data sets are the same images."""
    known = {id_outputs.meta["fingerprint"]: f"ID set {id_outputs.meta['dataset']}"}
    for name, outputs in ood_outputs.items():
        mark = outputs.meta["fingerprint"]
        if mark in known:
            raise ValueError(f"The OOD set {name} is the {known[mark]} itself.")
        known[mark] = f"OOD set {name}"


def draw_figures(group, values, detectors, id_outputs: Outputs, ood_outputs):
    """{file name: Figure} of one repeat."""
    drawn = {}
    for name, (id_scores, ood_scores) in values.items():
        drawn[f"histogram_{name}"] = figures.histograms(
            name, id_scores, ood_scores, detectors[name].threshold_
        )
    for ood_name in ood_outputs:
        pairs = {name: (id_scores, ood[ood_name]) for name, (id_scores, ood) in values.items()}
        title = f"{id_outputs.meta['dataset']} against {ood_name}"
        drawn[f"curves_{ood_name}"] = figures.curves(title, pairs)
    for name, outputs in {id_outputs.meta["dataset"]: id_outputs, **ood_outputs}.items():
        if outputs.log_prob_map is not None and outputs.log_prob_map.ndim == 3:
            drawn[f"heat_maps_{name}"] = figures.heat_maps(name, outputs)
    if id_outputs.code_length is not None:
        drawn["complexity"] = figures.likelihood_against_complexity(id_outputs, ood_outputs)
    histories = {
        run.folder.name: read_csv(run.folder / "logs" / "history.csv")
        for run in [group.foreground, *group.backgrounds]
    }
    drawn["training"] = figures.training_curves({k: rows for k, rows in histories.items() if rows})
    return drawn


def main(_):
    folder = pathlib.Path(FLAGS.run)
    scores.get(FLAGS.baseline)
    groups = find_groups(folder)
    if not FLAGS.repeats:
        if len(groups) > 1:
            logging.info(
                "Only repeat %d of %d; --repeats takes all.", groups[0].repeat_id, len(groups)
            )
        groups = groups[:1]
    reports = []
    for group in groups:
        reports.append(
            evaluate_group(group, FLAGS.data_dir, FLAGS.scores, FLAGS.baseline, FLAGS.resamples)
        )
    target = pathlib.Path(FLAGS.out or folder / "report")
    report.write(target, groups[0].foreground.config, reports)
    print(report.terminal_table(reports))
    logging.info("Wrote results.csv, results.json and report.html to %s.", target)


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "A run folder, or a folder of runs (an experiment's).")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_list("scores", ["all"], f"Scores: all, or some of {', '.join(scores.SCORES)}.")
    flags.DEFINE_string(
        "baseline", "likelihood", "Score that the others are compared with, pair by pair."
    )
    flags.DEFINE_bool(
        "repeats", False, "Evaluate all repeats; adds their mean and standard deviation."
    )
    flags.DEFINE_integer(
        "resamples", 1000, "Bootstrap resamples behind the intervals.", lower_bound=10
    )
    flags.DEFINE_string("out", None, "Folder of the report; default: RUN/report.")
    flags.mark_flag_as_required("run")
    run_app(main)
