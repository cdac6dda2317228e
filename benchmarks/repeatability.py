"""How often one and the same training differs in its last bits.

    TF_NUM_INTEROP_THREADS=2 python benchmarks/repeatability.py    # TensorFlow's own, two cores
    TF_NUM_INTEROP_THREADS=1 python benchmarks/repeatability.py    # what our binaries set

Trains a member of a tiny leave-out ensemble again and again, eight steps each, and counts the
different states at the end.
"""

import collections
import dataclasses
import pathlib
import sys
import tempfile

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np  # noqa: E402

FLAGS = flags.FLAGS


def write_data(folder):
    from ood_suite.data.npz import write_images

    rng = np.random.default_rng(7)
    for name, count in (("train", 64), ("val", 24)):
        images = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        write_images(folder / f"fashion_mnist_{name}.npz", images, np.arange(count) % 10)
    write_images(folder / "notmnist.npz", images, np.zeros(len(images)))


def main(_):
    from classifier_ood import configs
    from classifier_ood.leave_out_run import train_ensemble
    from ood_suite.files import fingerprint
    from tests.support import final_state

    experiment = dataclasses.replace(
        configs.EXPERIMENTS["fashion"], options={"width": 2, "dropout": 0.2}, epochs=2, batch_size=8
    )
    settings, ends = configs.LeaveOut(splits=3), collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_data(folder)
        for number in range(FLAGS.runs):
            run = train_ensemble(
                experiment, settings, "fashion", folder / str(number), data_dir=folder, members=[0]
            )
            _, state = final_state(run.folder / "member0")
            ends[fingerprint(*(state[key] for key in sorted(state)))] += 1
    usual = max(ends.values())
    print(f"{FLAGS.runs - usual} of {FLAGS.runs} trainings ended differently.")


if __name__ == "__main__":
    flags.DEFINE_integer("runs", 60, "Trainings.", lower_bound=2)
    app.run(main)
