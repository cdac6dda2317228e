"""Weights of PyTorch checkpoints in networks of ours, without PyTorch."""

import math
import re

import numpy as np
from keras import layers as keras_layers

from classifier_ood import models, pruning

# Backbone -> [(pattern, replacement)], applied in order to the names found in the wild; the result
# is the name of our layer with dots, and the parameter.
NAME_MAPS = {
    "densenet": [
        (r"^features\.", ""),
        (r"\.(norm|conv)\.(\d)\.", r".\1\2."),
        (r"^(conv0|conv_first|init_conv)\.", "conv1."),
        (r"^(?:dense_?block|dense)(\d)\.", r"block\1."),
        (r"^block(\d)\.denselayer(\d+)\.", lambda m: f"block{m[1]}.layer.{int(m[2]) - 1}."),
        (r"^block(\d)\.(\d+)\.", r"block\1.layer.\2."),
        (r"^transition(\d)\.", r"trans\1."),
        (r"^trans(\d)\.(?:norm|bn)\.", r"trans\1.bn1."),
        (r"^trans(\d)\.conv\.", r"trans\1.conv1."),
        (r"\.norm(\d)\.", r".bn\1."),
        (r"^(norm5|norm_final|norm|bn|bn_final)\.", "bn1."),
        (r"^(classifier|linear)\.", "fc."),
    ],
    "wide_resnet": [
        (r"^(init_conv|conv_1_3x3)\.", "conv1."),
        (r"^(?:layer|group)(\d)\.(?:layer\.)?(\d+)\.", r"block\1.layer.\2."),
        (r"^block(\d)\.(\d+)\.", r"block\1.layer.\2."),
        (r"\.shortcut\.0\.", ".shortcut."),
        (r"^(bn|bn_last|norm)\.", "bn1."),
        (r"^(linear|classifier)\.", "fc."),
    ],
    "resnet_cifar": [
        (r"^(stem\.conv|conv1\.0|conv)\.", "conv1."),
        (r"^(stem\.bn|conv1\.1|bn)\.", "bn1."),
        (r"^conv(\d)_x\.", lambda m: f"layer{int(m[1]) - 1}."),
        (r"\.residual_function\.([036])\.", lambda m: f".conv{int(m[1]) // 3 + 1}."),
        (r"\.residual_function\.([147])\.", lambda m: f".bn{int(m[1]) // 3 + 1}."),
        (r"\.(downsample|skip)\.", ".shortcut."),
        (r"^(linear|classifier)\.", "fc."),
    ],
}  # fmt: skip
NAME_MAPS |= {
    # conv0 is conv1 here, and norm5 bn1; only the stem's BatchNorm is another layer.
    "densenet_imagenet": [*NAME_MAPS["densenet"], (r"^norm0\.", "bn0.")],
    "mobilenet_v2": [(r"^classifier\.1\.", "fc.")],
    "resnet_imagenet": NAME_MAPS["resnet_cifar"],
    "vit": [
        (r"\.in_proj_(weight|bias)$", r".in_proj.\1"),
        (r"^heads\.head\.", "fc."),
    ],
}
# A network's name in torchvision -> our backbone, and what its shapes must say.
TORCHVISION = {
    "densenet121": ("densenet_imagenet", {"growth": 32}),
    "resnet18": ("resnet_imagenet", {"depth": 18}),
    "resnet34": ("resnet_imagenet", {"depth": 34}),
    "resnet50": ("resnet_imagenet", {"depth": 50}),
    "resnet101": ("resnet_imagenet", {"depth": 101}),
    "vit_b_16": ("vit", {}),
}
# First digits of the SHA-256 of torchvision's files of IMAGENET1K_V2, which are in their names.
SECOND_VERSION = {"11ad3fa6": "resnet50", "cd907fc2": "resnet101", "7ebf99e0": "mobilenet_v2"}
# The first convolution, of the backbones that call it otherwise than conv1.
FIRST = {"mobilenet_v2": "features.0.0", "vit": "conv_proj"}
NORMALISATIONS = (keras_layers.BatchNormalization, keras_layers.LayerNormalization)
# Parameter in the file -> variable of the layer; None for what is not needed.
PARAMETERS = {
    "weight": "weight",
    "bias": "bias",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "num_batches_tracked": None,
}


