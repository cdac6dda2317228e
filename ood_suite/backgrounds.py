"""Density models under evaluation: a foreground run, its background runs, and the choice between
them.
"""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from ood_suite import metrics, scores
from ood_suite.runs import Run, RunError

# What a background model may set otherwise than its foreground; all else would be compared with it.
MAY_DIFFER = {
    "background_steps", "ema_overwrite_frequency", "eval_every", "eval_images", "eval_reads",
    "mutation_rate", "mutation_rates", "reg_weight", "reg_weights", "total_steps",
}  # fmt: skip


@dataclasses.dataclass
class Group:
    """The models of one repeat: a foreground run, or a classifier, and background runs (none for a
    single run).
    """

    repeat_id: int
    foreground: Run
    backgrounds: list


def find_groups(folder, checkpoint="last"):
    """Groups of a run folder, or of a folder of runs, by repeat; RunError if there is no finished
    foreground.

    Args:
        checkpoint: which of a run's models is meant, see Run.load.
    """
    folder = pathlib.Path(folder)
    if (folder / "config.json").exists():
        return [Group(0, Run.load(folder, checkpoint), [])]
    runs = [Run.load(path.parent, checkpoint) for path in sorted(folder.glob("*/config.json"))]
    if not runs:
        raise RunError(f"{folder} is no run and holds none. Train first, or check --run.")
    finished = [run for run in runs if Run.load(run.folder).is_finished]  # whatever the checkpoint
    unfinished = [run.folder.name for run in runs if run not in finished]
    if unfinished:
        logging.warning("Left out, because not finished: %s.", ", ".join(unfinished))
    groups = {}
    for run in finished:
        groups.setdefault(run.settings["repeat_id"], []).append(run)
    found = []
    for repeat_id, members in sorted(groups.items()):
        foregrounds = [run for run in members if not is_background(run)]
        if not foregrounds:
            raise RunError(
                f"{folder} holds no finished foreground run (mutation_rate 0, reg_weight 0) of "
                f"repeat {repeat_id}."
            )
        if len(foregrounds) > 1:
            names = ", ".join(run.folder.name for run in foregrounds)
            raise RunError(f"{folder} holds several models ({names}): give one of them as --run.")
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
    return run.settings.get("mutation_rate", 0.0) > 0.0 or run.settings.get("reg_weight", 0.0) > 0.0


class Densities:
    """What a group of density models says of the data sets of its experiment.

    Attributes:
        held_out, validation_ood: Outputs, on which the background is chosen. training: at most
            hashes, no score of a density model learns from it.
        strange: whether the held-out ID set is another one than the training had.
        selection: the validation OOD set too, which the test sets must not share examples with.
        choice: one dict per background model. chosen: the chosen Run or None.
    """

    baseline = "likelihood"
    near = ()
    all_scores = scores.ALL

    def __init__(self, group, extractor, data_dir):
        self.group, self.extractor, self.data_dir = group, extractor, data_dir
        settings = group.foreground.settings
        self.fingerprints = group.foreground.config["fingerprints"]
        self.id_names = (settings["id_dataset"],)
        self.ood_names = tuple(settings["ood_test"])
        validation = tuple(settings["ood_validation"]), settings["ood_validation_split"]
        self.chosen, self.choice, self.validation_ood = None, [], None
        if group.backgrounds:
            self.validation_ood = self._joined(*validation)
            self.chosen, self.choice = self._choose()
            self.validation_ood = self._joined(*validation)
        self.held_out = self._joined(self.id_names, "val")
        self.selection = self.validation_ood
        known = self.fingerprints.get(f"{self.held_out.meta['dataset']}_val")
        self.strange = known not in (None, self.held_out.meta["fingerprint"])
        self.training = None
        if hasattr(extractor, "hashes"):
            self.training = extractor.hashes(group.foreground, self.id_names, "train", data_dir)

    def tests(self, parameters):
        """(Outputs of the ID test set, {data set: Outputs} of the OOD test sets), with maps."""
        return self._joined(self.id_names, "test", maps=True), {
            name: self._joined((name,), "test", maps=True) for name in self.ood_names
        }

    def _of(self, run, names, split, maps=False):
        return self.extractor.extract(run, names, split, self.data_dir, maps)

    def _joined(self, names, split, maps=False):
        """The foreground's Outputs with those of the backgrounds beside them; the chosen one is the
        ratio's.
        """
        outputs = self._of(self.group.foreground, names, split, maps)
        if not self.group.backgrounds:
            return outputs
        backgrounds = [
            self._of(run, names, split, maps and run is self.chosen)
            for run in self.group.backgrounds
        ]
        ratio = backgrounds[self.group.backgrounds.index(self.chosen)] if self.chosen else None
        return dataclasses.replace(
            outputs,
            background_log_probs=np.stack([b.log_prob for b in backgrounds], axis=1),
            background_log_prob=ratio.log_prob if ratio else None,
            background_log_prob_map=ratio.log_prob_map if ratio else None,
        )

    def _choose(self):
        """(chosen run, rows): validation AUROC of the likelihood ratio for every background."""
        id_outputs = self._joined(self.id_names, "val")
        ratio = scores.get("likelihood_ratio").fn
        rows = []
        for column, run in enumerate(self.group.backgrounds):
            counts = metrics.Counts.of(
                *(
                    ratio(o.log_prob, o.background_log_probs[:, column])
                    for o in (id_outputs, self.validation_ood)
                )
            )
            rows.append({
                "background": run.folder.name,
                "mutation_rate": run.settings["mutation_rate"],
                "reg_weight": run.settings["reg_weight"],
                "validation_ood": self.validation_ood.meta["dataset"],
                "validation_auroc": metrics.auroc(counts),
            })  # fmt: skip
        best = int(np.argmax([row["validation_auroc"] for row in rows]))
        return self.group.backgrounds[best], rows
