"""Watches a detector in use: are alarms, scores and classes still those that it was calibrated to?

    python -m ood_suite.screen --detector=detector/ --format=jsonl --out=decisions.jsonl photos/
    python -m ood_suite.monitor --detector=detector/ --log=decisions.jsonl

Takes what ood_suite.screen wrote, in order of time; alarms are scores above the detector's
threshold, also in what screen --fdr wrote. Answers three questions window by window, each
with a bound on false warnings however long it is watched: more alarms than the held-out examples
promise (a test martingale), drifted scores, drifted shares of the predicted classes and which
class. Writes <log>.monitor.json and .png beside the log, and exits with 3 if it warns.
"""

import pathlib

import numpy as np
from absl import flags, logging

from ood_suite.files import atomic_path, write_json
from ood_suite.optional import quietly
from ood_suite.runs import cli

FLAGS = flags.FLAGS
ROUNDED = 0.02  # of p-values: of a log that an exported model's float32 scores made


def main(_):
    with quietly():  # not at the top: --help need not wait for Keras
        from ood_suite.serving import monitoring
        from ood_suite.serving.pixel_detector import PixelDetector

    detector = PixelDetector.load(FLAGS.detector)
    monitor = monitoring.Monitor.of(detector, FLAGS.window)
    log = pathlib.Path(FLAGS.log)
    if not log.is_file():
        raise FileNotFoundError(f"There is no file {log}.")
    numbers = {name: number for number, name in enumerate(detector.classes)}
    if len(numbers) < len(detector.classes):
        raise ValueError(f"{FLAGS.detector} has classes of one name. Make it anew with --classes.")
    warned, held_out = set(), [count for count, _ in detector.ranks]
    for decision in monitoring.decisions(log):
        name, score = decision.name, np.array([decision.score])
        if name not in numbers:
            raise ValueError(f"{log} has the class {name!r}, which {FLAGS.detector} does not know.")
        label = np.array([numbers[name]])
        is_ood = detector.is_ood(score, label)
        if _overflows(decision, held_out[label[0] if detector.by_class else 0]):
            is_ood |= True
        else:
            _require_same(decision, detector.p_values(score, label)[0])
        for window in monitor.add(score, is_ood, label):
            for question in set(window.warnings()) - warned:
                text = monitoring.QUESTIONS[question]
                if question == "classes":
                    text += f", most of {detector.classes[window.changed]}"
                logging.warning("Decision %d: %s.", window.stop, text)
                warned.add(question)
    if not monitor.windows:
        raise ValueError(f"{log} has fewer decisions than --window={FLAGS.window}.")
    out = log.with_name(f"{log.name}.monitor")
    write_json(f"{out}.json", [window.as_json() for window in monitor.windows])
    with atomic_path(f"{out}.png") as temporary:
        monitoring.figure(monitor).savefig(temporary, format="png")
    logging.info("%d windows: %s.", len(monitor.windows), ", ".join(sorted(warned)) or "no warning")
    logging.info("Wrote %s.json and %s.png.", out, out)
    if warned:
        raise SystemExit(3)


def _overflows(decision, held_out):
    """Whether an exported model called it OOD with the smallest p-value of all, as it does, of
    whatever score, where its network overflows.
    """
    least = 1.0 / (held_out + 1.0)
    return decision.is_ood and decision.p_value is not None and decision.p_value < 1.001 * least


def _require_same(decision, p_value):
    """Refuses (ValueError) a decision of another detector: its score has another p-value."""
    if decision.p_value is not None and abs(decision.p_value - p_value) > ROUNDED:
        raise ValueError(
            f"{FLAGS.log}, line {decision.line}, says that a score of {decision.score:.6g} has the "
            f"p-value {decision.p_value:.3g}; by {FLAGS.detector} it is {p_value:.3g}. The log is "
            "of another detector, or of this one before it was made anew: watch each with its own."
        )


if __name__ == "__main__":
    flags.DEFINE_string("detector", None, "Folder that ood_suite.calibrate wrote.")
    flags.DEFINE_string("log", None, "Decisions in order of time, TSV or JSON lines.")
    flags.DEFINE_integer("window", 500, "Decisions that are tested together.", lower_bound=20)
    flags.mark_flags_as_required(["detector", "log"])
    cli.run_app(main, continues=False)
