"""Reads PyTorch checkpoints and safetensors as NumPy arrays, without PyTorch and without running
what a pickle asks for.

A checkpoint is a pickle that may name any Python callable. The reader here knows tensors, numbers,
strings and plain containers; whatever else a file names is refused by its name. It reads the
tensors of the network alone, and takes at most twice the file's size of memory, and a constant.
"""

import io
import math
import pathlib
import zipfile

import numpy as np
from safetensors.numpy import load_file

from ood_suite.data import pickles
from ood_suite.data.members import READ
from ood_suite.data.pickles import shown
from ood_suite.files import reading

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
PICKLE_BYTES = 2**25  # of a checkpoint without its tensors
DIMENSIONS = 32  # of a tensor, as NumPy 1 had it
# Names that a checkpoint may hold -> what calling them means here.
_NAMES = {
    ("collections", "OrderedDict"): "dict",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
} | {("torch", name): name for name in STORAGES}


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
    with reading(path, "a checkpoint"):
        if path.suffix == ".safetensors":
            state = _state(load_file(path))
        elif zipfile.is_zipfile(path):
            state = _read_zip(path)
        else:
            with open(path, "rb") as file:
                state = _read_legacy(file)
        while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in state)), None):
            state = {name.removeprefix(prefix): array for name, array in state.items()}
        return state


def _state(content):
    """The tensors by name, wherever in a checkpoint they lie."""
    for _ in range(NESTED):
        if not isinstance(content, dict) or _is_state(content):
            break
        inner = next((content[key] for key in STATE_KEYS if key in content), None)
        if inner is None:
            keys = ", ".join(str(key)[: pickles.SHOWN] for key in list(content)[:10])
            raise ValueError(
                "it holds no state dict. Expected tensors by name, or one of "
                f"{', '.join(STATE_KEYS)}. Received: {keys}"
            )
        content = inner
    if not _is_state(content):
        raise ValueError(f"it holds a {type(content).__name__}, no state dict")
    return content


