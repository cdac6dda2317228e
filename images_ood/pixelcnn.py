"""PixelCNN++: an autoregressive density of images with a log-probability for every pixel.

    log p(x) = sum_i log p(x_i | x_1 .. x_{i-1})        pixels in raster order, nats

Two stacks of gated residual layers read the image: the vertical one sees the rows above a pixel,
the horizontal one also the pixels to its left. Down the U-net, `num_hierarchies` blocks of
`num_resnet` layers; up again with a skip connection from each mirrored layer.

Causal by construction. The network works on the image turned by 180 degrees: there, "the row above
and the pixel to the left" become "the row below and the pixel to the right", and an ordinary
convolution with an even kernel and padding="same", which reads (row, row + 1) x (column,
column + 1), sees only what it may. So every kernel cell is a valid one: no masks that an optimiser
step must restore, about half of the arithmetic of masked 3x3 kernels, and no padding copies.

Reference: Salimans, Karpathy, Chen, Kingma, "PixelCNN++", ICLR 2017; van den Oord et al.,
"Conditional Image Generation with PixelCNN Decoders", NeurIPS 2016 (figure 2). The layer order is
that of `tfp.distributions.PixelCNN`, to which log-probabilities are compared in the tests.
"""

import keras
import numpy as np
from keras import layers, ops

from images_ood import logistic_mixture
from images_ood.configs import Experiment
from ood_suite.runs.settings import check
from ood_suite.training import devices
from ood_suite.training.mutation import Mutation

VERTICAL, HORIZONTAL = (2, 3), (2, 2)  # (rows, columns) of the kernels of the two stacks


