"""Leave-out classifiers: which classes each member leaves out, and how a member is trained.

Member k of K sees partition k of the classes as outliers and learns to tell the other classes
apart, so that the ensemble is self-supervised: no auxiliary outliers are needed.
"""

import keras
import numpy as np
from keras import ops
from sklearn.metrics import roc_auc_score

from classifier_ood.classifier_model import ClassifierModel, cross_entropy
from classifier_ood.losses import entropy_margin
from ood_suite.training import devices

# Named partitions of CIFAR-10 (0 airplane ... 9 truck); the order is that of the members.
PARTITIONS = {"cifar10_pairs": ((8, 9), (6, 7), (4, 5), (2, 3), (0, 1))}
OUTLIER, OTHER_OUTLIER = -1, -2  # labels in validation: a left-out class, the validation OOD set


def partitions(num_classes, splits=5, name="random", seed=0):
    """The classes that each member leaves out: a tuple of sorted tuples.

    Args:
        splits: K, the number of members, for "random".
        name: "random", a seeded permutation cut into K parts whose sizes differ by one at most;
            "each", every class on its own; or a name of PARTITIONS.

    Raises:
        ValueError: parts that do not cover the classes, or leave a member fewer than two.

    >>> partitions(10, 3, "each")[:3]
    ((0,), (1,), (2,))
    """
    if name == "random":
        if not 2 <= splits <= num_classes:
            raise ValueError(f"--splits must lie in 2..{num_classes}. Received: {splits}.")
        order = np.random.default_rng(seed).permutation(num_classes)
        parts = np.array_split(order, splits)
    elif name == "each":
        parts = np.arange(num_classes)[:, None]
    elif name in PARTITIONS:
        parts = PARTITIONS[name]
    else:
        known = ", ".join(["random", "each", *PARTITIONS])
        raise ValueError(f"Unknown partition {name!r}. Known: {known}.")
    found = tuple(tuple(sorted(int(c) for c in part)) for part in parts)
    if sorted(c for part in found for c in part) != list(range(num_classes)):
        raise ValueError(f"The partition {name} is not one of {num_classes} classes: {found}.")
    if num_classes - max(len(part) for part in found) < 2:
        raise ValueError(
            f"A member would learn fewer than 2 of the {num_classes} classes: {found}."
        )
    return found


def local_labels(labels, left_out, num_classes):
    """Labels among the classes that a member learns, in their order; OUTLIER for the left-out.

    >>> local_labels(np.array([0, 1, 2, 3]), (1,), 4)
    array([ 0, -1,  1,  2], dtype=int32)
    """
    kept = [c for c in range(num_classes) if c not in left_out]
    table = np.full(num_classes, OUTLIER, np.int32)
    table[kept] = np.arange(len(kept))
    return table[labels]


class Member(ClassifierModel):
    """A leave-out classifier in training:

    mean_in CE(softmax(z), y) + beta * max(margin + mean_in H - mean_out H, 0)

    Two forward passes a step, so that BatchNorm sees ID examples and left-out classes apart.

    Args:
        backbone: keras.Model with logits of the classes that the member learns.
        id_rows: ID examples in a batch, which come first; on several devices each has its part of
            both, see devices.shared_out. margin, beta: of the loss, in nats.

    Reference: Vyas et al., "Out-of-Distribution Detection Using an Ensemble of Self Supervised
        Leave-out Classifiers", ECCV 2018.
    """

    def __init__(self, backbone, id_rows, *, margin, beta, augmentation="none", seed=0):
        super().__init__(backbone, augmentation, 0.0, seed)
        self.id_rows, self.margin, self.beta = id_rows // devices.count(), margin, beta
        self.entropy_gap = keras.metrics.Mean("entropy_gap")

    def call(self, images, training=False):
        if not training:
            return super().call(images)
        images = self.augmentation(images, training=True)
        parts = images[: self.id_rows], images[self.id_rows :]
        found = [self.backbone(part, training=True)["logits"] for part in parts]
        return {"logits": ops.concatenate(found)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        inside, outside = y_pred["logits"][: self.id_rows], y_pred["logits"][self.id_rows :]
        penalty, gap = entropy_margin(inside, outside, self.margin)
        self.entropy_gap.update_state(gap)
        if devices.count() > 1:  # the hinge is on the means of the whole batch
            is_active = devices.mean(gap) < self.margin
            penalty = ops.cast(is_active, gap.dtype) * (self.margin - gap)
        cross_entropies = cross_entropy(inside, y[: self.id_rows])
        return devices.share(ops.mean(cross_entropies) + self.beta * penalty)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.accuracy.update_state(y, y_pred["logits"], sample_weight=ops.cast(y >= 0, "float32"))
        return self.get_metrics_result()

    def evaluate(self, images, labels, batch_size=100, verbose=0, return_dict=True):
        """{"loss", "accuracy"} of the classes that the member learns, and the AUROC of its maximum
        softmax between them and its left-out classes ("auroc_left_out"), and, if there is one, the
        validation OOD set ("auroc_validation_ood").

        Args:
            labels: local; OUTLIER for left-out classes, OTHER_OUTLIER for the validation OOD set.
        """
        logits = self.backbone.predict(images, batch_size=batch_size, verbose=0)["logits"]
        logits = logits.astype(np.float64)
        own = labels >= 0
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        found = {
            "loss": -log_p[own, labels[own]].mean(),
            "accuracy": np.mean(logits[own].argmax(axis=1) == labels[own]),
        }
        confidence = log_p.max(axis=1)
        for name, mark in (("left_out", OUTLIER), ("validation_ood", OTHER_OUTLIER)):
            rows = own | (labels == mark)
            if np.any(labels == mark):
                is_known = np.isfinite(confidence[rows]).all()  # the loss says it otherwise
                auroc = roc_auc_score(own[rows], confidence[rows]) if is_known else np.nan
                found[f"auroc_{name}"] = auroc
        return {name: float(value) for name, value in found.items()}
