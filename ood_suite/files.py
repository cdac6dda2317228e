"""Files that are whole or not there: atomic writing, locks, and reading that names what is damaged.

Standard library and NumPy only.
"""

import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import math
import os
import pathlib
import stat
import struct
import time
import tokenize
import zipfile

import numpy as np

MAPPED_FROM = 2**20  # bytes from which an uncompressed array is mapped, not read
CHUNK = 2**20  # bytes of a file that are checked at a time
PIECE = 2**12  # bytes of an array that LZMA packed that are asked for at a time
FREE_BYTES = 2**28  # that a small file may expand to without question
MOST_FOLD = 200  # how often larger than the file what comes of it may be
LOCAL_HEADER = 30  # bytes before each member of a zip file, at least
MESSAGE = 500  # characters of a decoder's own message that are shown
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what one begins with in a spreadsheet
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunError(RuntimeError):
    """A run folder that cannot be used as asked: the message says why and what to do."""


class BusyError(RunError):
    """Another process writes to the folder."""


# Errors whose message says what to mend; any other one shows where it came from.
MENDABLE = (ValueError, RunError, OSError, FloatingPointError)


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, which replaces `path` in one step when the block ends
    well.

    The temporary name keeps the suffix. Whatever happens, also to the machine, `path` holds the old
    content or the whole new one.

    Raises:
        RunError: the disk is full; the message names the file.
    """
    path = pathlib.Path(path)
    make_folder(path.parent)
    _remove_leftovers(path)
    temporary = path.with_name(f"{_temporary_prefix()}{os.getpid()}-{path.name}")
    try:
        with room_for(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_prefix():
    """Of this machine: another one that sees the folder has other processes."""
    return f".partial-{os.uname().nodename}-"


def _remove_leftovers(path):
    """Removes what writers of a file left that were killed."""
    prefix = _temporary_prefix()
    for left in path.parent.glob(f"{prefix}*"):
        process, _, name = left.name.removeprefix(prefix).partition("-")
        if name == path.name and process.isdecimal() and not _is_alive(int(process)):
            left.unlink(missing_ok=True)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except (OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def sync(path):
    """Makes a file, or the names in a folder, outlive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def room_for(path):
    """Turns the error of a full disk into a RunError that names what could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise RunError(
            f"{path} cannot be written: {error.strerror}. Make room and repeat the command: it "
            "goes on from what is there."
        ) from error


@contextlib.contextmanager
def reading(path, kind, advice="", error=ValueError):
    """Turns whatever a damaged file raises within the block into one error that names the file.

    Decoders raise what comes to hand (zlib.error, struct.error, NotImplementedError, TypeError,
    RecursionError, ...), and other ones with each version: so all of them are caught, here alone.

    Args:
        kind: of file, such as "npz". advice: what to do. error: class of the error.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait for ever
            raise ValueError("it is no regular file")
        yield
    except Exception as cause:
        text = str(cause).rstrip(".")[:MESSAGE] or type(cause).__name__
        raise error(f"{path} cannot be read as {kind} ({text}).{advice}") from cause


def make_folder(path):
    """Makes a folder and its parents; an unwritable place is a RunError that names it."""
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"Cannot make the folder {path}: {error.strerror}. Choose another place."
        ) from error
    if not os.access(path, os.W_OK):
        raise RunError(f"The folder {path} is not writable. Make it so, or choose another.")


def write_text(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path, data):
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def read_json(path):
    """Reads a JSON file; a missing or damaged one is a RunError that names it."""
    if not pathlib.Path(path).exists():
        raise RunError(f"There is no file {path}.")
    with reading(path, "JSON", " It is damaged.", RunError):
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_csv(path, rows):
    """Writes dicts as CSV; the columns are the keys of all rows in order of appearance. A text that
    a spreadsheet would compute gets a ' before it.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: _inert(value) for key, value in row.items()} for row in rows)


def _inert(value):
    """A value of a table; what would be a formula there, which a number is not, as text."""
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def read_csv(path):
    """Rows of a CSV file as dicts of text; none when the file does not exist, and a RunError that
    names it when it is damaged, such as by a row that is longer or shorter than the first.
    """
    if not pathlib.Path(path).exists():
        return []
    with (
        reading(path, "CSV", " It is damaged.", RunError),
        open(path, newline="", encoding="utf-8") as file,
    ):
        rows = list(csv.DictReader(file))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has another number of values than the first line has names")
        return rows


def fingerprint(*arrays):
    """First 16 hex digits of a SHA-256 over dtype, shape and content of the arrays."""
    digest = hashlib.sha256()
    for array in map(np.atleast_1d, arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        whole = len(array) if array.flags.c_contiguous else CHUNK // max(1, array[:1].nbytes)
        for start in range(0, len(array) if array.size else 0, max(1, whole)):
            rows = np.ascontiguousarray(array[start : start + max(1, whole)])  # no map as a whole
            digest.update(memoryview(rows.data).cast("B"))
    return digest.hexdigest()[:16]


def example_hashes(examples):
    """uint64 (n,), of the bytes of each example."""
    digests = [hashlib.blake2b(example.tobytes(), digest_size=8).digest() for example in examples]
    return np.frombuffer(b"".join(digests), np.uint64)


@contextlib.contextmanager
def locked(folder, wait_s=0.0):
    """Holds the folder's lock; a second process is refused with a BusyError, after `wait_s`
    seconds. The lock falls with its process, also at kill -9.

    Raises:
        RunError: the file system has no locks, or no room.
    """
    make_folder(folder)
    deadline = time.monotonic() + wait_s
    path = pathlib.Path(folder) / ".lock"
    if path.is_symlink():  # of another's folder: the file at its end would be overwritten
        raise RunError(f"{path} is a link: delete it.")
    with room_for(path):
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with open(number, "r+", encoding="utf-8") as file:
        while not _takes_lock(file, folder):
            if time.monotonic() >= deadline:
                file.seek(0)
                raise BusyError(
                    f"Another process ({file.read().strip() or 'unknown'}) is writing to {folder}. "
                    "Wait for it or choose another folder."
                )
            time.sleep(0.1)
        with room_for(path):  # past the file's buffer, which its end would write once more
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"pid {os.getpid()} on {os.uname().nodename}".encode())
        for leftover in (".", "checkpoints", "logs"):  # of a writer that was killed
            for path in (pathlib.Path(folder) / leftover).glob(".partial-*"):
                if not path.is_dir():  # those are of work that goes on, such as a screening
                    path.unlink()
        yield


def _takes_lock(file, folder):
    """Takes the lock of an open file; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of them depends on the system
        return False
    except OSError as error:
        raise RunError(
            f"{folder} cannot be locked: {error.strerror}. Choose a folder on a file system that "
            "has locks (flock)."
        ) from error
    return True


