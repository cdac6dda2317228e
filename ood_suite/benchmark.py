"""Evaluates a run as a paper does, and puts the published numbers beside ours.

    python -m ood_suite.benchmark --protocol=um_cifar10 --run=RUN --data_root=FOLDER

docs/protocols.md lists the protocols: OOD sets with their transforms, scores with their parameters,
published numbers with their source. OOD sets that are not there, and scores that the run does not
have, are notes; --ood_near and --ood_far add sets to the protocol's. Writes protocol.csv,
protocol.json and the report of ood_suite.eval into RUN/protocol_NAME/.
"""

import dataclasses

from absl import flags

from ood_suite.evaluation.request import Request
from ood_suite.protocols import PROTOCOLS
from ood_suite.runs import cli
from ood_suite.runs.settings import known_name

FLAGS = flags.FLAGS
# What the protocol says, or leaves to its defaults.
OF_PROTOCOL = (
    "scores", "tune", "preset", "inner_layers", "ood_validation", "baseline",
)  # fmt: skip


def main(_):
    name = known_name(PROTOCOLS, FLAGS.protocol, "protocol")
    from ood_suite.evaluation import side_by_side  # loads matplotlib, which --help need not

    protocol, given = side_by_side.located(PROTOCOLS[name], cli.data_dir()), cli.overrides(Request)
    changes = side_by_side.asked(protocol) | given
    for more in sorted(set(given) & {"ood_near", "ood_far"}):
        if not (protocol.near or protocol.far):
            raise ValueError(
                f"--protocol={name} is for the run's own OOD sets: leave --{more} out, or evaluate "
                "others with ood_suite.eval."
            )
        changes[more] = (*getattr(protocol, more.removeprefix("ood_")), *given[more])
    request = dataclasses.replace(Request(), **changes)
    side_by_side.judge(
        name, protocol, cli.run_folder(), request, data_dir=cli.data_dir(), out=FLAGS.out
    )


if __name__ == "__main__":
    flags.DEFINE_string("protocol", None, f"One of {', '.join(PROTOCOLS)}.")
    flags.mark_flag_as_required("protocol")
    cli.define_run("A run folder, or a folder of runs (an experiment's).", checkpoint=False)
    cli.define_data_dir("image_data or genomics_data")
    flags.DEFINE_string("out", None, "Folder of what is written; default: RUN/protocol_NAME.")
    cli.define_settings(Request, without=OF_PROTOCOL)
    cli.run_app(main)
