"""Files made to harm: in every format a clear error within seconds and a gibibyte, and nothing is
run, followed or written.
"""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from ood_suite.data import pixels
from tests import published
from tests.support import ROOT

SECONDS = 20  # of which most is the queue for a processor on a busy machine
GIBIBYTE = 2**30
# Reads files in turn as an evaluation does; prints of each the error, seconds, and the most memory.
READ = """
import json, os, re, resource, sys, time
from ood_suite import data
of_linux = os.path.exists("/proc/self/clear_refs")
for path in sys.argv[1:]:
    if of_linux:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # so that the most is that of this file
    start, said = time.monotonic(), "read"
    try:
        found = data.load(path, "test", image_shape=(32, 32, 3))
        for first in range(0, len(found), 100):
            found.images[first : first + 100]
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, of all until now
    if of_linux:
        peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
    print(json.dumps([said, seconds, peak]), flush=True)
"""


class Command:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def write_pickled_command(path):
    path.write_bytes(pickle.dumps({"data": Command()}, 2))


def write_pickled_length(path):
    path.write_bytes(b"\x80\x04}\x8c\x04data\x8e" + struct.pack("<Q", 2**40) + b"s.")


def write_pickled_shape(path):
    content = published.python_2_batch(np.zeros((2, 32, 32, 3), np.uint8), [0, 1])
    path.write_bytes(content.replace(b"J" + struct.pack("<i", 2), b"J" + struct.pack("<i", 2**30)))


def write_pickled_depth(path):
    path.write_bytes(b"\x80\x02" + b"](" * 5_000_000 + b".")


def write_pickled_collisions(path):
    keys = b"".join(b"\x8a\x09" + (k * (2**61 - 1)).to_bytes(9, "little") + b"N" for k in range(99))
    path.write_bytes(b"\x80\x02}(" + keys + b"u.")


def write_gzip(path, content, zeros):
    with gzip.open(path, "wb", 6) as file:
        file.write(content)
        for _ in range(zeros // 2**20):
            file.write(bytes(2**20))


def write_idx_promise(path):
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**15, 2**15)))


def write_idx_tail(path):
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 28, 28)
    write_gzip(path, head, 2**29)


def write_matlab(path, shape, name=b"X", content=bytes(100), length=None):
    """A deflated array of any promises."""
    size = int(np.prod(shape, dtype=object)) if length is None else length
    parts = [struct.pack("<IIII", 6, 8, 9, 0), struct.pack("<II", 5, 4 * len(shape))]
    parts += [struct.pack(f"<{len(shape)}i", *shape), struct.pack("<II", 1, len(name))]
    parts += [name + bytes(-len(name) % 8), struct.pack("<II", 2, size % 2**32), content]
    inner = zlib.compress(struct.pack("<II", 14, 2**20) + b"".join(parts), 1)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    path.write_bytes(header + struct.pack("<II", 15, len(inner)) + inner)


