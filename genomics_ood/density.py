"""Autoregressive densities of DNA reads, with a log-probability for every base.

    log p(x) = sum_i log p(x_i | x_1 .. x_{i-1})        i = 1 .. length, nats

The network reads the bases before position i and a start token, so that the first base is scored
too (the reference's code leaves it out). Two networks stand behind one interface: "lstm", that of
the paper, and "conv", gated residual convolutions over dilated pasts (the default of our
experiments: better at the same cost on a CPU, see benchmarks/RESULTS.md).

Reference: Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019, section
5; van den Oord et al., "WaveNet", 2016, equation 2, for the gated layers.
"""

import keras
import numpy as np
from keras import layers, ops

from genomics_ood.configs import Experiment
from ood_suite.runs.settings import check
from ood_suite.training import backend, devices
from ood_suite.training.mutation import Mutation

NUM_BASES = 4
XLA_UNITS = 512  # of an LSTM that XLA scores on a CPU (64 and 256 are on record in RESULTS.md)


@keras.saving.register_keras_serializable("ood_suite")
class ReadDensity(keras.Model):
    """A density of reads as a Keras model whose output is the log-probability of every base.

    Call: bases (batch, length), 0..3 in any dtype -> float32 (batch, length) in nats; their sum is
    log p(x). Any length will do. The training loss is `mean over batch and positions of -log p`
    (nats per base) + the penalty of all kernels, not of biases: reg_weight * 0.5 * sum w**2 ("l2")
    or reg_weight * sum |w| ("l1").

    Args:
        network: "conv" or "lstm".
        units: of the LSTM (the paper: 2000), or channels of the convolutions.
        num_layers: gated layers of "conv"; layer i looks 2**(i mod 8) * (kernel_size - 1) back.
        kernel_size: of those.
        embedding_dim: width of a learned embedding of the bases (a linear map of one-hot, without
            bias); 0 feeds them one-hot.
        layer_norm: normalise gates and outgoing state of the LSTM (see LayerNormLSTMCell), or the
            input of each gated layer.
        dropout_p: dropout of what enters the last layer, in [0, 1).
        reg_weight, reg_type: the penalty.
        mutation_rate: probability that a training base is replaced by another one, never by itself:
            a background model's input.
        seed: seeds the initial weights, dropout and mutation.
        dtype: "float32" or "mixed_bfloat16"; log-probabilities are always float32.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        *,
        network="conv",
        units=64,
        num_layers=8,
        kernel_size=3,
        embedding_dim=0,
        layer_norm=False,
        dropout_p=0.0,
        reg_weight=0.0,
        reg_type="l2",
        mutation_rate=0.0,
        seed=None,
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, autocast=False, **kwargs)
        self.options = {
            "network": network,
            "units": units,
            "num_layers": num_layers,
            "kernel_size": kernel_size,
            "embedding_dim": embedding_dim,
            "layer_norm": layer_norm,
            "dropout_p": dropout_p,
            "reg_weight": reg_weight,
            "reg_type": reg_type,
            "mutation_rate": mutation_rate,
            "seed": seed,
        }
        check(Experiment, self.options)
        if network == "kmer":
            raise ValueError("--network=kmer is no network: see kmers.KmerDensity.")
        self.mutation = Mutation(mutation_rate, NUM_BASES, smallest_offset=1, seed=seed)
        self.network = _build_network(self.options, self.dtype_policy)
        self.bits_tracker = keras.metrics.Mean(name="bits_per_base")
        self.built = True  # all weights exist now

    def call(self, bases, training=False):
        bases = self.mutation(ops.cast(bases, "int32"), training=training)
        one_hot = ops.one_hot(bases, NUM_BASES, dtype="float32")  # (batch, length, 4)
        log_p = self.log_probabilities(one_hot, training)
        return ops.sum(log_p * one_hot, axis=-1)

    def log_probabilities(self, one_hot, training=False):
        """log p(base | bases before), float32 (batch, length, 4), of one-hot bases alike."""
        # The start token is a row of zeros, which no base is.
        before = ops.pad(one_hot, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        return ops.log_softmax(self.network(before, training=training), axis=-1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        nats = -ops.mean(y_pred)
        self.bits_tracker.update_state(
            nats / np.log(2.0), sample_weight=ops.cast(ops.shape(y_pred)[0], "float32")
        )
        for penalty in self.losses:
            nats = nats + ops.cast(penalty, "float32")
        return devices.share(nats)

    def get_config(self):
        return self.options | {"name": self.name, "dtype": self.dtype_policy.name}


def ready_to_score(model):
    """The ReadDensity, whose `predict` uses XLA where that is faster: for a small LSTM in float32
    on a CPU, whose steps cost TensorFlow more than the products in them. (Training is slower in XLA
    there.) Log-probabilities change by rounding.
    """
    options = model.options
    small = options["network"] == "lstm" and options["units"] <= XLA_UNITS
    possible = not (backend.jit_compile() or backend.is_deterministic())
    if small and possible and model.dtype_policy.name == "float32":
        model.jit_compile = True
    return model


def _build_network(options, dtype):
    """keras.Model: shifted bases (batch, length, 4) -> scores of the next base, alike, float32."""
    seeds = np.random.default_rng(options["seed"])

    def seed():
        return int(seeds.integers(2**31))

    def kernel(recurrent=False):
        """Keyword arguments of a layer's kernel."""
        make = keras.initializers.Orthogonal if recurrent else keras.initializers.GlorotUniform
        prefix = "recurrent" if recurrent else "kernel"
        return {
            f"{prefix}_initializer": make(seed=seed()),
            f"{prefix}_regularizer": _penalty(options),
        }

    inputs = x = keras.Input((None, NUM_BASES), dtype="float32", name="bases_before")
    if options["embedding_dim"]:
        x = layers.Dense(options["embedding_dim"], use_bias=False, dtype=dtype, **kernel())(x)
    if options["network"] == "lstm":
        arguments = kernel() | kernel(recurrent=True)
        if options["layer_norm"]:
            x = layers.RNN(
                LayerNormLSTMCell(options["units"], dtype=dtype, **arguments),
                return_sequences=True,
                dtype=dtype,
            )(x)
        else:
            x = layers.LSTM(options["units"], return_sequences=True, dtype=dtype, **arguments)(x)
    else:
        x = _dilated(x, options, dtype, kernel)
    if options["dropout_p"]:
        x = layers.Dropout(options["dropout_p"], seed=seed(), dtype=dtype)(x)
    outputs = layers.Dense(NUM_BASES, dtype="float32", **kernel())(x)
    return keras.Model(inputs, outputs, name=options["network"])


