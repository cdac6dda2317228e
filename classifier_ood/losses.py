"""Losses that make a classifier's scores better: Unleashing Mask's constraint, LogitNorm, outlier
exposure.

All take logits and give nats, natural logarithms throughout; ID and outlier terms are means over
their own examples.
"""

import keras
from keras import ops

CONSTRAINTS = ("batch", "sample", "running")
RUNNING_MOMENTUM = 0.9  # of the running mean of the cross entropy


def unleashing_mask(cross_entropies, um, constraint="batch", running_mean=None):
    """A cross entropy that is kept at `um`: it descends above and ascends below.

    "batch", the paper's:  |mean_i CE_i - um| + um
    "sample":              mean_i |CE_i - um| + um
    "running":             sign(running_mean - um) * (mean_i CE_i - um) + um

    The first acts on the mean of the batch, so that a small batch changes sides more often; the
    last changes sides with a running mean in place of the batch's. With um = 0 all three are the
    plain cross entropy.

    Args:
        cross_entropies: (batch,) nats. um: the loss constraint in nats, 0 or more.
        constraint: one of CONSTRAINTS.
        running_mean: mean cross entropy of the last batches, for "running".

    Returns:
        (loss, ascent): scalars; ascent is the share of terms under the constraint, whose gradient
        is turned round: 0 or 1 but for "sample".

    Reference: Zhu et al., "Unleashing Mask: Explore the Intrinsic Out-of-Distribution Detection
        Capability", ICML 2023; the released commands leave `--criterion` at plain cross
        entropy and so train without it. The form is that of Ishida et al., "Do We Need Zero
        Training Loss After Achieving Zero Training Error?", ICML 2020.

    >>> [round(float(x), 6) for x in unleashing_mask(np.float32([0.1, 0.3]), um=0.5)]
    [0.8, 1.0]
    """
    if constraint not in CONSTRAINTS:
        raise ValueError(
            f"`constraint` must be one of {', '.join(CONSTRAINTS)}. Received: {constraint!r}."
        )
    mean = ops.mean(cross_entropies)
    if constraint == "sample":
        under = ops.cast(cross_entropies < um, mean.dtype)
        return ops.mean(ops.abs(cross_entropies - um)) + um, ops.mean(under)
    under = ops.cast((mean if constraint == "batch" else running_mean) < um, mean.dtype)
    return (1.0 - 2.0 * under) * (mean - um) + um, under


@keras.saving.register_keras_serializable("ood_suite")
class UnleashingMask(keras.losses.Loss):
    """`unleashing_mask` of the batch's mean cross entropy, for a training of one's own:

        model.compile("sgd", loss=UnleashingMask(um=0.15))
        model.fit(images, labels)

    Args:
        um: the loss constraint in nats, 0 or more; `classifier_ood.estimate_loss` estimates it.
        from_logits: whether the model's outputs are logits (batch, classes), or probabilities.

    `call` takes integer labels (batch,) or (batch, 1) and gives a scalar. Sample weights would
    weight that scalar, not the examples: give none.

    Raises:
        ValueError: um is negative or not finite.

    Reference: as unleashing_mask's.
    """

    def __init__(self, um, from_logits=True, name="unleashing_mask", **kwargs):
        super().__init__(name=name, **kwargs)
        if not 0.0 <= um < float("inf"):
            raise ValueError(f"`um` must be 0 or more, and finite. Received: {um}.")
        self.um, self.from_logits = float(um), from_logits

    def call(self, y_true, y_pred):
        cross_entropies = keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred, from_logits=self.from_logits
        )
        return unleashing_mask(cross_entropies, self.um)[0]

    def get_config(self):
        return super().get_config() | {"um": self.um, "from_logits": self.from_logits}