def load_npz(path, mapped=False):
    """All arrays of an npz file as a dict, never unpickling anything.

    Every member is checked whole: its checksum, and that its header promises what it holds. Of
    those that are mapped, once per file and process, in chunks. What is packed may be FREE_BYTES
    and MOST_FOLD times the file.

    Args:
        mapped: large uncompressed arrays become read-only memory maps of the file.

    Raises:
        ValueError: the file is missing, damaged, holds Python objects, or is no npz.
    """
    if not pathlib.Path(path).exists():
        raise ValueError(f"There is no file {path}.")
    advice = " It may be truncated: copy it again, or repeat the command that made it."
    with reading(path, "npz", advice), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError("it holds two arrays of one name")
        _refuse_gaps(path, archive, members)
        _refuse_bombs(path, members)
        return {n: _member(path, archive, m, mapped) for n, m in zip(names, members, strict=True)}


def _refuse_gaps(path, archive, members):
    """Refuses a zip file with room for a member that its list does not name: in a damaged list one
    entry can swallow the next, and its array would be missing without a word.
    """
    members = sorted(members, key=lambda member: member.header_offset)
    starts = [*(member.header_offset for member in members), archive.start_dir]
    ends = [0, *(_start_of(path, member) + member.compress_size for member in members)]
    if any(start - end >= LOCAL_HEADER for start, end in zip(starts, ends, strict=True)):
        raise ValueError("it holds more arrays than its list names")


def _refuse_bombs(path, members):
    """Refuses arrays that would fill the memory out of a small file."""
    packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    for member in packed:
        if member.compress_type not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
            raise ValueError(
                f"{member.filename[:100]} is packed by method {member.compress_type}. Expected: "
                "stored, deflated or LZMA. Save it with np.savez_compressed"
            )
    size = sum(member.file_size for member in packed)
    if size > FREE_BYTES + MOST_FOLD * os.stat(path).st_size:
        raise ValueError(
            f"it promises {size:,} bytes, more than {MOST_FOLD} times as many as it has. If they "
            "are meant, save them with np.savez"
        )


class _Piecewise:
    """A file of which at most PIECE bytes are read at a time: of LZMA zipfile unpacks as many as
    are asked for, whatever comes of them.
    """

    def __init__(self, file):
        self._file = file

    def read(self, count: int = PIECE) -> bytes:
        parts = []
        while count and (part := self._file.read(min(count, PIECE))):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _member(path, archive, member, mapped):
    """The array that a member of a zip file holds, as a map if asked for and worth it."""
    is_mapped = mapped and member.compress_type == zipfile.ZIP_STORED
    is_lzma = member.compress_type == zipfile.ZIP_LZMA
    with archive.open(member) as file:
        shape, fortran, dtype = read_array_header(_Piecewise(file) if is_lzma else file)
        start, size = file.tell(), math.prod(shape) * dtype.itemsize
        if size != member.file_size - start:
            raise ValueError(
                f"{member.filename[:100]} holds {member.file_size - start} bytes, and its header "
                f"promises {size}"
            )
        if is_mapped and member.file_size >= MAPPED_FROM:
            _check_once(path, member, file)
            start += _start_of(path, member)
            return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    with archive.open(member) as file:
        readable = _Piecewise(file) if is_lzma else file
        array = np.lib.format.read_array(readable, allow_pickle=False)
        file.read(1)  # the end, where the checksum is compared
    return array


def _start_of(path, member):
    """Where in a zip file the content of a member begins: after its own header of 30 bytes, whose
    last four are the lengths of name and extra field.
    """
    with open(path, "rb") as file:
        file.seek(member.header_offset + 26)
        return file.tell() + 4 + sum(struct.unpack("<HH", file.read(4)))


def read_array_header(file):
    """(shape, whether in Fortran's order, dtype) of a .npy file; ValueError if it is damaged or
    holds Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"it is of version {version} of NumPy's format, which is not known")
    try:
        shape, fortran, dtype = _HEADERS[version](file)
    except (SyntaxError, TypeError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise ValueError(f"its header is damaged ({str(error)[:100]})") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never read")
    if min(shape, default=0) < 0:
        raise ValueError(f"its header promises the shape {shape}")
    return shape, fortran, dtype


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_CHECKED: set[tuple] = set()


def _check_once(path, member, file):
    """Reads an open member of a zip file to its end, where its checksum is compared."""
    found = os.stat(path)
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, member.header_offset)
    if key not in _CHECKED:
        while file.read(CHUNK):
            pass
        _CHECKED.add(key)
