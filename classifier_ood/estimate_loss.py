"""Estimates the loss constraint of Unleashing Mask from randomly masked weights.

    python -m classifier_ood.estimate_loss --run=output/classifier_ood/fashion/convnet

A mask sets a random 1 - KEPT of every convolution's and the Dense layer's kernel to 0. The estimate
is the mean cross entropy of the masked network on the ID training set, averaged over masks: in
evaluation mode and without augmentation, or with --conditions=training as fine-tuning sees it
(augmented images, dropout, BatchNorm's statistics of each batch). It goes to
RUN/loss_constraint[_CHECKPOINT].json, where `classifier_ood.finetune --um=auto` reads it.

The released code draws a single mask without a seed, evaluates on augmented images, and prints the
number for the user to copy.
"""

import dataclasses

import numpy as np
from absl import flags, logging

from classifier_ood import base_network
from ood_suite.files import RunError, locked, read_json, write_json
from ood_suite.runs.cli import run_app
from ood_suite.runs.run import Run

FLAGS = flags.FLAGS
CONDITIONS = ("evaluation", "training")
KEPT = 0.965  # of the released configuration: 3.5% of the weights are set to 0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """How a loss constraint is estimated.

    Attributes:
        kept: share of each kernel that a mask keeps. masks: how many are drawn.
        conditions: "evaluation" or "training". batch_size: matters in training conditions.
        images: training images, a seeded choice; 0 for all.
    """

    kept: float = KEPT
    masks: int = 10
    conditions: str = "evaluation"
    batch_size: int = 256
    images: int = 0
    seed: int = 0


def result_path(run):
    suffix = "" if run.checkpoint == "last" else f"_{run.checkpoint}"
    return run.folder / f"loss_constraint{suffix}.json"


def estimate(run, settings, data_dir=None):
    """The estimate of a finished run, a dict, which is also written into the run:

    "um": mean over masks of the mean cross entropy in nats; "std": over masks (0 for one mask);
    "losses": of each mask; "unmasked": of the network as it is; and "made_with".
    """
    from classifier_ood import pruning

    _check(settings)
    network = base_network.load_network(run)
    training = base_network.training_data(run, network, data_dir)["training"]
    count = min(settings.images or len(training), len(training))
    rows = np.random.default_rng([settings.seed, 0]).permutation(len(training))[:count]
    made_with = dataclasses.asdict(settings) | {
        "images": count,
        "training_fingerprint": training.fingerprint,
        "model_fingerprint": base_network.model_fingerprint(run),
    }
    path, partial = result_path(run), result_path(run).with_suffix(".partial.json")
    found = read_json(path) if path.exists() else {}
    if found.get("made_with") == made_with:
        logging.info("%s has this estimate already.", path)
        return found
    begun = read_json(partial) if partial.exists() else {}
    losses = begun["losses"] if begun.get("made_with") == made_with else []
    original = network.get_weights()
    evaluate = _evaluator(run, network, training, rows, settings)
    unmasked = evaluate("no mask", 0)
    for number in range(len(losses) + 1, settings.masks + 1):
        network.set_weights(original)
        pruning.mask_at_random(
            network, settings.kept, np.random.default_rng([settings.seed, number])
        )
        losses.append(evaluate(f"mask {number} of {settings.masks}", number))
        write_json(partial, {"made_with": made_with, "losses": losses})  # goes on after a kill
    result = {
        "um": float(np.mean(losses)),
        "std": float(np.std(losses, ddof=1)) if len(losses) > 1 else 0.0,
        "losses": losses,
        "unmasked": unmasked,
        "made_with": made_with,
    }
    write_json(path, result)
    partial.unlink()
    return result


def load(run):
    """The estimate on file of a run's model; RunError if there is none, or of another model."""
    path = result_path(run)
    command = f"python -m classifier_ood.estimate_loss --run={run.folder}"
    command += "" if run.checkpoint == "last" else f" --checkpoint={run.checkpoint}"
    found = read_json(path) if path.exists() else {}
    if not found:
        raise RunError(f"--um=auto needs {path}. To make it: {command}")
    if found["made_with"]["model_fingerprint"] != base_network.model_fingerprint(run):
        raise RunError(
            f"{path} is of another model than {run.model_path}. Make it again: {command}"
        )
    return found