def unit_length(x, temperature):
    """(batch, k): x / (temperature * |x|), with |x| the Euclidean length; zeros stay zeros.

    Of logits, before the cross entropy, this is LogitNorm: the loss cannot fall by longer logits
    alone. Of features, before the head, it is T2FNorm. |x|^2 has 1e-14 added, so that the gradient
    at zeros is finite; the authors add 1e-7 to |x|, or take 1e-12 at least.

    Args:
        x: (batch, k), logits or features. temperature: tau, positive.

    Reference: Wei et al., "Mitigating Neural Network Overconfidence with Logit Normalization", ICML
        2022, equation 5. Regmi et al., "T2FNorm: Train-time Feature Normalization for OOD Detection
        in Image Classification", CVPR Workshops 2024.

    >>> [round(float(v), 6) for v in unit_length(np.float32([[3, -4]]), temperature=0.1)[0]]
    [6.0, -8.0]
    """
    length = ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-14)
    return x / (temperature * length)


def cross_entropy_to_uniform(logits):
    """(batch,): logsumexp_c z_c - mean_c z_c, outlier exposure's loss; at least log(classes).

    Reference: Hendrycks, Mazeika, Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR
        2019.

    >>> [round(float(x), 4) for x in cross_entropy_to_uniform(np.float32([[0, 0], [0, 4]]))]
    [0.6931, 2.0181]
    """
    return ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)


def energy_margins(id_logits, outlier_logits, m_in=-25.0, m_out=-7.0):
    """Squared hinges on the energy E = -logsumexp(z) of both sides:

    mean_ID max(E - m_in, 0)^2 + mean_outliers max(m_out - E, 0)^2

    Args:
        id_logits, outlier_logits: (batch, classes). m_in, m_out: energies that ID examples should
            stay below, and outliers above.

    Returns:
        scalar.

    Reference: Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020.

    >>> round(float(energy_margins(np.float32([[0, 0]]), np.float32([[9, 0]]), -1, -7)), 3)
    4.095
    """
    of_id = -ops.logsumexp(id_logits, axis=-1)
    of_outliers = -ops.logsumexp(outlier_logits, axis=-1)
    inside = ops.mean(ops.square(ops.relu(of_id - m_in)))
    return inside + ops.mean(ops.square(ops.relu(m_out - of_outliers)))


def sensitivity_to_scale(logits):
    """The squared derivative by s, at s = 1, of the mean cross entropy to uniform of s * z:

    (mean_i [sum_c softmax(z_i)_c z_ic - mean_c z_ic])^2

    What DOE searches its worst transform by. In closed form, where the released code differentiates
    twice.

    Reference: Wang et al., "Out-of-distribution Detection with Implicit Outlier Transformation",
        ICLR 2023.

    >>> round(float(sensitivity_to_scale(np.float32([[0, 2]]))), 4)
    0.58
    """
    expected = ops.sum(ops.softmax(logits, axis=-1) * logits, axis=-1)
    return ops.square(ops.mean(expected - ops.mean(logits, axis=-1)))


def entropy(logits):
    """(batch,): -sum_c p_c log p_c of p = softmax(z), in nats, in [0, log(classes)].

    >>> round(float(entropy(np.float32([[0, 0]]))[0]), 4)
    0.6931
    """
    log_p = ops.log_softmax(logits, axis=-1)
    return -ops.sum(ops.exp(log_p) * log_p, axis=-1)


def entropy_margin(id_logits, outlier_logits, margin=0.4):
    """(max(margin - gap, 0), gap), with gap = mean entropy of outliers - mean entropy of ID.

    A hinge on the means of the batch, not on examples: no penalty once outliers are `margin` nats
    less certain than ID examples.

    Reference: Vyas et al., "Out-of-Distribution Detection Using an Ensemble of Self Supervised
        Leave-out Classifiers", ECCV 2018.

    >>> sure, even = np.float32([[9, 0]]), np.float32([[0, 0]])
    >>> [round(float(x), 4) for x in entropy_margin(sure, even, margin=0.7)]
    [0.0081, 0.6919]
    """
    gap = ops.mean(entropy(outlier_logits)) - ops.mean(entropy(id_logits))
    return ops.relu(margin - gap), gap
