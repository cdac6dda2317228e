"""Pickled dicts of arrays, as data sets are published: nothing in them is run, arrays stay on disk.

Only NumPy's arrays, types and numbers, bytes, texts, lists, tuples and dicts are known; whatever
else a file names is refused by its name.
"""

import math

import numpy as np

from ood_suite.data import pickles
from ood_suite.data.pickles import Span, shown

SPANS_FROM = 2**16  # bytes from which the content of an array stays in the file
DIMENSIONS = 32
TYPES = {"b1", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}
_NAMES = {
    (module, name): meaning
    for meaning, places in {
        "array": [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")],
        "buffer": [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")],
        "bytes": [(module, "bytes") for module in ("__builtin__", "builtins")]
        + [("_codecs", "encode")],
        "dtype": [("numpy", "dtype")],
        "kind": [("numpy", "ndarray")],
        "number": [(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")],
    }.items()
    for module, name in places
}  # fmt: skip


def load(path):
    """{key: value} of a pickled dict; the keys as text, arrays as (mapped) arrays.

    Raises:
        ValueError: damaged, something else than a dict, or other objects in it.
    """
    with open(path, "rb") as file:
        content = pickles.load(
            file, _named, _called, _referred, build=_set_state, spans_from=SPANS_FROM
        )
    if not isinstance(content, dict):
        raise ValueError(f"it holds {shown(content)}. Expected a dict of arrays")
    return {_text(key): _value(value, path) for key, value in content.items()}


class _Name:
    """What stands for a name of _NAMES."""

    def __init__(self, meaning):
        self.meaning = meaning


class _Type:
    """A dtype; its byte order comes as its state."""

    def __init__(self, code):
        self.code, self.order = code, "<"

    def dtype(self):
        return np.dtype(self.order.replace("|", "<") + self.code)


class _Array:
    """An array whose content comes as its state, or at once from a buffer."""

    def __init__(self):
        self.shape, self.type, self.is_fortran, self.content = (0,), _Type("u1"), False, b""

    def set(self, shape, kind, is_fortran, content):
        content = content.encode("latin-1") if isinstance(content, str) else content  # Python 2's
        whole = isinstance(shape, tuple) and len(shape) <= DIMENSIONS
        whole = whole and all(isinstance(n, int) and 0 <= n < 2**48 for n in shape)
        if not whole or not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
            raise ValueError("it holds an array without shape, type or content")
        size = math.prod(shape) * kind.dtype().itemsize
        if size != len(content):
            raise ValueError(f"an array of shape {shape} has {len(content)} bytes, not {size}")
        self.shape, self.type, self.is_fortran, self.content = shape, kind, is_fortran, content

    def array(self, path):
        order, dtype = "F" if self.is_fortran else "C", self.type.dtype()
        if isinstance(self.content, Span):
            return np.memmap(path, dtype, "r", self.content.start, self.shape, order)
        return np.frombuffer(self.content, dtype).reshape(self.shape, order=order)


def _named(module, name):
    if (module, name) not in _NAMES:
        full = f"{module[: pickles.SHOWN]}.{name[: pickles.SHOWN]}"
        raise ValueError(f"it asks for {full}, which is no array and no plain container")
    return _Name(_NAMES[module, name])


def _called(function, arguments):
    meaning = function.meaning if isinstance(function, _Name) else None
    if meaning == "array" and len(arguments) == 3:
        return _Array()
    if meaning == "dtype" and arguments and arguments[0] in TYPES:
        return _Type(arguments[0])
    if meaning == "bytes":
        return _bytes(*arguments)
    if meaning == "number" and len(arguments) == 2:
        return _number(*arguments)
    if meaning == "buffer" and len(arguments) == 4:
        found = _Array()
        found.set(arguments[2], arguments[1], arguments[3] == "F", arguments[0])
        return found
    raise ValueError(f"it calls {meaning or shown(function)} with {len(arguments)} arguments")


def _referred(identifier):
    raise ValueError("it refers to another file")


def _set_state(target, state):
    """Of an array (version, shape, type, whether Fortran's order, content), of a type
    (version, byte order, ...).
    """
    if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        _, shape, kind, is_fortran, content = state
        target.set(shape, kind, bool(is_fortran), content)
    elif isinstance(target, _Type) and isinstance(state, tuple) and len(state) >= 2:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"it holds a type of byte order {shown(state[1])}")
        target.order = state[1]
    else:
        raise ValueError("its pickle sets attributes of what has none")


def _bytes(text="", coding="latin1"):
    """What stands for bytes where Python 3 wrote for Python 2."""
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise ValueError("it encodes what is no text in Latin-1")
    return text.encode("latin-1")


def _number(kind, content):
    content = content.encode("latin-1") if isinstance(content, str) else content
    if not isinstance(kind, _Type) or not isinstance(content, bytes):
        raise ValueError("it holds a number without a type")
    return np.frombuffer(content, kind.dtype(), 1)[0].item()


def _text(key):
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _value(value, path):
    return value.array(path) if isinstance(value, _Array) else value
