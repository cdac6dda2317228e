"""Screens images with a detector: which are like nothing that it was calibrated on?

    python -m ood_suite.screen --detector=detector/ photos/ more.zip > decisions.tsv
    find . -name "*.png" | python -m ood_suite.screen --detector=detector/ --out=decisions.tsv -

Takes folders (with all below them), image files, npz files of `images`, zip and tar archives, and
with - a list of such paths on standard input. Every image becomes a line, in this order:

    file, class (predicted), score (higher = more OOD), p_value, is_ood

p_value is that of an in-distribution image with so high a score; is_ood is 1 above the threshold,
or with --fdr for all images together. NA stands for what cannot be read. With --out the same
command continues after a kill. A summary goes to standard error: the share called OOD against the
share that the detector promises.
"""

import pathlib
import sys

from absl import flags

from ood_suite.optional import quietly
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(argv):
    paths = listed() if argv[1:] == ["-"] else argv[1:]
    if not paths:
        raise ValueError("Give folders, images, npz files or archives, or - for a list of them.")
    if not any(pathlib.Path(path).exists() for path in paths):
        raise FileNotFoundError(f"There is no file or folder {', '.join(paths[:5])}.")
    if FLAGS.fdr is not None and not 0.0 < FLAGS.fdr < 1.0:
        raise ValueError(f"--fdr must lie in (0, 1). Received: {FLAGS.fdr}.")
    with quietly():  # not at the top: --help need not wait for Keras
        from ood_suite.serving.pixel_detector import PixelDetector
        from ood_suite.serving.screening import screen

    detector = PixelDetector.load(FLAGS.detector)
    summary = screen(detector, paths, FLAGS.out, false_discoveries=FLAGS.fdr, form=FLAGS.format)
    for line in summary.lines():
        print(line, file=sys.stderr)
    if summary.images == summary.unreadable:
        raise ValueError(f"Nothing could be read of {', '.join(paths[:5])}.")


def listed():
    """Paths on standard input, a line each, in whatever encoding."""
    sys.stdin.reconfigure(errors="surrogateescape")
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]


if __name__ == "__main__":
    flags.DEFINE_string("detector", None, "Folder that ood_suite.calibrate wrote.")
    flags.DEFINE_string("out", "-", "File to write; - for standard output.")
    flags.DEFINE_float("fdr", None, "At most this share of those called OOD is false, on average.")
    flags.DEFINE_enum("format", "tsv", ("tsv", "jsonl"), "Tab-separated, or a JSON object a line.")
    flags.mark_flag_as_required("detector")
    cli.run_app(main, positional=True, continues=lambda: FLAGS.out != "-")
