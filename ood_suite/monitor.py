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

from absl import flags, logging

from ood_suite.files import atomic_path, write_json
from ood_suite.optional import quietly
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(_):
    with quietly():  # not at the top: --help need not wait for Keras
        from ood_suite.serving import monitoring
        from ood_suite.serving.pixel_detector import PixelDetector

    detector = PixelDetector.load(FLAGS.detector)
    monitor = monitoring.Monitor.of(detector, FLAGS.window)
    log = pathlib.Path(FLAGS.log)
    if not log.is_file():
        raise FileNotFoundError(f"There is no file {log}.")
    warned = set()
    for decided in monitoring.replayed(log, detector):
        for window in monitor.add(*decided):
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


if __name__ == "__main__":
    flags.DEFINE_string("detector", None, "Folder that ood_suite.calibrate wrote.")
    flags.DEFINE_string("log", None, "Decisions in order of time, TSV or JSON lines.")
    flags.DEFINE_integer("window", 500, "Decisions that are tested together.", lower_bound=20)
    flags.mark_flags_as_required(["detector", "log"])
    cli.run_app(main, continues=False)
