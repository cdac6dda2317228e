"""Reads pickles as data, without the machine that runs them.

A pickle is a program for a stack machine that may call anything and change what it was given. The
interpreter here knows numbers, texts and plain containers; names and what is made of them are
handed to its caller, and every other operation is refused. Python's own
`pickle.Unpickler` is not used: its BUILD reaches into objects, and a few bytes make it allocate
gigabytes.

Time and memory are linear in what is read: nothing is called, compared or hashed that a file could
make slow, nothing recurses, and at most OPERATIONS are done. Long byte strings, as which arrays are
stored, can stay in the file: what stands for one says where it lies.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

OPERATIONS = 2**21  # a checkpoint of 10,000 tensors with its optimiser takes a fifth
WHOLE = 2**60  # keys beyond could be made to collide
INTEGER_BITS = 1024
KEY_PARTS = 16
MOST_READ = 2**28  # bytes of a pickle whose long strings stay in the file
LONG_LINE = 2**16  # bytes of a number or a name that ends with its line
SHOWN = 100  # characters of a foreign text in a message

_ARGUMENTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set,
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


def load(
    file: BinaryIO,
    name: Callable[[str, str], Any],
    call: Callable[[Any, tuple], Any],
    refer: Callable[[Any], Any],
    build: Callable[[Any, Any], Any] | None = None,
    spans_from: int | None = None,
) -> Any:
    """The value that the pickle at the file's position stands for; the file is left behind it.

    Args:
        name: function(module, name) -> what stands for a name, or a ValueError.
        call: function(what stands for a name, arguments) -> what the call gives, never doing it.
        refer: function(identifier) -> what a persistent identifier means.
        build: function(object that `call` gave, state), which gives it this state.
        spans_from: bytes from which a byte string is not read, but a Span.

    Raises:
        ValueError: a damaged pickle, or an operation that no plain data need.
    """
    machine = _Machine(name, call, refer, build)
    source = file if spans_from is None else _Frugal(file, spans_from)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(source)):
            if count == OPERATIONS:
                raise ValueError(f"its pickle has more than {OPERATIONS} operations")
            if spans_from is not None:
                argument = source.taken(argument)
            machine.step(operation.name, argument)
        return machine.stack.pop()
    except (IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"its pickle is damaged ({shown(error.args and error.args[0])})") from None


def shown(value: Any) -> str:
    """A value for a message, cut: the type of what is no short scalar."""
    if isinstance(value, str | bytes):
        return repr(value[:SHOWN])
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


class Span(bytes):
    """Stands for `size` bytes of a file from `start` on; as bytes it is empty."""

    start: int
    size: int

    def __len__(self):  # what pickletools compares with the length that it asked for
        return self.size

    def decode(self, *_):  # of the texts in which Python 2 kept its bytes
        return self


class _Frugal:
    """A file for pickletools that skips long strings."""

    def __init__(self, file, spans_from):
        self.file, self.spans_from, self.span, self.done = file, spans_from, None, 0
        here = file.tell()
        self.end = file.seek(0, io.SEEK_END)
        file.seek(here)

    def read(self, count):
        if count < self.spans_from:
            self.done += count
            if self.done > MOST_READ:
                raise ValueError(f"its pickle has more than {MOST_READ:,} bytes beside its arrays")
            return self.file.read(count)
        start = self.file.tell()
        if count > self.end - start:
            raise ValueError(f"its pickle is cut: {count} bytes should follow byte {start}")
        self.span = Span()
        self.span.start, self.span.size = start, count
        self.file.seek(count, io.SEEK_CUR)
        return self.span

    def readline(self):
        return self.file.readline(LONG_LINE)

    def tell(self):
        return self.file.tell()

    def taken(self, argument):
        """What pickletools made of what it read; ValueError where it took a skipped string for a
        number or a text.
        """
        span, self.span = self.span, None
        if span is None:
            return argument
        if argument is not span and not isinstance(argument, bytearray):
            raise ValueError(
                f"its pickle has a text or number of {span.size} bytes, as which Python 3 writes "
                "arrays for Python 2: save it with protocol 4"
            )
        return span


class _Machine:
    """Stack and memo of one pickle."""

    def __init__(self, name, call, refer, build):
        self.name, self.call, self.refer, self.build_with = name, call, refer, build
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, operation, argument):
        stack = self.stack
        if operation in _ARGUMENTS:
            if isinstance(argument, int) and argument.bit_length() > INTEGER_BITS:
                raise ValueError(f"its pickle holds an integer of {argument.bit_length()} bits")
            stack.append(argument)
        elif operation in _EMPTY:
            stack.append(_EMPTY[operation]())
        elif operation in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[operation])))
        elif operation in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif operation in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif operation not in ("PROTO", "FRAME", "STOP"):
            handler = _HANDLERS.get(operation)
            if handler is None:
                raise ValueError(f"its pickle uses {operation}, which no plain data need")
            handler(self, argument)

    def pop(self, count):
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_to_mark(self):
        taken = []
        while (value := self.stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def make(self, kind):
        values = self.pop_to_mark()
        self.stack.append({} if kind is dict else kind(map(_key, values)) if kind is frozenset
                          else kind(values))  # fmt: skip
        if kind is dict:
            self.set_items(values)

    def set_items(self, values):
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError("no dict to put items into")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def extend(self, values):
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(map(_key, values))
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise TypeError("no list to append to")

    def reduce(self, _):
        function, arguments = self.pop(2)
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are no tuple")
        self.stack.append(self.call(function, arguments))

    def build(self, _):
        """Leaves a dict as it is: of plain data, only an OrderedDict has attributes."""
        target, state = self.pop(2)
        if self.build_with is not None:
            self.build_with(target, state)
        elif not isinstance(target, dict):
            raise ValueError("its pickle sets attributes of what has none")
        self.stack.append(target)

    def stack_global(self, _):
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        self.stack.append(self.name(module, name))


def _key(value):
    """A key of a dict or set, of which hashing is quick and no other key's on purpose."""
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts[:KEY_PARTS]:
        plain = part is None or isinstance(part, str | bytes | bool)
        if not plain and not (isinstance(part, int) and abs(part) < WHOLE):
            raise ValueError(f"its pickle has {shown(part)} as a key")
    if len(parts) > KEY_PARTS:
        raise ValueError(f"its pickle has a tuple of {len(parts)} as a key")
    return value


_HANDLERS: dict[str, Callable[[_Machine, Any], Any]] = {
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.refer(machine.stack.pop())),
    "BUILD": _Machine.build,
    "DICT": lambda machine, _: machine.make(dict),
    "FROZENSET": lambda machine, _: machine.make(frozenset),
    "GLOBAL": lambda machine, text: machine.stack.append(machine.name(*text.split(" ", 1))),
    "LIST": lambda machine, _: machine.make(list),
    "POP": lambda machine, _: machine.pop(1),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "REDUCE": _Machine.reduce,
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "STACK_GLOBAL": _Machine.stack_global,
    "TUPLE": lambda machine, _: machine.make(tuple),
}
