"""The images in an archive, listed without unpacking it: where each lies, and how it is packed.

Nothing is ever written. Links, folders and what is no image are passed over; a name that would lead
out of the archive is refused. Lists are bounded, and so is what any part of a file can expand to.
"""

import dataclasses
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np

from ood_suite.data.decoding import MOST_BYTES, is_image
from ood_suite.data.inflating import Gzip, Limited, inflated

READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # whose unpacking can be bounded
MOST_MEMBERS = 2**21
MOST_LIST = 2**25  # bytes of a zip file's list
MOST_HEADER = 2**20  # bytes of one header of a tar file
ZIP_END = struct.Struct("<4s4H2LH")
ZIP64_END = 76  # bytes before the end of the list where that of a large zip file begins


@dataclasses.dataclass
class Members:
    """Images of an archive in its order.

    Attributes:
        names: texts. starts, packed, sizes: int64 (n,), where the content of each begins, how many
            bytes it has there, and unpacked. checksums: its CRC-32, of zip files.
    """

    names: list
    starts: np.ndarray
    packed: np.ndarray
    sizes: np.ndarray
    checksums: np.ndarray | None = None


def of_zip(path):
    """Members of a zip file, stored or deflated."""
    with open(path, "rb") as file:
        refuse_long_list(file)
    names, rows = [], []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir() or not is_image(member.filename):
                continue
            if member.flag_bits & 1:
                raise ValueError(f"{member.filename[:100]} in it is encrypted")
            if member.compress_type not in READ:
                raise ValueError(f"{member.filename[:100]} in it is neither stored nor deflated")
            names.append(_checked(member.filename, member.file_size))
            is_packed = member.compress_type == zipfile.ZIP_DEFLATED
            packed = member.compress_size if is_packed else -1
            rows.append((member.header_offset, packed, member.file_size, member.CRC))
    starts, packed, sizes, checksums = np.array(rows, np.int64).reshape(-1, 4).T
    return Members(names, starts, packed, sizes, checksums)


def refuse_long_list(file):
    """Looks at the end of a zip file for how long its list is, before that is read as a whole."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - 2**16 - ZIP_END.size)
    file.seek(start)
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + ZIP_END.size > len(tail):
        raise ValueError("it has no list of members: it is no zip file, or cut")
    *_, length, _, _ = ZIP_END.unpack_from(tail, found)
    if length == 2**32 - 1:
        file.seek(max(0, start + found - ZIP64_END))
        record = file.read(56)
        length = struct.unpack("<Q", record[40:48])[0] if len(record) == 56 else 2**63
    if length > MOST_LIST:
        raise ValueError(
            f"its list of members has {length:,} bytes, at most {MOST_LIST:,} are read"
        )


def is_gzipped(path):
    """Whether a file is gzipped, whatever its name says."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def opened_tar(path):
    """The content of a tar file, gzipped or not, as a file object."""
    return Gzip(path) if is_gzipped(path) else open(path, "rb")


def of_tar(path):
    """Members of a tar file; of a gzipped one `starts` are those in the unpacked stream."""
    names, rows = [], []
    with opened_tar(path) as file:
        for member in images_of_tar(file):
            names.append(_checked(member.name, member.size))
            rows.append((member.offset_data, -1, member.size))
    starts, packed, sizes = np.array(rows, np.int64).reshape(-1, 3).T
    return Members(names, starts, packed, sizes)


def read_zipped(handle, members, row):
    """The bytes of a member of a zip file, by its descriptor.

    Raises:
        ValueError: it is cut, or not what its checksum says.
    """
    header = os.pread(handle, 30, members.starts[row])  # whose last four are two lengths
    if len(header) < 30 or not header.startswith(b"PK\3\4"):
        raise ValueError("no member of a zip file begins where its list says so")
    start = members.starts[row] + 30 + sum(struct.unpack("<HH", header[26:]))
    packed, size = int(members.packed[row]), int(members.sizes[row])
    content = os.pread(handle, size if packed < 0 else min(packed, 2 * MOST_BYTES), start)
    content = content if packed < 0 else inflated(content, size)
    if len(content) != size or zlib.crc32(content) != members.checksums[row]:
        raise ValueError("it is damaged: its checksum is another")
    return content


def read_plain(handle, members, row):
    """The bytes of a member of a tar file, by its descriptor."""
    content = os.pread(handle, int(members.sizes[row]), int(members.starts[row]))
    if len(content) != members.sizes[row]:
        raise ValueError("it is cut")
    return content


def images_of_tar(file):
    """Yields the TarInfo of each image. Between two of them the file may be read elsewhere.

    Raises:
        ValueError: the archive is cut or damaged, or has too many members.
    """
    count = 0
    with tarfile.open(fileobj=Limited(file, MOST_HEADER), mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # of which it would keep all
            count += 1
            if count > MOST_MEMBERS:
                raise ValueError(f"it has more than {MOST_MEMBERS:,} members")
            if member.isreg() and not member.sparse and is_image(member.name):
                yield member
        end = archive.offset
    _refuse_early_end(file, end)


def _refuse_early_end(file, end):
    """Reads on from where tarfile saw no further member, which it takes for the end even where a
    header is damaged: an archive ends with blocks of zeros, and a gzipped one with its checksum.
    """
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise ValueError(f"no member and no end mark stands at byte {end}: it is cut or damaged")
    while isinstance(file, Gzip) and file.read(MOST_HEADER):
        pass


def _checked(name, size):
    """The name of a member that may be read."""
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name[:100]!r} in it leads out of the archive")
    if size > MOST_BYTES:
        raise ValueError(f"{name[:100]} in it has {size:,} bytes; at most {MOST_BYTES:,} are read")
    return name
