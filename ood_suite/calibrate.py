"""Makes a detector of a run: one folder with all that decides on raw pixels, and a guarantee.

    python -m ood_suite.calibrate --run=output/classifier_ood/mine --false_alarms=0.01
    python -m ood_suite.screen --detector=detector/ photos/ > decisions.tsv

The run is one of a classifier of images: trained here, converted, or your own Keras model
(classifier_ood.own_model). Held-out ID data set the threshold, so that of new ID images at most
--false_alarms are called OOD; --score=auto chooses on validation OOD data, some of it generated.
The folder holds network, score, thresholds, and card.md, which says all of this with numbers.
"""

import dataclasses

from absl import flags, logging

from ood_suite.optional import quietly
from ood_suite.runs import cli
from ood_suite.serving.request import Calibration

FLAGS = flags.FLAGS


def main(_):
    with quietly():  # not at the top: --help need not wait for Keras
        from ood_suite.serving.calibration import calibrate
        from ood_suite.serving.pixel_detector import require_place

    require_place(FLAGS.out, FLAGS.overwrite)  # before the work
    wanted = dataclasses.replace(Calibration(), **cli.overrides(Calibration))
    detector = calibrate(cli.run_folder(), wanted, data_dir=cli.data_dir())
    detector.save(FLAGS.out, FLAGS.overwrite)
    logging.info("Wrote %s. Read %s/card.md.", FLAGS.out, FLAGS.out.rstrip("/"))
    logging.info("Next: python -m ood_suite.screen --detector=%s FOLDER_OR_FILES", FLAGS.out)


if __name__ == "__main__":
    cli.define_run("Run folder of a classifier of images.", checkpoint=False)
    cli.define_data_dir("image_data")
    cli.define_settings(Calibration)
    flags.DEFINE_string("out", "detector", "Folder to write.")
    flags.DEFINE_bool("overwrite", False, "Replace a detector that is there.")
    cli.run_app(main)
