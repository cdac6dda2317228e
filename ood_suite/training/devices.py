"""One training on several devices of one machine: tf.distribute.MirroredStrategy.

Every step's batch is cut into equal parts, one a device; the devices hold the same weights.
TensorFlow sums the gradients of the devices, so a loss that is a mean over the batch gives each its
`share`. Then losses and weights are those of one device with the same batch, up to the order of
sums. Three things are not as on one device: random layers (dropout, mutation, augmentation) draw
other numbers on every device, BatchNorm has to be told to look at the whole batch (`synchronized`),
and XLA is off.
"""

import contextlib
import functools

import keras
import numpy as np
from absl import logging
from keras import ops

REPLICA_SEED = 1_000_003  # between the seeds that two devices draw with


@functools.cache
def _mirrored():
    """The one strategy of this process: two would wait for each other."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy()


@contextlib.contextmanager
def scope(strategy, batch_size):
    """Within the block models are built, compiled and trained on all devices; None: on one.

    Raises:
        ValueError: another backend than TensorFlow, or a batch that the devices cannot share out.
    """
    if strategy is None:
        yield
        return
    if strategy != "mirrored":
        raise ValueError(f"--strategy must be mirrored, or left out. Received: {strategy!r}.")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "--strategy=mirrored needs TensorFlow. Received: KERAS_BACKEND="
            f"{keras.backend.backend()}."
        )
    devices = _mirrored().num_replicas_in_sync
    if batch_size % devices:
        raise ValueError(
            f"--batch_size must be a multiple of {devices}, the number of devices. Received: "
            f"{batch_size}."
        )
    logging.info("Training on %d devices.", devices)
    with _mirrored().scope():
        yield


def count():
    """How many devices share a batch here: 1 outside of `scope`."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def share(loss):
    """What a device's mean loss, penalties included, adds to the loss of the whole batch."""
    devices = count()
    return loss / devices if devices > 1 else loss


def mean(value):
    """The mean of a scalar over the devices, for what the whole batch decides; no gradient passes.
    On one device: the value.
    """
    if count() == 1:
        return value
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    value = ops.stop_gradient(value)
    return value if context is None else context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def shared_out(*sizes):
    """int64 (sum of sizes,): the order of a batch's rows that gives each device its part of each
    of the blocks that the batch is made of, in their order. On one device: as they are.

    Raises:
        ValueError: a block that the devices cannot share out.
    """
    devices, blocks = count(), np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    if any(size % devices for size in sizes):
        raise ValueError(
            f"Each part of a batch must be a multiple of {devices}, the number of devices. "
            f"Received parts of {', '.join(map(str, sizes))} examples."
        )
    parts = zip(*(np.split(block, devices) for block in blocks), strict=True)
    return np.concatenate([rows for part in parts for rows in part])


def stream(make, whole=True):
    """What Keras's `fit` or `evaluate` reads the batches of the iterator make() from.

    On several devices Keras looks at the first batches before it starts, which an iterator would
    have lost: it gets a data set that begins anew.

    Args:
        whole: whether all batches are as large as the first.
    """
    if count() == 1:
        return make()
    import tensorflow as tf

    def spec(array):
        return tf.TensorSpec(array.shape if whole else (None, *array.shape[1:]), array.dtype)

    signature = tf.nest.map_structure(spec, next(make()))
    return tf.data.Dataset.from_generator(make, output_signature=signature)


def evaluation_batch(rows, wanted):
    """The largest batch size up to `wanted` with which each device gets some of every batch."""
    devices = count()
    if devices == 1:
        return wanted
    for size in range(min(wanted, rows) // devices * devices, 0, -devices):
        rest = rows % size
        if rest == 0 or -(-rest // devices) * (devices - 1) < rest:
            return size
    raise ValueError(f"{rows} validation examples are too few for {devices} devices.")


def synchronize(network):
    """Makes BatchNorm look at the whole batch where several devices share it, and else at its own
    device's, as models that several devices trained have it on one.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = count() > 1


def save(network, path):
    """Writes a network as one device has it: under JAX no file with `synchronized` can be read."""
    marked = [x for x in network._flatten_layers() if getattr(x, "synchronized", False)]
    for layer in marked:
        layer.synchronized = False
    network.save(path)
    for layer in marked:
        layer.synchronized = True


def decorrelate(model):
    """Makes the random layers of each device draw numbers of their own; what is saved of their
    state stays as it is.
    """
    if count() == 1:
        return
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                value.next = functools.partial(_of_replica, value.next)


def _of_replica(plain, ordered=True):
    import tensorflow as tf

    seed, context = plain(ordered), tf.distribute.get_replica_context()
    if context is None:  # while the model is built
        return seed
    number = tf.cast(context.replica_id_in_sync_group, seed.dtype)
    return seed + tf.stack([REPLICA_SEED * number, tf.zeros_like(number)])