def canonical(backbone, state):
    """The state with our names: {"block1.layer.0.conv1.weight": array}.

    Raises:
        ValueError: an unknown backbone, or two entries that come to the same name.
    """
    if backbone not in NAME_MAPS:
        raise ValueError(
            f"Checkpoints of {backbone!r} cannot be converted. Known: {', '.join(NAME_MAPS)}."
        )
    found = {}
    for name, array in state.items():
        ours = name
        for pattern, replacement in NAME_MAPS[backbone]:
            ours = re.sub(pattern, replacement, ours)
        if ours in found:
            raise ValueError(f"Two entries of the checkpoint come to {ours}; one is {name}.")
        found[ours] = array
    return found


def infer(backbone, state):
    """(options, num_classes, channels): what the shapes of a canonical state say of the network.

    Raises:
        ValueError: an entry that the backbone cannot be without is missing.
    """

    def shape(name):
        if name not in state:
            raise ValueError(
                f"The checkpoint is no {backbone}: it lacks {name}. It has, under our names: "
                f"{', '.join(list(state)[:8])}, and {max(len(state) - 8, 0)} more."
            )
        return state[name].shape

    def count(pattern):
        return len({match[0] for name in state if (match := re.match(pattern, name))})

    first = FIRST.get(backbone, "conv1")
    channels, num_classes = shape(f"{first}.weight")[1], shape("fc.weight")[0]
    if backbone in FIRST:  # of which there is one size
        return {}, num_classes, channels
    options = {"affine": any(re.search(r"(^|\.)bn1\.weight$", name) for name in state)}
    if backbone == "densenet":
        options["depth"] = 6 * count(r"block1\.layer\.\d+\.") + 4
        options["growth"] = shape("block1.layer.0.conv2.weight")[0]
        options["reduction"] = _reduction([shape(f"trans{i}.conv1.weight")[:2] for i in (1, 2)])
    elif backbone == "densenet_imagenet":
        counts = [count(rf"block{block}\.layer\.\d+\.") for block in (1, 2, 3, 4)]
        if counts != [6, 12, 24, 16]:
            raise ValueError(f"No DenseNet-121: its blocks have {counts} bottlenecks.")
        options["growth"] = shape("block1.layer.0.conv2.weight")[0]
    elif backbone == "wide_resnet":
        options["depth"] = 6 * count(r"block1\.layer\.\d+\.") + 4
        options["width"] = shape("block1.layer.0.conv1.weight")[0] // 16
        if any(".shortcut." in name for name in state):
            options["shortcut"] = "input"
    else:
        layers = tuple(count(rf"layer{group}\.\d+\.") for group in (1, 2, 3, 4))
        bottleneck = "layer1.0.conv3.weight" in state
        depths = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50 if bottleneck else 34, (3, 4, 23, 3): 101}
        if layers not in depths:
            raise ValueError(f"No ResNet-18, -34, -50 or -101: it has {layers} blocks.")
        options |= {"depth": depths[layers], "width": shape("conv1.weight")[0]}
    return options, num_classes, channels


def _reduction(transitions):
    """The share r with int(before * r) = kept in all transitions (kept, before), a round one if
    possible.
    """
    low = max(kept / before for kept, before in transitions)
    high = min((kept + 1) / before for kept, before in transitions)
    round_ones = [r for digits in (1, 2, 3) if low <= (r := round((low + high) / 2, digits)) < high]
    fitting = [0.5] * (low <= 0.5 < high) + round_ones
    return next(
        (r for r in fitting if all(int(b * r) == k for k, b in transitions)), (low + high) / 2
    )


def fill(model, state):
    """Puts a canonical state into a model; every entry and every variable must find its partner.

    Kernels turn from PyTorch's (out, in, height, width) to Keras's (height, width, in, out), those
    that take each channel by itself from (channels, 1, height, width) to (height, width, channels,
    1), dense ones from (out, in) to (in, out).

    Raises:
        ValueError: missing, unexpected or mis-shaped entries, by name.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    wanted = {
        (layer.name, variable.name): variable
        for layer in layers.values()
        for variable in layer.weights
    }
    values, unexpected, wrong = {}, [], []
    for name, array in state.items():
        module, _, parameter = name.rpartition(".")
        layer = layers.get(module.replace(".", "_"))
        variable = PARAMETERS.get(parameter, parameter)
        if variable is None:
            continue
        if layer is not None and variable in ("weight", "bias"):
            normalises = isinstance(layer, NORMALISATIONS)
            names = {"weight": "gamma", "bias": "beta"} if normalises else {"weight": "kernel"}
            variable = names.get(variable, variable)
        key = (layer.name if layer is not None else None, variable)
        if key not in wanted:
            unexpected.append(name)
            continue
        axes = _axes(layer, array.ndim)
        array = np.asarray(array, np.float32)
        values[key] = array.transpose(axes) if axes else array
        if values[key].shape != tuple(wanted[key].shape):
            wrong.append(f"{name} {array.shape}")
    missing = ["_".join(key) for key in wanted if key not in values]
    problems = [
        f"{title}: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''} ({len(names)})"
        for title, names in (
            ("missing", missing), ("unexpected", unexpected), ("of another shape", wrong),
        )
        if names
    ]  # fmt: skip
    if problems:
        raise ValueError(f"The checkpoint does not fit {model.name}. " + "; ".join(problems) + ".")
    for key, value in values.items():
        wanted[key].assign(value)


def _axes(layer, ndim):
    """The order of a PyTorch array's axes in Keras; None where it is the same."""
    if isinstance(layer, keras_layers.Embedding):
        return None
    if isinstance(layer, keras_layers.DepthwiseConv2D) and ndim == 4:
        return 2, 3, 0, 1
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(ndim)


