"""A trained classifier in fine-tuning: the cross entropy with its constraint, and outliers."""

import keras
from keras import ops

from classifier_ood import losses, pruning
from classifier_ood.classifier_model import ClassifierModel, cross_entropy
from classifier_ood.copies import in_precision
from classifier_ood.doe import ImplicitOutliers
from ood_suite.training import devices

OUTLIER_WEIGHTS = {"doe": 1.0, "energy": 0.1, "oe": 0.5, "poem": 0.1}


class FineTuneModel(ClassifierModel):
    """A network in fine-tuning.

    C(ID) + weight * outlier term, where C is losses.unleashing_mask of the cross entropies (of
    their mean alone, when um is 0), and the outlier term, by method:

    oe: mean of losses.cross_entropy_to_uniform; energy, poem: losses.energy_margins;
    doe: ImplicitOutliers.

    One forward pass of ID examples and outliers, so that BatchNorm sees both. Outliers are never
    part of C. In evaluation the loss is the plain cross entropy of ID examples (the released code
    shows the constrained one, which cannot fall below um).

    Args:
        network: keras.Model that returns {"features", "logits"}, masked or plain.
        settings: configs.FineTuning. um: loss constraint in nats.
        id_rows: number of ID examples in a batch of ID examples and outliers; None: no outliers.
            On several devices each has its part of both, see devices.shared_out.
        warm_up: steps of DOE before it searches.
    """

    def __init__(self, network, settings, *, um=0.0, id_rows=None, warm_up=0, seed=0, **kwargs):
        super().__init__(network, settings.augmentation, settings.label_smoothing, seed, **kwargs)
        self.settings, self.um = settings, um
        self.id_rows = id_rows and id_rows // devices.count()
        self.method = settings.oe_method if id_rows else None
        self.weight = settings.outlier_weight
        if self.method and self.weight is None:
            self.weight = OUTLIER_WEIGHTS[self.method]
        if self.method == "doe":
            self.implicit_outliers = ImplicitOutliers(
                network, warm_up, seed + 1, settings.doe_direction or "ascent"
            )
        self.running_mean, self.running_weight = (
            self.add_weight(
                (), "zeros", name=name, trainable=False, aggregation="only_first_replica"
            )
            for name in ("running_mean", "running_weight")
        )
        self.only_in_training = [keras.metrics.Mean("cross_entropy"), keras.metrics.Mean("ascent")]
        if self.method:
            self.only_in_training.append(keras.metrics.Mean("outlier_loss"))

    def network(self):
        """The plain network: masks are applied."""
        masked = self.settings.prune_rate < 1.0
        return self.kept(pruning.applied(self.backbone) if masked else self.backbone)

    def kept(self, network):
        """What files hold of a network: with --dtype one that computes in float32, as its weights
        are, so that it runs anywhere and is compared with its base at the same precision.
        """
        return in_precision(network, "float32") if self.settings.dtype else network

    def call(self, images, training=False):
        if not (training and self.id_rows):
            return super().call(images, training=training)
        inside = ops.cast(self.augmentation(images[: self.id_rows], training=True), "float32")
        outside = ops.cast(images[self.id_rows :], "float32")  # crops already
        images = ops.concatenate([inside, outside])
        return self.backbone(images, training=True) | {"images": images}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        logits = y_pred["logits"]
        if not training:
            return devices.share(ops.mean(cross_entropy(logits, y)))
        own = slice(None, self.id_rows)
        values = cross_entropy(logits[own], y[own], self.label_smoothing)
        mean = ops.mean(values)
        decisive = devices.mean(mean)  # of the whole batch
        self._follow(decisive)
        constraint = self.settings.um_constraint
        if constraint == "running":
            decisive = self.running_mean / self.running_weight
        elif constraint == "batch":  # which differs in whose mean decides
            constraint = "running"
        loss, ascent = losses.unleashing_mask(values, self.um, constraint, decisive)
        shown = [mean, ascent]
        if self.method:
            shown.append(self._outlier_loss(y_pred["images"], logits))
            loss = loss + self.weight * shown[-1]
        for metric, value in zip(self.only_in_training, shown, strict=True):
            metric.update_state(value)
        return devices.share(loss)

    def _follow(self, mean):
        """Running mean of the cross entropy, as a sum of weights that need no first value."""
        kept = losses.RUNNING_MOMENTUM
        self.running_mean.assign(kept * self.running_mean + (1.0 - kept) * ops.stop_gradient(mean))
        self.running_weight.assign(kept * self.running_weight + (1.0 - kept))

    def _outlier_loss(self, images, logits):
        inside, outside = logits[: self.id_rows], logits[self.id_rows :]
        if self.method == "oe":
            return ops.mean(losses.cross_entropy_to_uniform(outside))
        if self.method == "doe":
            return self.implicit_outliers(images, logits=logits, first=self.id_rows)
        return losses.energy_margins(inside, outside, self.settings.m_in, self.settings.m_out)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.accuracy.update_state(y, y_pred["logits"], sample_weight=ops.cast(y >= 0, "float32"))
        return self.get_metrics_result()

    def evaluate(self, *args, **kwargs):
        """Without the figures that only training has."""
        found = super().evaluate(*args, **kwargs)
        names = {metric.name for metric in self.only_in_training}
        return {name: value for name, value in found.items() if name not in names}
