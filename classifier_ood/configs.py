"""Experiments with classifiers: every setting of a training and of its evaluation, as data.

`python -m classifier_ood.train --exp=NAME` trains one; a flag overrides a single value.
"""

import dataclasses

from ood_suite.runs.settings import DTYPE_HELP, DTYPES, STRATEGY_HELP, declared, setting

# Of CIFAR, in pixels 0..255, as all CIFAR papers here have them.
CIFAR_MEAN, CIFAR_STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
# Of ImageNet, torchvision's .485, .456, .406 and .229, .224, .225 in pixels.
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Means and standard deviations of code bases. cifar: DICE, ODIN, Unleashing Mask and most others;
# himplos: .4914, .4822, .4465 and .2023, .1994, .2010 in 0..1; openood_cifar100: .5071, .4867,
# .4408 and .2675, .2565, .2761.
NORMALISATIONS = {
    "cifar": (CIFAR_MEAN, CIFAR_STD),
    "himplos": ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "openood_cifar100": ((129.3105, 124.1085, 112.404), (68.2125, 65.4075, 70.406)),
}

# Pixels that a network of somebody else was trained on; caffe and torch as
# keras.applications.imagenet_utils.preprocess_input makes them of RGB ones.
INPUT_RANGES = ("0..255", "0..1", "-1..1", "caffe", "torch")

AUGMENTATIONS = ("none", "crop", "flip", "crop_flip")
# --temperature of a --normalization: the authors' for CIFAR-10, and OpenOOD's for all data sets.
TEMPERATURES = {"feature": 0.1, "logit": 0.04}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment; the field names are those of the flags.

    Attributes:
        id_dataset: trained on; its "val" split chooses the best checkpoint and sets thresholds, its
            "test" split is the ID of the result.
        ood_near, ood_far: data sets of the result, near and far from the ID set. They choose
            nothing.
        ood_validation: data sets to tune hyper-parameters on; the first that is there is taken, its
            split being `ood_validation_split`.
    The others: see their help.
    """

    id_dataset: str
    ood_near: tuple
    ood_far: tuple
    ood_validation: tuple = setting((), "OOD sets to choose by; the first that is there is taken.")
    ood_validation_split: str = "test"
    backbone: str = setting("densenet", "Network, see classifier_ood/models/__init__.py.")
    options: dict = setting({}, "The backbone's options, as depth=40,width=2.")
    epochs: int = setting(100, "Passes over the (ID) training images.", at_least=1)
    batch_size: int = setting(64, "Images per step (of a leave-out member: ID images).", at_least=2)
    learning_rate: float = setting(0.1, "SGD's step size at the start.", above=0)
    learning_rate_schedule: str = setting(
        "cosine",
        "By a cosine, set at each epoch's start; or a tenth from half of the epochs, a hundredth "
        "from three quarters on.",
        choices=("cosine", "step"),
    )
    momentum: float = setting(0.9, "SGD's momentum.", at_least=0, below=1)
    nesterov: bool = setting(False, "Nesterov's momentum.")
    weight_decay: float = setting(1e-4, "Coupled L2, as in PyTorch's SGD.", at_least=0)
    label_smoothing: float = setting(0.0, "Share spread over classes.", at_least=0, below=1)
    normalization: str | None = setting(
        None,
        "Unit length in training: of logits (LogitNorm) or of features (T2FNorm); if not given: "
        "none.",
        choices=("logit", "feature"),
    )
    temperature: float | None = setting(
        None, "What --normalization divides by; if not given: logit 0.04, feature 0.1.", above=0
    )
    augmentation: str = setting(
        "crop_flip", "Of training images; crops have 4 zeros around.", choices=AUGMENTATIONS
    )
    eval_every: int = setting(1, "Epochs between evaluations and checkpoints.", at_least=1)
    save_every: int = setting(0, "Epochs between models kept for good; 0: none.", at_least=0)
    random_seed: int = setting(1234, "Of all that is drawn; adds --repeat_id.", at_least=0)
    dtype: str = setting("float32", DTYPE_HELP, choices=DTYPES)
    strategy: str | None = setting(None, STRATEGY_HELP, choices=("mirrored",))


_CIFAR_NORMALISATION = {"mean": CIFAR_MEAN, "std": CIFAR_STD}
_CIFAR10 = {
    "id_dataset": "cifar10",
    "ood_near": ("cifar100", "tiny_imagenet"),
    "ood_far": ("svhn_cropped", "uniform", "gaussian"),
    "ood_validation": ("cifar10_grey",),
    "ood_validation_split": "val",  # the ID test images must not choose anything, grey or not
}
_CIFAR100 = _CIFAR10 | {"id_dataset": "cifar100", "ood_near": ("cifar10", "tiny_imagenet")}
_DENSENET = {"backbone": "densenet", "options": _CIFAR_NORMALISATION}
_WRN = {
    "backbone": "wide_resnet",
    "options": {"depth": 40, "width": 2, "dropout": 0.3},
    "batch_size": 128,
    "nesterov": True,
    "weight_decay": 5e-4,
}


def _imagenet(transform):
    """OpenOOD's sets for networks of ImageNet, all brought to their size by one transform."""

    def framed(*names):
        return tuple(f"{name}:{transform}" for name in names)

    return Experiment(
        *framed("imagenet"),
        ood_near=framed("ssb_hard", "ninco"),
        ood_far=framed("inaturalist", "dtd", "openimage_o"),
        backbone="resnet_imagenet",
    )


