"""Weights that any framework can make again from the names and shapes of its parameters: frozen
references of large networks need not hold them.
"""

import hashlib

import numpy as np


def seeded_state(shapes):
    """{name: float32 array} of a PyTorch network, each drawn by a seed made of its name.

    Args:
        shapes: {name: shape} as in its state dict; numbers of batches are left out.
    """
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        rng = np.random.default_rng(seed)
        if len(shape) > 1:  # He's scale: the signal keeps its size
            values = rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape)
        elif name.endswith(("running_var", "weight")):
            values = rng.uniform(0.5, 1.0, shape)
        else:
            values = rng.normal(0.0, 0.1, shape)
        state[name] = values.astype(np.float32)
    return state


def seeded_images(count, size=224):
    """uint8 (count, size, size, 3): waves of several lengths, and noise."""
    rng = np.random.default_rng(224)
    rows, columns = np.mgrid[:size, :size]
    found = np.empty((count, size, size, 3))
    for i, channel in np.ndindex(count, 3):
        a, b, phase = rng.normal(0.0, 0.1), rng.normal(0.0, 0.1), rng.uniform(0.0, 6.0)
        found[i, ..., channel] = 128 + 80 * np.sin(a * rows + b * columns + phase)
    return np.clip(found + rng.normal(0.0, 20.0, found.shape), 0, 255).astype(np.uint8)