@keras.saving.register_keras_serializable("ood_suite")
class PixelCNN(keras.Model):
    """PixelCNN++ as a Keras model whose output is the log-probability of every pixel.

    Call: images (batch, height, width, channels), values 0..255 in any dtype -> float32 (batch,
    height, width) in nats; their sum over pixels is log p(x). With `num_classes`, the input is the
    pair [images, labels (batch,)]. The training loss is `mean over the batch of -log p(x)` (nats
    per image) + reg_weight * sum of squared kernel weights; with weight normalisation the
    regulariser acts on the normalised kernel, whose squared norm is gain**2 (of convolutions: the
    upsampling of several hierarchies and the projection of classes have plain kernels).

    Args:
        image_shape: (height, width, channels); height and width divisible by 2 ** (num_hierarchies
            - 1).
        num_hierarchies: 1 to 3 blocks with stride-2 sampling in between.
        num_resnet: gated residual layers per block.
        num_filters: channels of the residual layers.
        num_logistic_mix: components of the mixture per pixel.
        rescale_pixel_value: feed the network [-1, 1] (True) or 0..255 (False).
        dropout_p: dropout within the residual layers, in [0, 1).
        reg_weight: L2 weight, >= 0. The reference code accepts it and never adds it to its loss;
            here it counts.
        mutation_rate: probability that a training pixel is replaced (see Mutation): a background
            model's input.
        use_weight_norm: kernel = gain * v / norm(v) per output channel; see `initialize_from_data`.
        num_classes: 0 for none, else condition every residual layer on the class.
        seed: seeds the initial weights, dropout and mutation.
        dtype: "float32" or "mixed_bfloat16"; the mixture and its log-probability are always
            float32.
    """

    def __init__(
        self,
        image_shape,
        *,
        num_hierarchies=1,
        num_resnet=5,
        num_filters=32,
        num_logistic_mix=1,
        rescale_pixel_value=False,
        dropout_p=0.0,
        reg_weight=0.0,
        mutation_rate=0.0,
        use_weight_norm=False,
        num_classes=0,
        seed=None,
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, autocast=False, **kwargs)
        self.options = {
            "image_shape": tuple(image_shape),
            "num_hierarchies": num_hierarchies,
            "num_resnet": num_resnet,
            "num_filters": num_filters,
            "num_logistic_mix": num_logistic_mix,
            "rescale_pixel_value": rescale_pixel_value,
            "dropout_p": dropout_p,
            "reg_weight": reg_weight,
            "mutation_rate": mutation_rate,
            "use_weight_norm": use_weight_norm,
            "num_classes": num_classes,
            "seed": seed,
        }
        check(Experiment, self.options)
        check_shape(self.options["image_shape"], num_hierarchies)
        self.mutation = Mutation(mutation_rate, num_symbols=256, smallest_offset=0, seed=seed)
        self.builder = Builder(self.options, self.dtype_policy)
        self.network = _build_network(self.builder)
        self.bits_tracker = keras.metrics.Mean(name="bits_per_dim")
        self.built = True  # all weights exist now

    def call(self, inputs, training=False):
        images, labels = inputs if self.options["num_classes"] else (inputs, None)
        images = self.mutation(ops.cast(images, "float32"), training=training)
        parameters = self._parameters(images, labels, training)
        return logistic_mixture.log_prob_map(parameters, images)

    def mixture(self, images, labels=None):
        """MixtureParameters of every pixel given the pixels before it; images as in the call."""
        return self._parameters(ops.cast(images, "float32"), labels, training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        nats = -ops.mean(ops.sum(y_pred, axis=(1, 2)))
        bits = nats / (np.log(2.0) * np.prod(self.options["image_shape"]))
        self.bits_tracker.update_state(
            bits, sample_weight=ops.cast(ops.shape(y_pred)[0], "float32")
        )
        for penalty in self.losses:
            nats = nats + ops.cast(penalty, "float32")
        return devices.share(nats)

    def scaled(self, images):
        """Pixels 0..255 as the network reads them."""
        return images / 127.5 - 1.0 if self.options["rescale_pixel_value"] else images

    def split(self, raw):
        """The network's output as MixtureParameters."""
        options = self.options
        return logistic_mixture.split_parameters(
            raw,
            options["image_shape"][-1],
            options["num_logistic_mix"],
            options["rescale_pixel_value"],
        )

    def _parameters(self, images, labels, training):
        if labels is not None:
            labels = ops.convert_to_tensor(labels, "int32")
        inputs = self.scaled(images) if labels is None else [self.scaled(images), labels]
        return self.split(self.network(inputs, training=training))

    def get_config(self):
        return self.options | {"name": self.name, "dtype": self.dtype_policy.name}


@keras.saving.register_keras_serializable("ood_suite")
class WeightNormConv2D(layers.Conv2D):
    """Conv2D with kernel = gain * v / norm(v), one gain per output channel.

    Reference: Salimans, Kingma, "Weight Normalization", NeurIPS 2016, equation 2 and
        (data-dependent start) 6.
    """

    initializing = False

    def build(self, input_shape):
        regularizer, self.kernel_regularizer = self.kernel_regularizer, None
        super().build(input_shape)
        self.gain = self.add_weight(
            name="gain", shape=(self.filters,), initializer="ones", regularizer=regularizer
        )
        self.kernel_regularizer = regularizer

    def save_own_variables(self, store):
        for i, variable in enumerate((self._kernel, self.bias, self.gain)):
            store[str(i)] = variable

    def load_own_variables(self, store):
        for i, variable in enumerate((self._kernel, self.bias, self.gain)):
            variable.assign(store[str(i)])

    @property
    def kernel(self):
        # Equation 2, in float32 also under mixed precision: a norm in bfloat16 is too coarse.
        direction = ops.cast(self._kernel, "float32")
        norm = ops.sqrt(ops.sum(ops.square(direction), axis=(0, 1, 2)) + 1e-12)
        return ops.cast(direction * (ops.cast(self.gain, "float32") / norm), self.compute_dtype)

    def call(self, inputs):
        if self.initializing:
            # Equation 6: with gain 1 and bias 0 first, then so that outputs are standardised.
            self.gain.assign(ops.ones(self.gain.shape))
            self.bias.assign(ops.zeros(self.bias.shape))
            outputs = ops.cast(super().call(inputs), "float32")
            mean, variance = ops.moments(outputs, axes=(0, 1, 2))
            scale = 1.0 / ops.sqrt(variance + 1e-10)
            self.gain.assign(scale)
            self.bias.assign(-mean * scale)
        return super().call(inputs)


def initialize_from_data(model, images, labels=None):
    """Data-dependent start of a weight-normalised model: each convolution's output gets mean 0,
    variance 1 on `images`.

    Args:
        model: PixelCNN with use_weight_norm=True.
        images: (batch, height, width, channels), one batch of pixels 0..255.
        labels: (batch,) for a class-conditional model.
    """
    normalized = [
        layer for layer in model.network._flatten_layers() if isinstance(layer, WeightNormConv2D)
    ]
    if not normalized:
        raise ValueError("`initialize_from_data` needs a model with use_weight_norm=True.")
    for layer in normalized:
        layer.initializing = True
    model.mixture(images, labels)
    for layer in normalized:
        layer.initializing = False


def bits_per_dim(log_prob, image_shape):
    """-log p / (ln 2 * height * width * channels).

    >>> round(float(bits_per_dim(np.log(1 / 256.0) * 784, (28, 28, 1))), 6)
    8.0
    """
    return -np.asarray(log_prob, np.float64) / (np.log(2.0) * np.prod(image_shape))


def check_shape(image_shape, num_hierarchies):
    """Refuses images that the blocks cannot halve (ValueError)."""
    height, width, channels = image_shape
    if min(height, width, channels) < 1:
        raise ValueError(f"`image_shape` must be positive. Received: {image_shape}.")
    step = 2 ** (num_hierarchies - 1)
    if height % step or width % step:
        raise ValueError(
            f"With num_hierarchies={num_hierarchies}, height and width must be "
            f"divisible by {step}. Received: image_shape={image_shape}."
        )


def _build_network(builder):
    """The U-net of the two stacks as a Keras model: scaled image (and labels) -> raw parameters."""
    image = keras.Input(builder.options["image_shape"], name="image")
    if not builder.options["num_classes"]:
        return keras.Model(image, connect(builder, image), name="network")
    labels = keras.Input((), dtype="int32", name="labels")
    return keras.Model([image, labels], connect(builder, image, labels), name="network")


def connect(builder, image, labels=None):
    """The raw mixture parameters (batch, height, width, parameters) of a scaled image.

    Args:
        builder: Builder, whose layers are made here; or one that has them, as sampling has.
    """
    options, condition = builder.options, None
    if labels is not None:
        condition = layers.CategoryEncoding(options["num_classes"], "one_hot")(labels)

    # Turned by 180 degrees, "before" in raster order is "behind": padding="same" pads there.
    turned = ops.flip(image, axis=(1, 2))  # (batch, height, width, channels)
    above, left = builder.shift(turned, rows=1), builder.shift(turned, columns=1)
    # The first layer, of both stacks: no pixel sees itself (figure 2 of van den Oord et al.).
    vertical = [builder.conv(VERTICAL)(above)]  # two rows strictly above
    horizontal = [builder.conv((1, 3))(above) + builder.conv((2, 1))(left)]

    # Down the U-net (figure 2 of Salimans et al.): residual layers, then half the size.
    for block in range(options["num_hierarchies"]):
        for _ in range(options["num_resnet"]):
            v = builder.residual(vertical[-1], VERTICAL, condition)
            h = builder.residual(horizontal[-1], HORIZONTAL, condition, skip=v)
            vertical.append(v)
            horizontal.append(h)
        if block < options["num_hierarchies"] - 1:
            vertical.append(builder.conv(VERTICAL, strides=2)(builder.shift(vertical[-1], rows=1)))
            shifted = builder.shift(horizontal[-1], rows=1, columns=1)
            horizontal.append(builder.conv(HORIZONTAL, strides=2)(shifted))

    # Up again: every layer also reads its mirror image on the way down.
    v, h = vertical.pop(), horizontal.pop()
    for block in range(options["num_hierarchies"]):
        for _ in range(options["num_resnet"] + (block > 0)):
            v = builder.residual(v, VERTICAL, condition, skip=vertical.pop())
            both = ops.concatenate([v, horizontal.pop()], axis=-1)
            h = builder.residual(h, HORIZONTAL, condition, skip=both)
        if block < options["num_hierarchies"] - 1:
            v, h = builder.upsample(VERTICAL)(v), builder.upsample(HORIZONTAL)(h)

    # The head: mixture parameters of every pixel, turned back.
    channels = options["image_shape"][-1]
    outputs = logistic_mixture.num_parameters(channels, options["num_logistic_mix"])
    # float32 also under mixed precision: a bfloat16 location would be half a pixel coarse.
    raw = builder.conv((1, 1), filters=outputs, dtype="float32")(ops.elu(h))
    return ops.flip(raw, axis=(1, 2))


class Builder:
    """Makes the layers of one network, with their shared options and a seed of their own each.

    Attributes:
        made: the layers with kernels, in the order of making.
    """

    def __init__(self, options, dtype):
        self.options = options
        self.dtype = dtype
        self.seeds = np.random.default_rng(options["seed"])
        self.made = []

    def layer_options(self):
        weight, seed = self.options["reg_weight"], self._seed()
        return {
            "kernel_initializer": keras.initializers.GlorotUniform(seed=seed),
            "kernel_regularizer": keras.regularizers.L2(weight) if weight else None,
            "dtype": self.dtype,
        }

    def conv(self, kernel_size, filters=None, strides=1, dtype=None):
        layer = WeightNormConv2D if self.options["use_weight_norm"] else layers.Conv2D
        filters = filters or self.options["num_filters"]
        options = self.layer_options() | ({"dtype": dtype} if dtype else {})
        return self._keep(layer(filters, kernel_size, strides=strides, padding="same", **options))

    def upsample(self, kernel_size):
        filters = self.options["num_filters"]
        return self._keep(
            layers.Conv2DTranspose(
                filters, kernel_size, strides=2, padding="same", **self.layer_options()
            )
        )

    def dense(self, units):
        return self._keep(layers.Dense(units, use_bias=False, **self.layer_options()))

    def shift(self, x, rows=0, columns=0):
        """Moves the image down and right in reading order (up and left, as it stands turned), zeros
        coming in.
        """
        moved = x[:, rows:, columns:, :]
        return ops.pad(moved, ((0, 0), (0, rows), (0, columns), (0, 0)))

    def residual(self, x, kernel_size, condition, skip=None):
        """x + gate(conv(dropout(act(conv(act(x)) + conv1x1(act(skip))))) + projection of the
        class).
        """
        filters = self.options["num_filters"]
        y = self.conv(kernel_size)(concat_elu(x))  # (batch, height, width, filters)
        if skip is not None:
            y = y + self.conv((1, 1))(concat_elu(skip))
        y = concat_elu(y)
        if self.options["dropout_p"]:
            y = layers.Dropout(self.options["dropout_p"], seed=self._seed(), dtype=self.dtype)(y)
        y = self.conv(kernel_size, filters=2 * filters)(y)
        if condition is not None:
            projection = self.dense(2 * filters)(condition)
            y = y + layers.Reshape((1, 1, 2 * filters), dtype=self.dtype)(projection)
        return x + gated(y)

    def _keep(self, layer):
        self.made.append(layer)
        return layer

    def _seed(self):
        return int(self.seeds.integers(2**31))


def gated(y):
    """The gate of PixelCNN: half of the channels say how much of the other half passes."""
    value, gate = ops.split(y, 2, axis=-1)  # twice (batch, height, width, channels / 2)
    return value * ops.sigmoid(gate)


def concat_elu(x):
    """elu([x, -x]) over the channels, which doubles them."""
    return ops.elu(ops.concatenate([x, -x], axis=-1))
