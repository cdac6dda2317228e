"""A small twin of the likelihood-ratio authors' code, for tests: random weights of their layout,
checkpoints as TensorFlow 1 wrote them, and their log-probability word for word, in NumPy and
float64, with full kernels. It shares nothing with images_ood.

It was compared with three networks that the authors' code (graph mode, legacy Keras) trained for
30 to 40 steps, two grey of the paper's size and one in colour: of 80 images, no log-probability
differed by more than six parts in ten million.
"""

import json

import numpy as np
from scipy.special import expit, log_expit, log_softmax, logsumexp

PARAMS = {
    "batch_size": 32, "data_init": False, "dropout_p": 0.0, "eval_every": 40, "exp": "fashion",
    "job_dir": "expfashion/rescaleFalse/reg0.00_mr0.00/0", "learning_rate": 1e-4,
    "learning_rate_decay": 0.999995, "momentum": 0.95, "momentum2": 0.9995, "mutation_rate": 0.0,
    "n_channel": 1, "n_dim": 8, "num_filters": 4, "num_hierarchies": 1, "num_logistic_mix": 1,
    "num_resnet": 1, "reg_weight": 0.0, "rescale_pixel_value": False, "save_im": False,
    "use_weight_norm": False,
}  # fmt: skip
VERTICAL, HORIZONTAL = (2, 3), (2, 2)  # rows and columns of a kernel that are not masked


def kernels(params):
    """(kind, shape, valid rows and columns) of every kernel in the order of creation."""
    filters, channels = params["num_filters"], params["n_channel"]
    yield "conv2d", (5, 3, channels, filters), (2, 3)
    yield "conv2d", (3, 3, channels, filters), (1, 3)
    yield "conv2d", (3, 3, channels, filters), (2, 1)
    narrow, wide = (3, 3, 2 * filters, filters), (3, 3, 2 * filters, 2 * filters)
    for upwards in [False] * params["num_resnet"] + [True] * params["num_resnet"]:
        yield "conv2d", narrow, VERTICAL
        if upwards:
            yield "dense", (2 * filters, filters), None
        yield "conv2d", wide, VERTICAL
        yield "conv2d", narrow, HORIZONTAL
        yield "dense", ((4 if upwards else 2) * filters, filters), None
        yield "conv2d", wide, HORIZONTAL
    outputs = 1 + 2 * channels + channels * (channels - 1) // 2
    yield "dense", (filters, params["num_logistic_mix"] * outputs), None


def random_weights(params, seed=0):
    """{"conv2d_3/kernel": float32 array}, masked, and small enough that bins keep some mass."""
    rng, counts, weights = np.random.default_rng(seed), {"conv2d": 0, "dense": 0}, {}
    for kind, shape, valid in kernels(params):
        name = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
        kernel = rng.normal(0, 0.1, shape).astype(np.float32)
        if valid:
            kernel[valid[0] :] = kernel[:, valid[1] :] = 0.0
        weights[f"{name}/kernel"] = kernel
        weights[f"{name}/bias"] = rng.normal(0, 0.1, shape[-1]).astype(np.float32)
    # Inputs of 0..255 make activations of that size; coefficients of the channels multiply them.
    if not params["rescale_pixel_value"]:
        weights["conv2d/kernel"] /= 100.0
        weights["conv2d_1/kernel"] /= 100.0
        weights["conv2d_2/kernel"] /= 100.0
    return weights


