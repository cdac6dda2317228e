"""Writes what a trained run says of data sets: log-probabilities and maps of a density; features,
logits, and on demand perturbed logits and inner layers of a classifier or an ensemble.

    python -m ood_suite.extract --run=output/classifier_ood/fashion/convnet
    python -m ood_suite.extract --run=RUN --dataset=mnist --split=test
    python -m ood_suite.extract --run=RUN --shards=64 --engine=ray

One npz a data set in the run's outputs/ (see ood_suite.outputs), batch by batch, so that memory
does not grow with the data; the same command goes on where a killed one stopped. `python -m
ood_suite.eval` extracts by itself what it needs.
"""

from absl import flags, logging

from ood_suite.outputs import ON_DEMAND
from ood_suite.runs import cli, extraction, jobs
from ood_suite.runs.run import Role, Run, next_step

FLAGS = flags.FLAGS
MOST_SHARDS = 10_000  # each is a job with a folder of its own


def wanted_parts(run, extractor):
    """extraction.Parts of the flags; ODIN's with the rules of the run's extractor."""
    rules = dict.fromkeys(extractor.PERTURBED.values())
    if FLAGS.odin_epsilon and not rules:
        raise ValueError(f"--odin_epsilon is for classifiers, and {run.folder} is a density.")
    temperatures, epsilons = cli.numbers("odin_temperature"), cli.numbers("odin_epsilon")
    steps = [(temperature, epsilon) for temperature in temperatures for epsilon in epsilons]
    return extraction.Parts(
        maps=run.kind == "density" and FLAGS.maps,
        perturbations=tuple((*step, rule) for rule in rules for step in steps),
        inner_layers=tuple(FLAGS.inner_layers),
        fields=tuple(FLAGS.fields),
    )


def main(_):
    run = Run.load(cli.run_folder(), cli.checkpoint())
    engine = cli.engine()
    roles = run.roles
    if run.kind == "density":  # nothing is learned from what it says of its training data
        roles = {name: role for name, role in roles.items() if name != "training"}
    if FLAGS.dataset:
        roles = {"asked for": Role(tuple(FLAGS.dataset), FLAGS.split)}
    parts = wanted_parts(run, extraction.extractor_of(run))
    of_training = extraction.Parts(
        inner_layers=parts.inner_layers,
        fields=tuple(field for field in parts.fields if field == "gram_sums"),  # Gram learns
    )
    wanted = [
        {
            "names": role.names,
            "split": role.split,
            "parts": of_training if name == "training" else parts,
            "data_dir": cli.data_dir(),
            "batch_size": FLAGS.batch_size,
        }
        for name, role in roles.items()
    ]
    computed = extraction.compute(run, wanted, engine=engine, shards=FLAGS.shards)
    for name, outputs in zip(roles, computed, strict=True):
        arrays = ", ".join(dict.fromkeys(key.split("/")[0] for key in outputs.arrays()))
        note = f" [{outputs.meta['note']}]" if outputs.meta["note"] else ""
        logging.info(
            "%s: %s (%s), %d examples: %s%s", name, outputs.meta["dataset"], outputs.meta["split"],
            len(outputs), arrays, note,
        )  # fmt: skip
    folder = run.folder.parent if run.kind in ("density", "member") else run.folder
    checkpoint = "" if run.checkpoint == "last" else f"--checkpoint={run.checkpoint}"
    logging.info("Next: %s", next_step(folder, cli.data_dir(), checkpoint))


if __name__ == "__main__":
    cli.define_run("Run folder of a finished training, conversion, or model of your own.")
    cli.define_ckpt_step()
    flags.DEFINE_list("dataset", [], "Only this data set (several: in order of preference).")
    flags.DEFINE_enum("split", "test", ["train", "val", "test"], "Split of --dataset.")
    cli.define_data_dir("image_data or genomics_data")
    flags.DEFINE_bool("maps", True, "Per-pixel maps and images of a density (5 bytes a pixel).")
    flags.DEFINE_list("inner_layers", [], "Layers of a classifier, for scores of several layers.")
    flags.DEFINE_list(
        "fields", [], f"More of a classifier: {', '.join(ON_DEMAND)} (of --inner_layers)."
    )
    flags.DEFINE_list("odin_temperature", ["1000"], "Temperatures of ODIN.")
    flags.DEFINE_list("odin_epsilon", [], "Step sizes of ODIN in pixels / 255; none: no ODIN.")
    flags.DEFINE_integer("batch_size", 100, "Examples per step.", lower_bound=1)
    flags.DEFINE_integer(
        "shards", 1, "Jobs that a data set is cut into.", lower_bound=1, upper_bound=MOST_SHARDS
    )
    cli.define_settings(jobs.Engine)
    cli.run_app(main)
