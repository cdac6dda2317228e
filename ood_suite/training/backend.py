"""The few lines that differ between TensorFlow and JAX, and between processors."""

import contextlib
import os
import pathlib

import keras
import numpy as np

from ood_suite.files import RunError, read_json
from ood_suite.optional import optional
from ood_suite.training import devices

CPUINFO = pathlib.Path("/proc/cpuinfo")
LARGEST_PROGRAM = 3 * 2**29  # bytes
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of /proc/cpuinfo, on x86 and on ARM
BFLOAT16_LEVELS = ("BF16", "FP16", "AMX", "AVX10", "DEFAULT", "ALL")  # of ONEDNN_MAX_CPU_ISA


def set_seed(seed):
    """Seeds Python, NumPy and the backend, and makes TensorFlow's operations deterministic; their
    order too under TF_NUM_INTEROP_THREADS=1, which the binaries set.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def is_deterministic():
    """Whether TensorFlow's operations are (see set_seed): then Keras lets XLA compile none."""
    if keras.backend.backend() != "tensorflow":
        return False
    from tensorflow.python.framework import config

    return config.is_op_determinism_enabled()


def jit_compile():
    """Whether to compile training with XLA: always under JAX. Under TensorFlow on one GPU, but not
    of trainings that are to be repeated (`set_seed`), which all of this project's are; on a CPU it
    costs 4 to 5 times there.
    """
    if keras.backend.backend() != "tensorflow":
        return True
    return devices.count() == 1 and has_gpu() and not is_deterministic()


def has_gpu():
    """Whether TensorFlow sees one."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def has_bfloat16():
    """Whether networks compute in bfloat16 here at a gain: on an accelerator, or on a processor
    with instructions for it. (Others take four times as long as in float32, or refuse.)
    """
    if keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() != "cpu":
            return True
    elif keras.backend.backend() == "tensorflow" and has_gpu():
        return True
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    flags = set(CPUINFO.read_text().split()) if CPUINFO.exists() else set()
    return bool(flags & BFLOAT16_FLAGS) and any(level in limit for level in BFLOAT16_LEVELS)


def is_bfloat16(network):
    """Whether a layer of a network computes in bfloat16."""
    return any(layer.compute_dtype == "bfloat16" for layer in network._flatten_layers())


def dtype_of(wanted, folder):
    """The precision of a run that wants `wanted`: "auto" is what the run began with, or the other
    runs of its experiment (which are compared with it), else what the processor can do.
    """
    if wanted != "auto":
        return wanted
    for path in (folder / "config.json", *sorted(folder.parent.glob("*/config.json"))):
        known = read_json(path).get("settings", {}) if path.exists() else {}
        if known.get("dtype", "auto") != "auto":
            return known["dtype"]
    return "mixed_bfloat16" if has_bfloat16() else "float32"


def inference(network):
    """A compiled map from float32 (n, *shape) to the network's outputs as {name: NumPy array}, one
    program for every n under TensorFlow, without the overhead of `predict`.

    The weights become constants of TensorFlow's program. What follows from them alone (BatchNorm,
    above all) is then computed once: a DenseNet runs at 1.2 times the speed. Weights that change
    later are not seen, and logits differ by rounding. Not done to networks of more than 1.5 GiB: a
    program of TensorFlow holds 2 GiB at most. JAX computes with a copy of the weights.
    """
    if keras.backend.backend() == "jax":
        return _of_jax(network)
    import tensorflow as tf

    shape = tf.TensorSpec((None, *network.inputs[0].shape[1:]), "float32")
    compiled = tf.function(lambda batch: network(batch, training=False), input_signature=[shape])
    concrete = compiled.get_concrete_function()  # a tenth of a millisecond sooner than by signature
    call, names = concrete, sorted(concrete.structured_outputs)  # the order of a flat dict
    if 4 * network.count_params() <= LARGEST_PROGRAM:
        from tensorflow.python.framework import convert_to_constants

        program = convert_to_constants.convert_variables_to_constants_v2(concrete)

        # Called as a function it first fails to bind its input, milliseconds in which the batch is
        # written out for an error that TensorFlow then catches.
        def call(batch):
            return program._call_flat([batch], program.captured_inputs)

    def outputs(batch):
        found = tf.nest.flatten(call(tf.convert_to_tensor(batch)))
        return {name: y.numpy() for name, y in zip(names, found, strict=True)}

    return outputs


def _of_jax(network):
    """`inference` under JAX: unlike Keras's own it gives no weights away, so that several threads
    can call it.
    """
    import jax

    kinds = network.trainable_variables, network.non_trainable_variables
    weights = [[jax.numpy.array(v.value, copy=True) for v in own] for own in kinds]
    program = jax.jit(lambda own, batch: network.stateless_call(*own, batch, training=False)[0])
    return lambda batch: {
        name: np.asarray(y) for name, y in program(weights, np.asarray(batch)).items()
    }


def once(network, batch):
    """The network's outputs as NumPy arrays for one batch, for which TensorFlow compiles nothing:
    that would pay from the second batch on.
    """
    if keras.backend.backend() != "tensorflow":  # JAX would compile each operation by itself
        return network.predict_on_batch(batch)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, network(batch, training=False))


def in_batches(function, images, batch_size):
    """{name: array} of all images by a function of float32 batches, such as `inference` makes."""
    starts = range(0, max(1, len(images)), batch_size)  # of no images: empty arrays
    found = [function(np.asarray(images[i : i + batch_size], np.float32)) for i in starts]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def litert(model):
    """A model as the bytes of a LiteRT file, without TensorFlow's own operations."""
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError(f"No LiteRT under {keras.backend.backend()}.")
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def write_onnx(model, path, about):
    """Writes a model as an ONNX file: the first axis of what it takes and gives is "batch".

    Args:
        about: {name: text} for the file's metadata.
    """
    optional("tf2onnx")
    onnx = optional("onnx")
    model(np.zeros((1, *model.inputs[0].shape[1:]), np.float32))  # Keras wants it to be built
    model.export(path, "onnx", verbose=False)
    made = onnx.load(path)
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(made, about)
    onnx.save(made, path)