def _dilated(x, options, dtype, kernel):
    """x <- x + conv1x1(tanh(a) * sigmoid(b)), with [a, b] a causal dilated convolution of x; what
    leaves is the sum of what all layers add, as in WaveNet.
    """
    units = options["units"]

    def conv(filters, size, dilation=1):
        return layers.Conv1D(
            filters, size, dilation_rate=dilation, padding="causal", dtype=dtype, **kernel()
        )

    x = conv(units, options["kernel_size"])(x)
    total = x
    for number in range(options["num_layers"]):
        y = layers.LayerNormalization(dtype=dtype)(x) if options["layer_norm"] else x
        y = conv(2 * units, options["kernel_size"], 2 ** (number % 8))(y)
        value, gate = ops.split(y, 2, axis=-1)
        y = conv(units, 1)(ops.tanh(value) * ops.sigmoid(gate))
        x, total = x + y, total + y
    return ops.relu(conv(units, 1)(ops.relu(total)))


def _penalty(options):
    weight = options["reg_weight"]
    if not weight:
        return None
    if options["reg_type"] == "l1":
        return keras.regularizers.L1(weight)
    return keras.regularizers.L2(0.5 * weight)


@keras.saving.register_keras_serializable("ood_suite")
class LayerNormLSTMCell(layers.LSTMCell):
    """LSTM cell with layer normalisation of each gate and of the state that leaves it.

    The state that is carried to the next step is not normalised, as in the paper's equations.
    TensorFlow's LayerNormBasicLSTMCell (and so the likelihood ratio's reference code) carries the
    normalised one.

    Reference: Ba, Kiros, Hinton, "Layer Normalization", 2016, supplement, equations 20 to 22, with
        one normalisation of the summed inputs of each gate, as LayerNormBasicLSTMCell has it.
    """

    def build(self, input_shape):
        super().build(input_shape)
        names = ("input", "forget", "candidate", "output", "state")
        self.norms = [
            layers.LayerNormalization(name=f"norm_{name}", dtype=self.dtype_policy)
            for name in names
        ]
        for norm in self.norms:
            norm.build((None, self.units))

    def call(self, inputs, states, training=False):
        hidden, carried = states
        z = ops.matmul(inputs, self.kernel) + ops.matmul(hidden, self.recurrent_kernel)
        parts = [
            norm(part) + bias
            for norm, part, bias in zip(
                self.norms[:4], ops.split(z, 4, axis=1), ops.split(self.bias, 4), strict=True
            )
        ]
        enter, forget, output = (ops.sigmoid(parts[i]) for i in (0, 1, 3))
        carried = forget * carried + enter * ops.tanh(parts[2])
        hidden = output * ops.tanh(self.norms[4](carried))
        return hidden, [hidden, carried]
