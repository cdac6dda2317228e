"""Files that are whole or not there: atomic writing, locks, and reading that names what is damaged.

Standard library and NumPy only.
"""

import contextlib
import csv
import fcntl
import hashlib
import json
import lzma
import os
import pathlib
import struct
import time
import zipfile
import zlib

import numpy as np

MAPPED_FROM = 2**20  # bytes from which an uncompressed array is mapped, not read


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

    The temporary name keeps the suffix. Whatever happens, `path` holds the old content or the whole
    new one.
    """
    path = pathlib.Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path):
    """Makes a folder and its parents; an unwritable place is a RunError that names it."""
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"Cannot make the folder {path}: {error.strerror}. Choose another with --out_dir."
        ) from error
    if not os.access(path, os.W_OK):
        raise RunError(f"The folder {path} is not writable. Choose another with --out_dir.")


def write_text(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def read_json(path):
    """Reads a JSON file; a missing or damaged one is a RunError that names it."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"There is no file {path}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}.") from error


def write_csv(path, rows):
    """Writes dicts as CSV; the columns are the keys of all rows in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    """Rows of a CSV file as dicts of text; none when the file does not exist."""
    if not pathlib.Path(path).exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fingerprint(*arrays):
    """First 16 hex digits of a SHA-256 over dtype, shape and content of the arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(memoryview(array.data).cast("B") if array.size else b"")
    return digest.hexdigest()[:16]


def example_hashes(examples):
    """uint64 (n,), of the bytes of each example."""
    digests = [hashlib.blake2b(example.tobytes(), digest_size=8).digest() for example in examples]
    return np.frombuffer(b"".join(digests), np.uint64)


@contextlib.contextmanager
def locked(folder, wait_s=0.0):
    """Holds the folder's lock; a second process is refused with a BusyError, after `wait_s`
    seconds. The lock falls with its process, also at kill -9.
    """
    make_folder(folder)
    deadline = time.monotonic() + wait_s
    with open(pathlib.Path(folder) / ".lock", "a+", encoding="utf-8") as file:
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(0.1)
        except OSError as error:
            file.seek(0)
            raise BusyError(
                f"Another process ({file.read().strip() or 'unknown'}) is writing to {folder}. "
                "Wait for it or choose another folder."
            ) from error
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        for leftover in (".", "checkpoints", "logs"):  # of a writer that was killed
            for path in (pathlib.Path(folder) / leftover).glob(".partial-*"):
                path.unlink()
        yield


def load_npz(path, mapped=False):
    """All arrays of an npz file as a dict, never unpickling anything.

    Args:
        mapped: large uncompressed arrays become read-only memory maps of the file.

    Raises:
        ValueError: the file is missing, truncated, holds Python objects, or is no npz.
    """
    if not pathlib.Path(path).exists():
        raise ValueError(f"There is no file {path}.")
    try:
        maps = _mapped_members(path) if mapped else {}
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one bare array")
            return {name: maps[name] if name in maps else file[name] for name in file.files}
    except (
        ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
        struct.error,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path} cannot be read as npz ({error}). It may be truncated: delete it and run the "
            f"command that makes "
            "it again."
        ) from error


def _mapped_members(path):
    """{name: memory map} of the large members that a zip file holds uncompressed."""
    maps = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size < MAPPED_FROM:
                continue
            file.seek(member.header_offset + 26)  # where the lengths of name and extra field stand
            file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
            version = np.lib.format.read_magic(file)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
            shape, fortran, dtype = read_header(file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects")
            maps[member.filename.removesuffix(".npy")] = np.memmap(
                path, dtype, "r", file.tell(), shape, "F" if fortran else "C"
            )
    return maps
