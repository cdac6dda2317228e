"""Density models under evaluation: a foreground run, its background runs, and the choice between
them.
"""

import dataclasses
import pathlib

from absl import logging

from ood_suite.files import RunError
from ood_suite.runs.run import Run

# What a background model may set otherwise than its foreground; all else would be compared with it.
MAY_DIFFER = {
    "background_steps", "ema_overwrite_frequency", "eval_every", "eval_images", "eval_reads",
    "mutation_rate", "mutation_rates", "reg_weight", "reg_weights", "save_every", "total_steps",
}  # fmt: skip
# What a repeat may have otherwise: its draws, where it began, how it is computed and tested.
OF_A_REPEAT = {
    "backend", "base_run", "checkpoint", "dtype", "eval_every", "eval_images", "eval_reads",
    "left_out", "ood_far", "ood_near", "ood_test", "ood_validation", "ood_validation_split",
    "random_seed", "repeat_id", "save_every", "splits", "strategy",
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
    groups: dict[int, list[Run]] = {}
    for run in _finished(folder):
        run = Run.load(run.folder, checkpoint)
        groups.setdefault(run.settings["repeat_id"], []).append(run)
    found = []
    for repeat_id, members in sorted(groups.items()):
        foregrounds = [run for run in members if not is_background(run)]
        if not foregrounds:
            logging.warning("Left out, for want of a foreground: repeat %d.", repeat_id)
            continue
        if len(foregrounds) > 1:
            names = ", ".join(run.folder.name for run in foregrounds)
            raise RunError(
                f"{folder} holds several models ({names}): give one of them as --run, or give "
                "each, with its repeats, a folder of its own (--out_dir)."
            )
        found.append(
            Group(repeat_id, foregrounds[0], [run for run in members if is_background(run)])
        )
    if not found:
        raise RunError(
            f"No foreground run (mutation_rate 0, reg_weight 0) in {folder} is finished. Repeat "
            "its training command: it continues."
        )
    for group in found:
        for run in group.backgrounds:
            refuse_mixture(group.foreground, run)
    return found


def refuse_others(first, run):
    """Refuses a repeat of another model than the first (RunError): their mean would be of none."""
    both = first.settings, run.settings
    keys = set.intersection(*map(set, both)) - OF_A_REPEAT
    if len({own.get("base_run") for own in both}) > 1:
        keys.discard("um")  # each base run has its own estimate
    values = {key: tuple(own[key] for own in both) for key in sorted(keys)}
    values["members"] = tuple(len(own.get("left_out", ())) for own in both)
    for key, (ours, theirs) in values.items():
        if ours != theirs:
            raise RunError(
                f"{run.folder.name} is no repeat of {first.folder.name}: {key} is {theirs!r} there "
                f"and {ours!r} here. Give each model, with its repeats, a folder of its own "
                "(--out_dir)."
            )


def _finished(folder):
    """The finished runs of a folder of runs; the others are named in a warning."""
    runs = [Run.load(path.parent) for path in sorted(folder.glob("*/config.json"))]
    if not runs:
        raise RunError(f"{folder} is no run and holds none. Train first, or check --run.")
    unfinished = [run.folder.name for run in runs if not run.is_finished]
    if unfinished:
        logging.warning("Left out, because not finished: %s.", ", ".join(unfinished))
    return [run for run in runs if run.is_finished]


def refuse_mixture(foreground, background):
    """Refuses a background that differs from its foreground in more than it may (RunError)."""
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
