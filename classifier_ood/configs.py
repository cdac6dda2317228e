"""Experiments with classifiers: every setting of a training and of its evaluation, as data.

`python -m classifier_ood.train --exp=NAME` trains one; a flag overrides a single value.
"""

import dataclasses

# Of CIFAR, in pixels 0..255, as all CIFAR papers here have them.
CIFAR_MEAN, CIFAR_STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment; the field names are those of the flags.

    Attributes:
        id_dataset: trained on; its "val" split chooses the best checkpoint and sets thresholds, its
            "test" split is the ID of the result.
        ood_near, ood_far: data sets of the result, near and far from the ID set. They choose
            nothing.
        ood_validation: data sets to tune hyper-parameters on; the first that is there is taken.
        ood_validation_split: which split of it.
        backbone, options: see classifier_ood.models.
        augmentation: "none", "flip", "crop" or "crop_flip"; the crop is one out of the image with
            4 zeros around it.
        learning_rate_schedule: "cosine" (set at each epoch's start) or "step" (a tenth from half of
            the epochs, a hundredth from three quarters).
        weight_decay: L2, added to the gradient of every trainable variable (coupled, as in
            PyTorch's SGD).
        eval_every, save_every: epochs between evaluations, which are also the checkpoints; epochs
            between models that are kept, 0 for none.
        strategy: None, or "mirrored" for all devices of the machine, see training.devices.
    """

    id_dataset: str
    ood_near: tuple
    ood_far: tuple
    ood_validation: tuple
    ood_validation_split: str = "test"
    backbone: str = "densenet"
    options: dict = dataclasses.field(default_factory=dict)
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 0.1
    learning_rate_schedule: str = "cosine"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    augmentation: str = "crop_flip"
    eval_every: int = 1
    save_every: int = 0
    random_seed: int = 1234
    dtype: str = "float32"
    strategy: str | None = None


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
}


@dataclasses.dataclass(frozen=True)
class LeaveOut:
    """What makes a leave-out ensemble of an experiment; the field names are those of the flags.

    Attributes:
        partition: "random", "each", or a name of leave_out.PARTITIONS.
        splits: K, for "random" alone; None is the paper's 5.
        margin: in nats. beta: weight of the entropy margin.
        outlier_factor: left-out images per ID image in a batch.
    """

    partition: str = "random"
    splits: int | None = None
    margin: float = 0.4
    beta: float = 0.2
    outlier_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A fine-tuning of a trained classifier; the field names are those of the flags.

    Attributes:
        um: loss constraint in nats; 0 is plain cross entropy.
        um_constraint: "batch", "sample" or "running", see losses.unleashing_mask.
        prune_rate: share of each kernel that is KEPT by masks that are learned while the weights
            are frozen (UMAP); 1 trains the weights.
        outliers, oe_method: auxiliary data set, and "oe", "energy", "poem" or "doe".
        outlier_sampling: "random" or "poem"; None is poem for the method poem, else random.
        outlier_factor: outliers per ID example in a batch.
        outlier_weight: of the outlier term; None is the method's (finetune_model.OUTLIER_WEIGHTS).
        m_in, m_out: energies of the methods energy and poem.
        pool_size: images that POEM looks at before each epoch.
        warm_up: epochs of DOE with plain outlier exposure.
        steps_per_epoch: what counts as an epoch; 0 is a pass over the data.
        augmentation: of ID images; None is that of the training before.
    The others are those of Experiment.
    """

    um: float = 0.0
    um_constraint: str = "batch"
    prune_rate: float = 1.0
    outliers: str | None = None
    oe_method: str | None = None
    outlier_sampling: str | None = None
    outlier_factor: float = 1.0
    outlier_weight: float | None = None
    m_in: float = -25.0
    m_out: float = -7.0
    pool_size: int = 400_000
    warm_up: int = 5
    epochs: int = 100
    steps_per_epoch: int = 0
    batch_size: int = 256
    learning_rate: float = 0.1
    learning_rate_schedule: str = "cosine"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    augmentation: str | None = None
    eval_every: int = 1
    save_every: int = 0


# The schedules of Unleashing Mask's released configurations; flags override single values.
FINE_TUNINGS = {
    "unleashing_mask": FineTuning(),
    "outlier_exposure": FineTuning(epochs=10, learning_rate=0.01),
}


def get(name):
    """The experiment of that name; ValueError lists the known names."""
    if name not in EXPERIMENTS:
        raise ValueError(f"Unknown experiment {name!r}. Known: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
