"""DOE: outlier exposure at the worst small change of the weights, which does to the outliers what a
worst transform of the images would.
"""

import keras
from keras import ops

from classifier_ood.copies import without_dropout
from classifier_ood.losses import cross_entropy_to_uniform, sensitivity_to_scale
from ood_suite.training import backend, batch_norm

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)  # gamma, drawn for each step
SEARCH_RATE, SEARCH_MOMENTUM, SEARCH_DECAY, SEARCH_CLIP = 1.0, 0.9, 1e-4, 1.0
DIRECTIONS = ("ascent", "descent")
FORGETTING = 0.6  # share of the old direction in the new one


class ImplicitOutliers(keras.layers.Layer):
    """The outlier term of DOE: cross entropy to uniform of the outliers, with the network's weights
    for the first `warm_up` steps, and with weights + gamma * direction from then on.

    For each kernel W of the network, in each step after the warm-up:

    1. a copy without dropout takes one step of SGD on sensitivity_to_scale(logits of outliers),
       uphill or, with direction="descent", downhill;
    2. new = |W| * change / |change|, the Frobenius norms over the whole kernel;
    3. direction = 0.6 * direction + 0.4 * new (the first time: new);
    4. gamma is drawn from STRENGTHS.

    Uphill is the paper's min-max wording, and the default. The released codes (the authors' and
    Unleashing Mask's copy of it) step downhill, towards outliers that the network is least
    sensitive to: the published numbers come from there, and direction="descent" makes them so.

    Other differences of the codes: the authors' proxy has neither momentum nor weight decay (those
    here are of Unleashing Mask's copy). That copy clips the gradient of the network in 1 and not
    that of the copy of the weights; it takes two SGD steps per batch (on the outliers at the
    changed weights, on ID data at the old ones) that share a momentum, where this term and the ID
    loss make one; it stops when an interrupted training continues, because the direction is not
    saved: here it is a weight.

    Args:
        network: keras.Model with "logits", which is in training.
        warm_up: steps. seed: of gamma. direction: one of DIRECTIONS.

    Reference: Wang et al., "Out-of-distribution Detection with Implicit Outlier Transformation",
        ICLR 2023.
    """

    def __init__(self, network, warm_up, seed, direction="ascent", **kwargs):
        super().__init__(**kwargs)
        if direction not in DIRECTIONS:
            raise ValueError(
                f"`direction` must be one of {', '.join(DIRECTIONS)}. Received: {direction!r}."
            )
        self.uphill = 1.0 if direction == "ascent" else -1.0
        copy = without_dropout(network)
        batch_norm.fuse(copy)
        self._networks = lambda: (network, copy)  # not layers of this one
        self.warm_up = warm_up
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.step = self._state("step", ())
        self.kernels = [
            i for i, v in enumerate(network.trainable_variables) if len(v.shape) > 1
        ]  # fmt: skip
        shapes = [network.trainable_variables[i].shape for i in self.kernels]
        self.directions = [self._state(f"direction_{i}", s) for i, s in enumerate(shapes)]
        self.velocities = [self._state(f"velocity_{i}", s) for i, s in enumerate(shapes)]
        self.built = True

    def _state(self, name, shape):
        return self.add_weight(shape, "zeros", name=name, trainable=False)

    def call(self, images, logits, first):
        """Scalar; one step of training.

        Args:
            images: (batch, ...), ID examples before outliers. logits: of the network for them.
            first: number of the first outlier.
        """
        choice = keras.random.randint((), 0, len(STRENGTHS), seed=self.seed_generator)
        strength = ops.take(ops.convert_to_tensor(STRENGTHS, "float32"), choice)
        state = [ops.convert_to_tensor(v) for v in (*self.directions, *self.velocities)]

        def plain():
            return ops.mean(cross_entropy_to_uniform(logits[first:])), *state

        def worst():
            directions, velocities = self._search(images, first)
            loss = self._loss_at(directions, strength, images, first)
            return loss, *directions, *velocities

        loss, *new = ops.cond(self.step < self.warm_up, plain, worst)
        for variable, value in zip((*self.directions, *self.velocities), new, strict=True):
            variable.assign(ops.stop_gradient(value))
        self.step.assign_add(1.0)
        return loss

    def _search(self, images, first):
        """(directions, velocities) after this step's search."""
        network, copy = self._networks()
        others = [ops.convert_to_tensor(v) for v in copy.non_trainable_variables]

        def sensitivity(values):
            found, _ = copy.stateless_call(values, others, images, training=True)
            return sensitivity_to_scale(found["logits"][first:])

        values = [ops.convert_to_tensor(v) for v in network.trainable_variables]
        gradients = backend.gradient_by_values(sensitivity, values)
        norm = ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))
        clip = ops.minimum(1.0, SEARCH_CLIP / (norm + 1e-6))
        directions, velocities = [], []
        is_first = ops.equal(self.step, self.warm_up)
        for place, i in enumerate(self.kernels):
            step = SEARCH_DECAY * values[i] - self.uphill * clip * gradients[i]
            velocity = SEARCH_MOMENTUM * self.velocities[place] + step
            change = -SEARCH_RATE * velocity
            new = _norm(values[i]) / (_norm(change) + 1e-20) * change
            old = FORGETTING * self.directions[place] + (1.0 - FORGETTING) * new
            directions.append(ops.stop_gradient(ops.where(is_first, new, old)))
            velocities.append(ops.stop_gradient(velocity))
        return directions, velocities

    def _loss_at(self, directions, strength, images, first):
        network, _ = self._networks()
        values = [ops.convert_to_tensor(v) for v in network.trainable_variables]
        for place, i in enumerate(self.kernels):
            values[i] = values[i] + strength * directions[place]
        others = [ops.convert_to_tensor(v) for v in network.non_trainable_variables]
        found, _ = network.stateless_call(values, others, images, training=True)
        return ops.mean(cross_entropy_to_uniform(found["logits"][first:]))


def _norm(x):
    return ops.sqrt(ops.sum(ops.square(x)))
