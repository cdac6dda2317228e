"""How classifiers are trained: augmentation on the device, the loss, SGD as PyTorch has it, and its
schedules.
"""

import keras
import numpy as np
from keras import ops

from classifier_ood.configs import AUGMENTATIONS
from classifier_ood.losses import unit_length
from ood_suite.training import batch_norm, devices

PAD = 4  # zeros around the image that a crop is taken from


class CropFlip(keras.layers.Layer):
    """Random shifts by up to PAD pixels, zeros moving in, and random horizontal flips, for each
    image of a batch on its own; the identity outside of training.

    Both are products with 0/1 matrices: exact for pixels, and fast on any device.

    Args:
        augmentation: of configs.AUGMENTATIONS. seed: of the random state, which checkpoints keep.
    """

    def __init__(self, augmentation, seed, **kwargs):
        super().__init__(**kwargs)
        if augmentation not in AUGMENTATIONS:
            raise ValueError(
                f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}. Received: "
                f"{augmentation!r}."
            )
        self.crop, self.flip = "crop" in augmentation, "flip" in augmentation
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training or not (self.crop or self.flip):
            return images
        images = ops.cast(images, "float32")
        batch, height, width = ops.shape(images)[:3]
        rows = self._selection(batch, height)
        columns = self._selection(batch, width)
        if self.flip:
            coin = keras.random.uniform((batch, 1, 1), seed=self.seed_generator) < 0.5
            columns = ops.where(coin, ops.flip(columns, axis=1), columns)
        moved = ops.einsum("bij,bjkc->bikc", rows, images)
        return ops.einsum("blk,bikc->bilc", columns, moved)

    def _selection(self, batch, size):
        """(batch, size, size): row i has its 1 at i + shift, or none where that lies outside."""
        if not self.crop:
            return ops.broadcast_to(ops.eye(size), (batch, size, size))
        shift = keras.random.randint((batch, 1, 1), -PAD, PAD + 1, seed=self.seed_generator)
        place = ops.reshape(ops.arange(size), (1, size, 1)) + shift
        return ops.cast(ops.equal(place, ops.reshape(ops.arange(size), (1, 1, size))), "float32")


class ClassifierModel(keras.Model):
    """A backbone in training: augmentation before it, cross entropy and accuracy after it.

    The loss of an example is (1 - s) * -log p_label + s * mean_c -log p_c, natural logarithms, with
    s the label smoothing; the loss of a batch is the mean. `normalization` changes what p is made
    of, by losses.unit_length with tau the temperature:

    logit:    in training z / (tau * |z|); otherwise the logits z as they are.
    feature:  the head takes x / (tau * |x|) in training, otherwise x / tau, x being the features.

    Args:
        backbone: keras.Model that returns {"features", "logits"}; its last layer is the head.
        augmentation: one of AUGMENTATIONS. label_smoothing: s, in [0, 1). seed: of augmentation.
        normalization: None, "logit" or "feature". temperature: tau, positive.
    """

    def __init__(
        self, backbone, augmentation="none", label_smoothing=0.0, seed=0, *,
        normalization=None, temperature=1.0, **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.backbone = backbone
        batch_norm.fuse(backbone)
        self.normalization, self.temperature = normalization, temperature
        self.augmentation = CropFlip(augmentation, seed)
        self.label_smoothing = label_smoothing
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")

    def build(self, input_shape):
        """The backbone is built already."""
        self.built = True

    def network(self):
        """The keras.Model that the training is for; with normalised features it is one whose head
        holds the temperature.
        """
        if self.normalization != "feature":
            return self.backbone
        trained, features = self.backbone.layers[-1], self.backbone.output["features"]
        head = type(trained).from_config(trained.get_config())
        found = {"features": features, "logits": head(features)}
        kernel, *bias = trained.get_weights()
        head.set_weights([kernel / self.temperature, *bias])
        return keras.Model(self.backbone.inputs, found, name=self.backbone.name)

    def call(self, images, training=False):
        found = self.backbone(self.augmentation(images, training=training), training=training)
        if self.normalization != "feature":
            return found
        x = found["features"]
        x = unit_length(x, self.temperature) if training else x / self.temperature
        return found | {"logits": self.backbone.layers[-1](x)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        logits = y_pred["logits"]
        if training and self.normalization == "logit":
            logits = unit_length(logits, self.temperature)
        return devices.share(ops.mean(cross_entropy(logits, y, self.label_smoothing)))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.accuracy.update_state(y, y_pred["logits"])
        return self.get_metrics_result()


def cross_entropy(logits, labels, label_smoothing=0.0):
    """(batch,) nats: (1 - s) * -log p_label + s * mean_c -log p_c."""
    log_p = ops.log_softmax(logits, axis=-1)
    right = ops.take_along_axis(log_p, ops.expand_dims(ops.cast(labels, "int32"), 1), axis=1)
    loss = -ops.squeeze(right, 1)
    if label_smoothing:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * ops.mean(log_p, axis=-1)
    return loss


class CoupledSGD(keras.optimizers.SGD):
    """SGD as PyTorch has it: g <- g + l2 * w; v <- momentum * v + g; w <- w - rate * v, or with
    Nesterov w - rate * (g + momentum * v).

    Keras's `weight_decay` is decoupled from the gradient, and its velocity holds the learning rate;
    both differ as soon as there is momentum and the rate changes.

    Args:
        l2: weight decay, on every trainable variable (biases and BatchNorm too).
    """

    def __init__(self, learning_rate, momentum=0.9, nesterov=False, l2=0.0, **kwargs):
        super().__init__(learning_rate, momentum, nesterov, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        step = ops.cast(gradient, variable.dtype) + self.l2 * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            self.assign(velocity, self.momentum * velocity + step)
            step = step + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, rate * step)


class EpochCosine(keras.optimizers.schedules.LearningRateSchedule):
    """rate * (1 + cos(pi * epoch / epochs)) / 2 with the whole number of epochs done so far."""

    def __init__(self, rate, epochs, steps_per_epoch):
        self.rate, self.epochs, self.steps_per_epoch = rate, epochs, steps_per_epoch

    def __call__(self, step):
        # Whole numbers: XLA would multiply by a rounded 1 / steps_per_epoch, and miss an epoch.
        epoch = ops.cast(ops.floor_divide(step, self.steps_per_epoch), "float32")
        return self.rate * 0.5 * (1.0 + ops.cos(np.pi * epoch / self.epochs))


def schedule(name, rate, epochs, steps_per_epoch):
    """The learning rate of an experiment: "cosine", or "step" (a tenth from half of the epochs, a
    hundredth from three quarters).
    """
    if name == "cosine":
        return EpochCosine(rate, epochs, steps_per_epoch)
    total = epochs * steps_per_epoch
    # Keras's piecewise schedule keeps a value up to and with its boundary.
    boundaries = [total // 2 - 1, 3 * total // 4 - 1]
    values = [rate, rate / 10.0, rate / 100.0]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