def write_tar_name(path):
    """A header that promises a name of eight gigabytes."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30 - 1
    write_gzip(path, member.tobuf(tarfile.GNU_FORMAT), 2**20)


def write_tar_bomb(path):
    member = tarfile.TarInfo("a.txt")
    member.size = 2**29
    write_gzip(path, member.tobuf(), 2**29 + 2**20)


def write_tar_path(path):
    published.write_archive(path, {"../../harmed.png": b"no"})


def write_tar_link(path):
    """A link to a file of the machine, which is no image of the archive."""
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)


def write_zip_size(path):
    """A member that expands to a hundred times what the list says."""
    published.write_archive(path, {"a.png": bytes(2**27 + 1)})
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 2**27 + 1), struct.pack("<I", 2**20)))


def write_bzip2(path):
    """300 bytes, or so, of which zipfile would make 16 MiB (and of few more, gigabytes) to read the
    first hundred.
    """
    name = "images.npy" if path.suffix == ".npz" else "a.png"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr(name, bytes(2**24))


def write_npz_fold(path):
    """An array of 2^29 bytes in a thousand: what is promised stands in the list of members too."""
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**19, 32, 32, 1)}
    np.lib.format.write_array_header_1_0(file, header)
    file.write(bytes(2**20))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", file.getvalue())
    size, more = struct.pack("<I", 128 + 2**20), struct.pack("<I", 128 + 2**29)
    path.write_bytes(path.read_bytes().replace(size, more))


def write_zip_large(path):
    published.write_archive(path, {"a.png": bytes(2**26)})


def write_zip_list(path):
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**27, 0, 0)
    path.write_bytes(bytes(2**27) + end)


def write_zip_method(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", b"no")


def png_of(width, height):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes(height * (1 + width // 8)), 1)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write_zip_pixels(path):
    published.write_archive(path, {f"{i}.png": png_of(12_000, 12_000) for i in range(2)})


def write_npy_shape(path):
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 32, 32, 3)}
    np.lib.format.write_array_header_1_0(file, header)
    path.write_bytes(file.getvalue() + bytes(3072))


def write_npy_objects(path):
    np.save(path, np.array([Command()], object), allow_pickle=True)


# File -> (what writes it, what the error says).
HOSTILE = {
    "command": (write_pickled_command, "it asks for posix.system"),
    "length": (write_pickled_length, "its pickle is cut: 1099511627776 bytes"),
    "shape": (write_pickled_shape, "has 6144 bytes, not"),
    "depth": (write_pickled_depth, "more than 2097152 operations"),
    "collisions": (write_pickled_collisions, "as a key"),
    "a-images-idx3-ubyte.gz": (write_idx_promise, "it is too small for shape"),
    "b-images-idx3-ubyte.gz": (write_idx_tail, "more bytes follow"),
    "cut-images-idx3-ubyte": (lambda p: p.write_bytes(bytes([0, 0, 8, 3, 0])), "it is cut"),
    "promise.mat": (lambda p: write_matlab(p, (32, 32, 3, 2**20), length=3 * 2**30), "too small"),
    "other.mat": (lambda p: write_matlab(p, (32, 32, 3, 2**20), length=9), "has 9 bytes"),
    "name.mat": (lambda p: write_matlab(p, (2, 2), name=b"n" * 2**20), "has 1048576 bytes"),
    "hdf.mat": (lambda p: p.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512)), "Save it with save"),
    "name.tar.gz": (write_tar_name, "in one piece"),
    "bomb.tar.gz": (write_tar_bomb, "more than 200 times as large"),
    "path.tar": (write_tar_path, "leads out of the archive"),
    "path.zip": (write_tar_path, "leads out of the archive"),
    "link.tar": (write_tar_link, "it holds no images"),
    "size.zip": (write_zip_size, "a.png: it expands to another size"),
    "large.zip": (write_zip_large, "at most 33,554,432 are read"),
    "list.zip": (write_zip_list, "its list of members has 134,217,728 bytes"),
    "bzip2.npz": (write_bzip2, "images.npy is packed by method 12. Expected: stored, deflated"),
    "bzip2.zip": (write_bzip2, "neither stored nor deflated"),
    "fold.npz": (write_npz_fold, "it promises 536,871,040 bytes, more than 200 times as many"),
    "method.zip": (write_zip_method, "neither stored nor deflated"),
    "pixels.zip": (write_zip_pixels, "0.png in it is no image: 12000 x 12000 pixels"),
    "shape.npy": (write_npy_shape, "3072 bytes follow"),
    "objects.npy": (write_npy_objects, "Python objects, which are never read"),
    "out.txt": (lambda p: p.write_text("../../harmed.png 1\n"), "leads out of the folder"),
    "line.txt": (lambda p: p.write_text("a" * 2**20), "is no path and label"),
    "cut.bin": (lambda p: p.write_bytes(bytes(4000)), "no multiple of 3073 or 3074"),
    "pipe.mat": (os.mkfifo, "no regular file"),
    "pipe": (os.mkfifo, "is no data set of a kind that is known"),
}  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """{name: (its path, error, seconds, bytes)} of all of them, read in one process."""
    folder, paths = tmp_path_factory.mktemp("hostile"), {}
    for name, (write, _) in HOSTILE.items():
        paths[name] = folder / name.replace(".", "_") / name
        paths[name].parent.mkdir()
        write(paths[name])
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths.values())], cwd=folder, capture_output=True,
        text=True, timeout=SECONDS * len(paths), env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, done.stdout.splitlines())
    return {name: (paths[name], *row) for name, row in zip(paths, rows, strict=True)}


@pytest.mark.parametrize("name", HOSTILE)
def test_harm_ends_in_a_clear_error(name, read):
    path, said, seconds, memory = read[name]
    assert str(path) in said and HOSTILE[name][1] in said and len(said) < 1500, said
    assert "delete" not in said
    assert seconds < SECONDS and memory < GIBIBYTE, (seconds, memory)
    assert [other.name for other in path.parent.iterdir()] == [name], "something was written"
    print(f"{name}: {seconds:.2f} s, {memory / 2**20:.0f} MiB")


def test_no_command_ran(read):
    folder = next(iter(read.values()))[0].parents[1]
    assert not list(folder.rglob("harmed*"))


def test_a_screening_unpacks_no_more_of_a_zip_than_its_list_says(read, tmp_path):
    published.write_archive(tmp_path / "a.zip", {"a.png": bytes(2**24), "b.png": png_of(40, 40)})
    content = (tmp_path / "a.zip").read_bytes()
    size, less = struct.pack("<I", 2**24), struct.pack("<I", 2**10)
    (tmp_path / "a.zip").write_bytes(content.replace(size, less))
    paths = [tmp_path / "a.zip", read["bzip2.zip"][0], read["list.zip"][0]]
    tracemalloc.start()
    lying, good, otherwise, long = (load() for *_, load in pixels.named_images(paths, (8, 8, 1)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a.zip#a.png cannot be read as an image (Bad CRC-32" in str(lying)
    assert good.shape == (8, 8, 1) and peak < 2**22
    assert "bzip2.zip#a.png cannot be read as an image (it is neither stored" in str(otherwise)
    assert "its list of members has 134,217,728 bytes" in str(long)