def log_prob(weights, params, images):
    """(n,) nats. Args: images: (n, height, width, channels), 0..255."""
    used = {"conv2d": 0, "dense": 0}

    def take(kind):
        name = f"{kind}_{used[kind]}" if used[kind] else kind
        used[kind] += 1
        return (weights[f"{name}/{part}"].astype(np.float64) for part in ("kernel", "bias"))

    def convolve(x):
        kernel, bias = take("conv2d")
        rows, columns = kernel.shape[:2]
        around = [(0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)]
        padded = np.pad(x, around)
        height, width = x.shape[1:3]
        total = np.zeros((*x.shape[:3], kernel.shape[3])) + bias
        for i in range(rows):
            for j in range(columns):
                total += padded[:, i : i + height, j : j + width] @ kernel[i, j]
        return total

    def connect(x):
        kernel, bias = take("dense")
        return x @ kernel + bias

    def residual(x, skip=None):
        y = convolve(both_signs(x))
        if skip is not None:
            y = y + connect(both_signs(skip))
        value, gate = np.split(convolve(both_signs(y)), 2, axis=-1)
        return x + value * expit(gate)

    pixels = images.astype(np.float64)
    x = pixels / 127.5 - 1.0 if params["rescale_pixel_value"] else pixels
    vertical, horizontal = [convolve(x)], [convolve(x) + convolve(x)]
    for _ in range(params["num_resnet"]):
        vertical.append(residual(vertical[-1]))
        horizontal.append(residual(horizontal[-1], vertical[-1]))
    v, h = vertical.pop(), horizontal.pop()
    for _ in range(params["num_resnet"]):
        v = residual(v, vertical.pop())
        h = residual(h, np.concatenate([v, horizontal.pop()], axis=-1))
    return mixture(connect(elu(h)), params, pixels).sum(axis=(1, 2))


def mixture(raw, params, pixels):
    """(n, height, width) nats of the quantised logistic mixtures with these raw parameters."""
    channels, mixtures = params["n_channel"], params["num_logistic_mix"]
    raw = raw.reshape(*raw.shape[:3], mixtures, -1)
    ends = [1, 1 + channels, 1 + 2 * channels]
    logits, locations, scales, coefficients = np.split(raw, ends, axis=-1)
    own, column = [], 0
    for channel in range(channels):
        location = locations[..., channel]
        for earlier in range(channel):  # raw pixels, also where the network sees [-1, 1]
            location = location + coefficients[..., column] * pixels[..., None, earlier]
            column += 1
        own.append(location)
    locations = np.stack(own, axis=-1)
    if params["rescale_pixel_value"]:
        locations = 127.5 * (locations + 1.0)
        scales = 127.5 * (np.logaddexp(0.0, scales) + np.exp(-7.0))
    else:
        scales = np.maximum(255.0 * expit(scales), 0.25)
    value = pixels[..., None, :]
    upper = np.where(value > 254.5, np.inf, (value + 0.5 - locations) / scales)
    lower = np.where(value < 0.5, -np.inf, (value - 0.5 - locations) / scales)
    # F(upper) - F(lower) = F(-lower) - F(-upper): in the tail that keeps its digits.
    left = lower + upper < 0
    large = log_expit(np.where(left, upper, -lower))
    small = log_expit(np.where(left, lower, -upper))
    per_component = (large + np.log1p(-np.exp(small - large))).sum(axis=-1)
    return logsumexp(log_softmax(logits[..., 0], axis=-1) + per_component, axis=-1)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def both_signs(x):
    return elu(np.concatenate([x, -x], axis=-1))


def write_checkpoint(folder, params, weights, *, step=40, scope="PixelCNN/"):
    """model/params.json and model/model_step<step>.ckpt below `folder`, with Adam's variables."""
    import tensorflow as tf

    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    (model / "params.json").write_text(json.dumps(params))
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.Variable(0.9, name="beta1_power")
        v1.Variable(0.99, name="beta2_power")
        v1.Variable(step, name="global_step", dtype=tf.int64)
        for name, array in weights.items():
            v1.Variable(array, name=f"{scope}{name}")
            for slot in ("Adam", "Adam_1"):
                v1.Variable(np.zeros_like(array), name=f"{scope}{name}/{slot}")
        session.run(v1.global_variables_initializer())
        path = str(model / f"model_step{step}.ckpt")
        v1.train.Saver().save(session, path, write_meta_graph=False, write_state=False)


def write_pair(model_dir, *, step=40, run="0", **changes):
    """A foreground and a background (mutation 0.1) below `model_dir`, of PARAMS with changes;
    returns {folder: (params, weights)}.
    """
    written = {}
    for seed, rate in enumerate((0.0, 0.1)):
        params = PARAMS | changes | {"mutation_rate": rate}
        name = f"reg0.00_mr{rate:.2f}"
        written[name] = params, random_weights(params, seed)
        write_checkpoint(model_dir / name / run, *written[name], step=step)
    return written