EXPERIMENTS = {
    # python -m classifier_ood.train --exp=cifar10
    # DenseNet-BC-100-12, 100 epochs of batch 64, as the OOD papers train it: for a GPU. Not run by
    # us. `classifier_ood.convert` imports a network trained that way (about 94%).
    "cifar10": Experiment(**_CIFAR10 | _DENSENET),
    # python -m classifier_ood.train_leave_out --exp=cifar10_leave_out --partition=cifar10_pairs
    # The schedule of the leave-out paper (Vyas et al., 2018), for a GPU. Not run by us.
    "cifar10_leave_out": Experiment(
        **_CIFAR10 | _DENSENET, batch_size=100, learning_rate_schedule="step", weight_decay=5e-4
    ),
    # python -m classifier_ood.train --exp=cifar100
    # The same with 100 classes. Not run by us.
    "cifar100": Experiment(**_CIFAR100 | _DENSENET),
    # python -m classifier_ood.train --exp=cifar100_wrn
    # WRN-40-2, for a GPU. Not run by us.
    "cifar100_wrn": Experiment(**_CIFAR100 | _WRN, epochs=200),
    # python -m classifier_ood.train --exp=cifar10_wrn
    # WRN-40-2, for a GPU. Not run by us.
    "cifar10_wrn": Experiment(**_CIFAR10 | _WRN, epochs=200),
    # python -m classifier_ood.train --exp=fashion
    # A small network for 28x28 images: see README.md for time and result (make demo).
    "fashion": Experiment(
        id_dataset="fashion_mnist",
        ood_near=(),
        ood_far=("mnist", "glyphs", "gaussian"),
        ood_validation=("notmnist", "uniform"),
        backbone="convnet",
        options={"width": 16},
        epochs=6,
        augmentation="flip",
        learning_rate=0.1,
        nesterov=True,
        weight_decay=5e-4,
    ),
    # python -m classifier_ood.convert --checkpoint=r.pth --backbone=resnet_imagenet --exp=imagenet
    # OpenOOD's sets for torchvision's networks, whose training is not repeated here. Not run by us.
    "imagenet": _imagenet("imagenet"),
    # python -m classifier_ood.convert --checkpoint=r.pth --backbone=resnet50 --exp=imagenet_v2
    # The same for the second version of torchvision's weights, of images scaled to 232.
    "imagenet_v2": _imagenet("imagenet_232"),
}


def _same(name, default):
    """A field that is declared as in Experiment, with a default of its own."""
    return dataclasses.field(default=default, metadata=declared(Experiment)[name][0].metadata)


