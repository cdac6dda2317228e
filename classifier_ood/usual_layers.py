"""The inner layers that scores look at where nobody names any: the ends of a network's stages.

Lee et al. ("A Simple Unified Framework for Detecting Out-of-Distribution Samples", NeurIPS 2018)
take what each block of a DenseNet or ResNet passes on, and their code the stem too. Here a stage is
what has maps of one size; a transformer's tokens count as one.
"""

import math

from keras import layers

from classifier_ood.copies import has_graph

# They only move pixels, and make sizes that no stage has.
MOVED = (
    layers.Cropping1D, layers.Cropping2D, layers.Resizing, layers.ZeroPadding1D,
    layers.ZeroPadding2D,
)  # fmt: skip


def usual_layers(model):
    """Names of the last layer of each size of maps that all paths from input to output cross.

    So the sum that ends a residual block counts, and not what stands within the next one. What
    comes before the first kernel, such as a normalisation of pixels, is left out; so are layers
    of a single position.

    Raises:
        ValueError: there is none.
    """
    last, has_kernel = {}, False
    for name, operation, tensor in _operations(model):
        weights = getattr(operation, "weights", ())
        has_kernel = has_kernel or any(len(weight.shape) > 1 for weight in weights)
        if name is None or not has_kernel or not isinstance(operation, layers.Layer):
            continue
        size = tensor.shape[1:-1]
        if None not in size and math.prod(size) > 1 and not isinstance(operation, MOVED):
            last[math.prod(size)] = name
    if not last:
        raise ValueError(
            f"{model.name} shows no maps of a known size: name layers with --inner_layers."
        )
    return tuple(last.values())


def _operations(model, prefix=""):
    """Yields (name, operation, output) in order; the name, "outer/inner" in a model within the
    model, is None where other paths pass beside the operation.
    """
    graph = getattr(model, "_functional", None) or model  # a Sequential holds one
    depths = sorted(graph._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in graph._nodes_by_depth[depth]]
    readers, open_ = {}, set()  # tensors that something still reads
    for tensor in (tensor for node in nodes for tensor in node.input_tensors):
        readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    for node in nodes:
        for tensor in node.input_tensors:
            readers[id(tensor)] -= 1
            if not readers[id(tensor)]:
                open_.discard(id(tensor))
        is_alone = not open_ and len(node.output_tensors) == 1
        open_ |= {id(tensor) for tensor in node.output_tensors if readers.get(id(tensor))}
        operation, tensor = node.operation, node.output_tensors[0]
        if has_graph(operation):
            inner = _operations(operation, f"{prefix}{operation.name}/")
            yield from ((name if is_alone else None, *rest) for name, *rest in inner)
        else:
            yield f"{prefix}{operation.name}" if is_alone else None, operation, tensor