def input_gradient(function):
    """A compiled map from images (batch, ...) float32 to the gradient of sum(function(images)).

    Args:
        function: images -> (batch,), in Keras operations; models in it are called for inference.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=True)
        def gradient(images):
            with tf.GradientTape() as tape:
                tape.watch(images)
                total = keras.ops.sum(function(images))
            found = tape.gradient(total, images)
            if found is None:
                raise ValueError("The model has no gradient by its input: is its input integer?")
            return found

        return lambda images: gradient(tf.convert_to_tensor(images)).numpy()
    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.jit(jax.grad(lambda images: keras.ops.sum(function(images))))
        return lambda images: keras.ops.convert_to_numpy(gradient(images))
    raise NotImplementedError(f"No input gradients under {keras.backend.backend()}.")


def gradient_by_values(function, values):
    """Gradients of the scalar function(values) by a list of tensors, within a training step; what
    comes out is a constant to the step's own gradient.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        values = [tf.stop_gradient(value) for value in values]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            result = function(values)
        return [tf.stop_gradient(g) for g in tape.gradient(result, values)]
    if keras.backend.backend() == "jax":
        import jax

        return [jax.lax.stop_gradient(g) for g in jax.grad(function)(values)]
    raise NotImplementedError(f"No inner gradients under {keras.backend.backend()}.")


@contextlib.contextmanager
def summary_writer(folder):
    """Yields write(step, values), which adds TensorBoard scalars under TensorFlow and does nothing
    elsewhere. A full disk is a RunError that names the folder.
    """
    if keras.backend.backend() != "tensorflow":
        yield lambda step, values: None
        return
    import tensorflow as tf

    @contextlib.contextmanager
    def room():
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            raise RunError(f"{folder} cannot be written: {error.message}.") from error

    with room():
        writer = tf.summary.create_file_writer(str(folder))

    def write(step, values):
        with room(), writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
            writer.flush()

    yield write
    with room():
        writer.close()