def _check(settings):
    from classifier_ood import pruning

    pruning.check_kept(settings.kept)
    for name, lowest in (("masks", 1), ("batch_size", 1), ("images", 0)):
        if getattr(settings, name) < lowest:
            value = getattr(settings, name)
            raise ValueError(f"--{name} must be at least {lowest}. Received: {value}.")
    if settings.conditions not in CONDITIONS:
        raise ValueError(
            f"--conditions must be one of {', '.join(CONDITIONS)}. Received: "
            f"{settings.conditions!r}."
        )


def _evaluator(run, network, training, rows, settings):
    """function(title, number) -> mean cross entropy of the network with the weights it has."""
    import keras
    from tqdm.auto import tqdm

    from classifier_ood import pruning
    from classifier_ood.classifier_model import CropFlip, cross_entropy

    size, augment = settings.batch_size, None
    model, rows = network, np.sort(rows)
    if settings.conditions == "training":
        augment = CropFlip(run.settings.get("augmentation", "none"), settings.seed)

        class InTraining(keras.Model):  # a functional model would be called for inference
            def __init__(self):
                super().__init__()
                self.parts = [augment, network]  # variables that are not the model's are constants

            def call(self, images):
                return network(augment(images, training=True), training=True)

        model = InTraining()
        # In random order and whole batches only, as in training: BatchNorm sees the batches.
        rows = np.random.default_rng([settings.seed, 0, 1]).permutation(rows)
        rows = rows[: len(rows) // size * size]
        if not len(rows):
            raise ValueError(
                f"--batch_size must be at most the number of images. Received: {size}."
            )

    def evaluate(title, number):
        for place, layer in enumerate([*pruning.leaves(network), *filter(None, [augment])]):
            if hasattr(layer, "seed_generator"):  # each mask has its own dropout and crops
                layer.seed_generator.state.assign(np.uint32([1000 * settings.seed + number, place]))
        total = 0.0
        starts = range(0, len(rows), size)
        for start in tqdm(starts, desc=title, unit="batch", mininterval=2):
            batch = rows[start : start + size]
            logits = model.predict_on_batch(training.images[batch])["logits"]
            total += float(np.sum(cross_entropy(logits, training.labels[batch])))
        return total / len(rows)

    return evaluate


def main(_):
    run = Run.load(FLAGS.run, FLAGS.checkpoint)
    settings = Estimate(
        **{field.name: FLAGS[field.name].value for field in dataclasses.fields(Estimate)}
    )
    with locked(run.folder):
        result = estimate(run, settings, FLAGS.data_dir)
    made_with = result["made_with"]
    print(
        f"um = {result['um']:.4f} nats (standard deviation {result['std']:.4f} over "
        f"{made_with['masks']} masks that keep {made_with['kept']:.1%} of each kernel); without "
        f"masks {result['unmasked']:.4f}. {made_with['images']} training images, "
        f"{made_with['conditions']} conditions."
    )
    logging.info("Wrote %s.", result_path(run))


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run folder of a trained or converted classifier.")
    flags.DEFINE_string("checkpoint", "last", "Model of the run: last, best, first, epoch_<n>.")
    flags.DEFINE_string("data_dir", None, "Folder of the npz files; default: image_data.")
    flags.DEFINE_float("kept", KEPT, "Share of each kernel that a mask keeps.")
    flags.DEFINE_integer("masks", 10, "Number of random masks.")
    flags.DEFINE_enum("conditions", "evaluation", CONDITIONS, "How the network is run.")
    flags.DEFINE_integer("batch_size", 256, "Images per step.")
    flags.DEFINE_integer("images", 0, "Training images, a seeded choice; 0: all.")
    flags.DEFINE_integer("seed", 0, "Seed of the masks and of the choice of images.")
    flags.mark_flag_as_required("run")
    run_app(main)