def _is_state(content):
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(name, str) and isinstance(value, np.ndarray | _Tensor)
            for name, value in content.items()
        )
    )


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickled = next((name for name in members if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise ValueError("it is a zip file without data.pkl: not made by torch.save")
        prefix, storages = pickled.removesuffix("data.pkl"), _Storages()
        if members[pickled].file_size > PICKLE_BYTES:
            raise ValueError(f"its data.pkl is larger than {PICKLE_BYTES} bytes")
        order = members.get(f"{prefix}byteorder")
        if order and (order.file_size != 6 or _content(archive, order) != b"little"):
            raise ValueError("it is big-endian, which is not supported")
        state = _state(storages.load(io.BytesIO(_content(archive, members[pickled]))))
        wanted = {tensor.storage.key: tensor.storage for tensor in state.values()}
        found = {key: members[f"{prefix}data/{key}"] for key in wanted}
        if sum(member.file_size for member in found.values()) > 2 * path.stat().st_size:
            raise ValueError("its tensors are more than twice as large as the file")
        for key, member in found.items():
            if member.file_size != wanted[key].size:
                raise ValueError(f"the storage {shown(key)} has {member.file_size} bytes")
            wanted[key].content = _content(archive, member)
        return {name: tensor.array() for name, tensor in state.items()}


def _content(archive, member):
    """The bytes of a member, as many as its archive's list says: tensors are views of them."""
    name, size = shown(member.filename), member.file_size
    if member.compress_type not in READ:
        raise ValueError(f"its {name} is neither stored nor deflated: save it anew with torch.save")
    with archive.open(member) as file:
        content = file.read(size)
    if len(content) != size:
        raise ValueError(f"its {name} has {len(content)} bytes, and its list says {size}")
    return content


def _read_legacy(file):
    """The format before PyTorch 1.6: five pickles, then the storages one after another."""
    storages, buffer = _Storages(), io.BytesIO(file.read(PICKLE_BYTES))
    magic, _, _, content, keys = (storages.load(buffer) for _ in range(5))
    if magic != LEGACY_MAGIC:
        raise ValueError(f"it starts with {shown(magic)}, so it was not made by torch.save")
    state = _state(content)
    wanted = {tensor.storage.key for tensor in state.values()}
    file.seek(buffer.tell())
    for key in keys:
        storage = storages.known[key]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count or storage.content is not None:
            raise ValueError(f"the storage {shown(key)} has {count} values, or is there twice")
        if key in wanted:
            storage.content = file.read(min(storage.size, _rest(file)))
            if len(storage.content) != storage.size:
                raise ValueError(f"the storage {shown(key)} is truncated")
        else:
            file.seek(storage.size, io.SEEK_CUR)
    return {name: tensor.array() for name, tensor in state.items()}


def _rest(file):
    """Bytes from here to the end: more than those are never allocated."""
    here = file.tell()
    size = file.seek(0, io.SEEK_END) - here
    file.seek(here)
    return max(size, 0)


class _Storage:
    """What tensors are views of. A pickle never holds one: `pickles.load` knows no attributes."""

    def __init__(self, key, dtype, count):
        self.key, self.dtype, self.count = key, np.dtype(dtype), count
        self.size = count * self.dtype.itemsize
        self.content = None


class _Storages:
    """The storages that a checkpoint refers to, by key, and the meaning of what its pickle says."""

    def __init__(self):
        self.known = {}

    def load(self, file):
        return pickles.load(file, _named, _called, self.referred)

    def referred(self, identifier):
        """The storage of ("storage", kind, key, device, count)."""
        if not isinstance(identifier, tuple) or not 5 <= len(identifier) <= 6:
            raise ValueError(f"it refers to what is no storage: {shown(identifier)}")
        tag, kind, key, _, count = identifier[:5]
        is_view = any(part is not None for part in identifier[5:])  # of very old files
        plain = isinstance(key, str) and isinstance(count, int) and 0 <= count < 2**48
        if tag != "storage" or not isinstance(kind, _Name) or kind.meaning not in STORAGES:
            raise ValueError(f"it refers to what is no storage: {shown(tag)}")
        if is_view or not plain:
            raise ValueError(f"it refers to what is no storage: {shown(key)} of {shown(count)}")
        storage = self.known.setdefault(key, _Storage(key, STORAGES[kind.meaning], count))
        if (storage.dtype, storage.count) != (np.dtype(STORAGES[kind.meaning]), count):
            raise ValueError(f"the storage {shown(key)} has two types or sizes")
        return storage


class _Name:
    """What stands for a name of _NAMES."""

    def __init__(self, meaning):
        self.meaning = meaning


def _named(module, name):
    if (module, name) not in _NAMES:
        full = f"{module[: pickles.SHOWN]}.{name[: pickles.SHOWN]}"
        raise ValueError(
            f"The checkpoint asks for {full}, which is neither a tensor nor a plain container. "
            "Save the state dict alone: torch.save(model.state_dict(), FILE)"
        )
    return _Name(_NAMES[module, name])


def _called(function, arguments):
    meaning = function.meaning if isinstance(function, _Name) else None
    if meaning == "tensor" and len(arguments) >= 4:
        return _Tensor(*arguments[:4])
    if meaning == "parameter" and arguments and isinstance(arguments[0], _Tensor):
        return arguments[0]
    if meaning == "dict":
        return _ordered(*arguments)
    raise ValueError(f"it calls {meaning or shown(function)} with {len(arguments)} arguments")


def _ordered(pairs=()):
    """An OrderedDict, of pairs as Python 2 wrote them."""
    found = {}
    for pair in pairs if isinstance(pairs, list) else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError("it holds an OrderedDict of other things than pairs")
        found[pair[0]] = pair[1]
    return found


class _Tensor:
    """A view of a storage; what lies outside it is refused, and what repeats its values."""

    def __init__(self, storage, offset, shape, strides):
        if not isinstance(storage, _Storage):
            raise ValueError("The checkpoint makes a tensor of what is no storage")
        if not all(
            isinstance(part, tuple) and len(part) <= DIMENSIONS for part in (shape, strides)
        ):
            raise ValueError("A tensor has no shape or no strides")
        whole = all(isinstance(n, int) and 0 <= n < 2**48 for n in (offset, *shape, *strides))
        if not whole or len(shape) != len(strides):
            sizes, steps = (", ".join(map(shown, part)) for part in (shape, strides))
            raise ValueError(f"A tensor has shape ({sizes}) and strides ({steps})")
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        size = math.prod(shape)
        if offset > storage.count or (size and (last >= storage.count or size > storage.count)):
            raise ValueError(f"A tensor of shape {shape} reaches beyond its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self):
        """Read-only, without a copy."""
        flat = np.frombuffer(self.storage.content, self.storage.dtype)
        if not math.prod(self.shape):  # whose strides may be anything
            return np.empty(self.shape, flat.dtype)
        steps = [step * flat.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, steps, writeable=False
        )