@dataclasses.dataclass(frozen=True)
class LeaveOut:
    """What makes a leave-out ensemble of an experiment; the field names are those of the flags."""

    partition: str = setting("random", "random, each (leave one out), or cifar10_pairs.")
    splits: int | None = setting(None, "Members, with --partition=random; 5 if not given.")
    margin: float = setting(0.4, "Of the entropies, in nats.", at_least=0)
    beta: float = setting(0.2, "Weight of the entropy margin in the loss.", at_least=0)
    outlier_factor: float = setting(1.0, "Left-out images per ID image in a batch.", above=0)


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A fine-tuning of a trained classifier; the field names are those of the flags.

    Attributes:
        um: loss constraint in nats; 0 is plain cross entropy.
        um_constraint: see losses.unleashing_mask.
        outlier_sampling: None is poem for the method poem, else random.
        outlier_weight: None is the method's (finetune_model.OUTLIER_WEIGHTS).
        augmentation: of ID images; None is that of the training before.
    The others: see their help; those that a training has too are as in Experiment.
    """

    um: float = setting(0.0, "Loss constraint in nats.", at_least=0)
    um_constraint: str = setting("batch", "Where it acts.", choices=("batch", "sample", "running"))
    prune_rate: float = setting(
        1.0, "Share of each kernel KEPT by learned masks (UMAP); 1: no masks.", above=0, at_most=1
    )
    outliers: str | None = setting(None, "Auxiliary OOD data: a data set, npz, folder, tfds:NAME.")
    oe_method: str | None = setting(
        None, "Loss on the outliers; oe if not given.", choices=("oe", "energy", "poem", "doe")
    )
    outlier_sampling: str | None = setting(
        None, "If not given: poem for poem, else random.", choices=("random", "poem")
    )
    outlier_factor: float = setting(1.0, "Outliers per ID example in a batch.", above=0)
    outlier_weight: float | None = setting(
        None, "Of the outlier term; default: oe 0.5, energy and poem 0.1, doe 1.", above=0
    )
    m_in: float = setting(-25.0, "Energy that ID examples should stay below (energy, poem).")
    m_out: float = setting(-7.0, "Energy that outliers should stay above.")
    pool_size: int = setting(400_000, "Images that POEM looks at before each epoch.", at_least=1)
    warm_up: int = setting(5, "Epochs of DOE with plain outlier exposure.", at_least=0)
    doe_direction: str | None = setting(
        None,
        "DOE's search; if not given: ascent, the paper's. The released codes descend.",
        choices=("ascent", "descent"),
    )
    steps_per_epoch: int = setting(0, "Steps of an epoch; 0: a pass over the data.", at_least=0)
    epochs: int = _same("epochs", 100)
    batch_size: int = _same("batch_size", 256)
    learning_rate: float = _same("learning_rate", 0.1)
    learning_rate_schedule: str = _same("learning_rate_schedule", "cosine")
    momentum: float = _same("momentum", 0.9)
    nesterov: bool = _same("nesterov", False)
    weight_decay: float = _same("weight_decay", 1e-4)
    label_smoothing: float = _same("label_smoothing", 0.0)
    augmentation: str | None = _same("augmentation", None)
    eval_every: int = _same("eval_every", 1)
    save_every: int = _same("save_every", 0)
    dtype: str | None = setting(
        None,
        "Precision of the training (files hold float32); if not given: of --run's network.",
        choices=DTYPES[1:],
    )
    strategy: str | None = _same("strategy", None)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """How a loss constraint is estimated, see loss_constraint."""

    # Of the released configuration: 3.5% of the weights are set to 0.
    kept: float = setting(0.965, "Share that a mask keeps.", above=0, at_most=1)
    masks: int = setting(10, "Number of random masks.", at_least=1)
    conditions: str = setting(
        "evaluation",
        "How the network is run: as in evaluation, or as fine-tuning sees it.",
        choices=("evaluation", "training"),
    )
    batch_size: int = setting(256, "Images per step; matters in training conditions.", at_least=1)
    images: int = setting(0, "Training images, a seeded choice; 0: all.", at_least=0)
    seed: int = setting(0, "Seed of the masks and of the choice of images.", at_least=0)


# The schedules of Unleashing Mask's released configurations; flags override single values.
FINE_TUNINGS = {
    "unleashing_mask": FineTuning(),
    "outlier_exposure": FineTuning(epochs=10, learning_rate=0.01),
}


def replaced(experiment, overrides):
    """The experiment with some values replaced; options are joined, unless the backbone is new."""
    if overrides.get("backbone", experiment.backbone) == experiment.backbone:
        options = experiment.options | overrides.get("options", {})
    else:
        options = overrides.get("options", {})
    return dataclasses.replace(experiment, **overrides | {"options": options})
