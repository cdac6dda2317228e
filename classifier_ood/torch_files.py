"""Reads PyTorch checkpoints and safetensors as NumPy arrays, without PyTorch and without running
what a pickle asks for.

A checkpoint is a pickle that may name any Python callable. The reader here knows tensors, numbers,
strings and plain containers; whatever else a file names is refused by its name.
"""

import collections
import io
import math
import pathlib
import pickle
import zipfile

import numpy as np
import safetensors
from safetensors.numpy import load_file

STORAGES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "ShortStorage": "<i2",
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
NESTED = 3  # state dicts lie this deep at most
STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")


def read_state(path):
    """{name: array} of the network in a checkpoint; a prefix that wrappers put before all names,
    such as "module.", is taken off.

    Args:
        path: .safetensors, or what torch.save wrote (zip or the format before PyTorch 1.6): a state
            dict, or a dict that holds one under one of STATE_KEYS.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, no state dict in it, or objects that are neither tensors nor plain
            containers.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, IndexError, OSError,
        TypeError, AttributeError, OverflowError,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}.") from error
    for _ in range(NESTED):
        if not isinstance(content, dict) or _is_state(content):
            break
        inner = next((content[key] for key in STATE_KEYS if key in content), None)
        if inner is None:
            raise ValueError(
                f"{path} holds no state dict. Expected tensors by name, or one of "
                f"{', '.join(STATE_KEYS)}. Received: {', '.join(map(str, list(content)[:10]))}."
            )
        content = inner
    if not _is_state(content):
        raise ValueError(f"{path} holds a {type(content).__name__}, no state dict.")
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in content)), None):
        content = {name.removeprefix(prefix): array for name, array in content.items()}
    return content


def _is_state(content):
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(name, str) and isinstance(value, np.ndarray)
            for name, value in content.items()
        )
    )


def _read_safetensors(path):
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}.") from error


def _read_torch(path):
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return _read_legacy(file)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickled = next((name for name in names if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise ValueError(f"{path} is a zip file without data.pkl: not made by torch.save.")
        prefix = pickled.removesuffix("data.pkl")
        if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
            raise ValueError(f"{path} is big-endian, which is not supported.")

        def storage(kind, key, count):
            content = archive.read(f"{prefix}data/{key}")
            return _Storage(np.frombuffer(content, STORAGES[kind], count))

        return _Reader(io.BytesIO(archive.read(pickled)), storage).load()


def _read_legacy(file):
    """The format before PyTorch 1.6: five pickles, then the storages one after another."""
    storages = {}

    size = file.seek(0, 2)
    file.seek(0)

    def storage(kind, key, count):
        if count * np.dtype(STORAGES[kind]).itemsize > size:
            raise ValueError(f"the storage {key} is larger than the file")
        return storages.setdefault(key, _Storage(np.zeros(count, STORAGES[kind])))

    magic, _, _, content, keys = (_Reader(file, storage).load() for _ in range(5))
    if magic != LEGACY_MAGIC:
        raise ValueError(f"it starts with {magic!r}, so it was not made by torch.save")
    for key in keys:
        array = storages[key].array
        count = int.from_bytes(file.read(8), "little")
        raw = file.read(array.nbytes)
        if count != array.size or len(raw) != array.nbytes:
            raise ValueError(f"the storage {key} is truncated")
        array[:] = np.frombuffer(raw, array.dtype)
    return content


class _Storage:
    """The flat array behind tensors. A pickle cannot make one, nor pass a tensor for one."""

    def __init__(self, array):
        self.array = array


class _Reader(pickle.Unpickler):
    """Unpickles tensors and plain containers only.

    Args:
        storage: function(kind, key, count) -> _Storage.
    """

    def __init__(self, file, storage):
        super().__init__(file)
        self.storage = storage

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return name
        raise ValueError(
            f"The checkpoint asks for {module}.{name}, which is neither a tensor nor a plain "
            "container. Save the state dict alone: torch.save(model.state_dict(), FILE)."
        )

    def persistent_load(self, identifier):
        tag, kind, key, _, count = identifier[:5]
        is_view = any(part is not None for part in identifier[5:])  # of very old files
        if tag != "storage" or kind not in STORAGES or is_view:
            raise ValueError(f"The checkpoint refers to what is no storage: {identifier!r}.")
        return self.storage(kind, key, count)


def _tensor(storage, offset, shape, strides, *_):
    """The view that a tensor is of its storage; what lies outside the storage is refused, and what
    repeats its values.
    """
    if not isinstance(storage, _Storage):
        raise ValueError("The checkpoint makes a tensor of what is no storage.")
    array = storage.array
    if len(shape) != len(strides) or min((offset, *shape, *strides), default=0) < 0:
        raise ValueError(f"A tensor has shape {shape} and strides {strides}.")
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if math.prod(shape) and (last >= array.size or math.prod(shape) > array.size):
        raise ValueError(f"A tensor of shape {shape} reaches beyond its storage.")
    steps = [step * array.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(array[offset:], shape, steps, writeable=False)