def _with_positions(state):
    """The state with tokens.embeddings in place of the class token and the positions, of which
    the first is the class token's.
    """
    names = ("class_token", "encoder.pos_embedding")
    token, positions = (state.get(name, np.empty(0)) for name in names)
    if positions.ndim != 3 or token.shape != positions[:, :1].shape:
        raise ValueError(
            "The checkpoint is no vit: class_token must have shape (1, 1, width), "
            "encoder.pos_embedding (1, 1 + patches, width). Received: "
            f"{token.shape}, {positions.shape}."
        )
    first = token + positions[:, :1]
    others = {name: array for name, array in state.items() if name not in names}
    return others | {"tokens.embeddings": np.concatenate([first, positions[:, 1:]], axis=1)[0]}


def experiment_of(default, digest):
    """The experiment whose transform torchvision has for a file, "imagenet" or "imagenet_v2".

    Args:
        default: experiment of the backbone. digest: SHA-256 of the file, in hexadecimal digits.
    """
    is_second = default == "imagenet" and digest[:8] in SECOND_VERSION
    return "imagenet_v2" if is_second else default


def masked(state, kept=None):
    """The weights that act in a network of Unleashing Mask's subnet layers: of each kernel with
    scores ("conv1.weight", "conv1.scores") the `kept` share of the largest |scores|, 0 elsewhere.

    Args:
        kept: --prune_rate there, which the file does not hold; None for a state without scores.

    Raises:
        ValueError: scores without `kept`, `kept` without scores, or scores of another shape.
    """
    scores = [name for name in state if name.endswith(".scores")]
    if bool(scores) != (kept is not None):
        found = f"{len(scores)} entries such as {scores[0]}" if scores else "no such entry"
        raise ValueError(
            "--prune_rate, the share that their masks keep (1: all), is for checkpoints with "
            f"scores of masks, and needed there. Received: {found}, --prune_rate={kept}."
        )
    changed = {name: array for name, array in state.items() if name not in scores}
    for name in scores:
        own, kernel = name.removesuffix("scores") + "weight", np.shape(state[name])
        if np.shape(changed.get(own)) != kernel:
            raise ValueError(f"{name} must have the shape of {own}. Received: {kernel}.")
        pruning.check_kept(kept)
        size = math.prod(kernel)
        dropped = int((1.0 - kept) * size)  # theirs: of 10 weights 0.8 drops 1, and not 2
        mask = pruning.top_share(state[name], 1.0 - dropped / size)
        changed[own] = changed[own] * np.asarray(mask)
    return changed


def convert(state, backbone, image_size, normalisation):
    """The Keras model of a state dict, and its options.

    Args:
        state: {name: array} as `read_state` gives it.
        backbone: a key of NAME_MAPS or of TORCHVISION.
        image_size: (height, width).
        normalisation: {"mean", "std"} in pixels 0..255.

    Raises:
        ValueError: a state that is of another network.
    """
    asked, (backbone, expected) = backbone, TORCHVISION.get(backbone, (backbone, {}))
    state = canonical(backbone, state)
    options, num_classes, channels = infer(backbone, state)
    if not expected.items() <= options.items():
        raise ValueError(f"The checkpoint is no {asked}: {backbone} with {options} fits it.")
    options |= normalisation
    if backbone == "vit":
        state = _with_positions(state)
    model = models.build(backbone, (*image_size, channels), num_classes, options)
    fill(model, state)
    return model, options
