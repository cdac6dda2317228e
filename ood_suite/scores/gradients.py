"""Scores that stem from gradients: of the input (ODIN, on perturbed logits made at extraction) and
of the head's weights (GradNorm and the uncertainty of gradients, in closed form).
"""

from collections.abc import Mapping

import numpy as np
from scipy.special import softmax

from ood_suite.scores import checks
from ood_suite.scores.learner import Array
from ood_suite.scores.logits import msp_at


def odin_key(temperature, epsilon):
    """Name of an array in Outputs.logits_perturbed.

    >>> odin_key(1000.0, 0.0014)
    'T=1000,epsilon=0.0014'
    """
    return f"T={temperature:g},epsilon={epsilon:g}"


def odin(
    logits_perturbed: Mapping[str, Array], temperature: float = 1000.0, epsilon: float = 0.0014
) -> Array:
    """1 - max_c softmax(z(x') / T)_c, with x' = x - epsilon * sign(gradient) (see the extractor).

    Computed in float64: at T = 1000 all values lie within a few thousandths of 1 - 1/classes.

    Args:
        logits_perturbed: {"T=1000,epsilon=0.0014": (n, classes)}; the gradient depends on T too.
        temperature, epsilon: which of them; epsilon in pixels / 255.

    Defaults: the authors' for CIFAR-10 and a DenseNet, where 0.0014 is a step of the pixel range as
        it is here: their code divides the sign by the channels' standard deviation because it steps
        on normalised inputs. Code that steps there without dividing (HIMPLoS's 0.004) has another
        unit.

    Fails: where the gradient is noise, as on networks with BatchNorm in training mode, and with an
        epsilon that was chosen on OOD data of another kind than the test's.

    Reference: Liang, Li, Srikant, "Enhancing The Reliability of Out-of-distribution Image Detection
        in Neural Networks", ICLR 2018, equations 1 and 2.
    """
    key = odin_key(temperature, epsilon)
    if not isinstance(logits_perturbed, dict) or key not in logits_perturbed:
        have = sorted(logits_perturbed) if isinstance(logits_perturbed, dict) else "no mapping"
        raise ValueError(
            f"odin needs `logits_perturbed` of {key}. Received: {have}. Extract them with "
            f"--odin_temperature={temperature:g} --odin_epsilon={epsilon:g}."
        )
    return msp_at(logits_perturbed[key], temperature)


def gradnorm(features: Array, logits: Array, temperature: float = 1.0) -> Array:
    """-|x|_1 * sum_c |softmax(z / T)_c - 1/classes| / T.

    This is the L1 norm of the gradient of KL(uniform || softmax(z / T)) by the weights of the last
    layer, which is the outer product of the feature and that difference: no backward pass.

    Defaults: 1, the paper's, which OpenOOD has too. On the CIFAR-10 DenseNet 5, the last of the
        grid, is better (.903, .834 with 1; benchmarks/RESULTS.md).

    Fails: where OOD features have the larger L1 norm, which multiplies all else: worse than chance
        on the demo's network (.334 for MNIST). The paper's networks are those of ImageNet with 1000
        classes; with ten confident ones |softmax - 1/classes| is nearly the same for all examples.

    Reference: Huang, Geng, Li, "On the Importance of Gradients for Detecting Distributional Shifts
        in the Wild", NeurIPS 2021, equations 5 and 8.

    >>> gradnorm([[1.0, 2.0]], [[np.log(3.0), 0.0]])
    array([-1.5])
    """
    checks.above("temperature", temperature, 0.0)
    features = checks.matrix("features", features, what="features")
    logits = checks.matrix("logits", logits, what="classes")
    checks.same_length(features, logits)

    def away(rows):
        return np.abs(softmax(rows / temperature, axis=1) - 1.0 / rows.shape[1]).sum(axis=1)

    sizes = checks.each("features", features, lambda _, rows: np.abs(rows).sum(axis=1))
    return -sizes * checks.each_logits(logits, away) / temperature


def gradient_uncertainty(features: Array, logits: Array) -> Array:
    """-(|x|_2^2 + 1) * sum_c (classes * softmax(z)_c - 1)^2.

    This is minus the squared L2 norm of the gradient of -sum_c log softmax(z)_c, every class as the
    label, by kernel and bias of the last layer; it vanishes for a uniform softmax.

    Defaults: none, it has no parameters.

    Fails: as gradnorm does: where OOD features are the longer ones, and with few confident classes.

    Reference: Lee and AlRegib, "Gradients as a Measure of Uncertainty in Neural Networks", ICIP
        2020. They train a network on such norms of all layers, of ID and OOD data; the norm as a
        score, its sign, and the last layer alone are pytorch-ood's GradUncertainty.

    >>> gradient_uncertainty([[1.0, 2.0]], [[np.log(3.0), 0.0]])
    array([-3.])
    """
    features = checks.matrix("features", features, what="features")
    logits = checks.matrix("logits", logits, what="classes")
    checks.same_length(features, logits)

    def away(rows):
        return ((rows.shape[1] * softmax(rows, axis=1) - 1.0) ** 2).sum(axis=1)

    squares = checks.each("features", features, lambda _, rows: np.vecdot(rows, rows))
    return -(squares + 1.0) * checks.each_logits(logits, away)
