"""Compressed streams read forwards at constant memory: gzip files, and deflated parts of files.

What expands without end is refused: deflate makes at most 1032 bytes of one, and images far less.
"""

import gzip
import io
import zlib

from ood_suite.files import FREE_BYTES, MOST_FOLD

CHUNK = 2**16
MOST_AT_ONCE = 2**28  # bytes of one read


class Gzip(io.RawIOBase):
    """A gzip file that only goes forwards; `seek` back starts again.

    Raises:
        ValueError: of a read: it is too long, or the file expands more than MOST_FOLD.
    """

    def __init__(self, path, most_at_once=MOST_AT_ONCE):
        self._file = open(path, "rb")  # noqa: SIM115
        self._gzip = gzip.GzipFile(fileobj=self._file)
        self.size, self.most_at_once = path.stat().st_size, most_at_once

    def read(self, count=-1):
        if not 0 <= count <= self.most_at_once:
            raise ValueError(f"it promises {count} bytes in one piece")
        content = self._gzip.read(count)
        if self._gzip.tell() > FREE_BYTES + MOST_FOLD * self.size:
            raise ValueError(f"its content is more than {MOST_FOLD} times as large as the file")
        return content

    def seek(self, position, whence=io.SEEK_SET):
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only to a position")
        if position < self._gzip.tell():
            self._gzip.rewind()
        while self._gzip.tell() < position:
            if not self.read(min(CHUNK, position - self._gzip.tell())):
                break
        return self._gzip.tell()

    def tell(self):
        return self._gzip.tell()

    def readable(self):
        return True

    def seekable(self):
        return True

    def close(self):
        self._gzip.close()
        self._file.close()
        super().close()


class Limited:
    """A file of which nothing is read in larger pieces than `most_at_once`."""

    def __init__(self, file, most_at_once):
        self._file, self.most_at_once = file, most_at_once
        self.seek, self.tell = file.seek, file.tell

    def read(self, count=-1):
        if not 0 <= count <= self.most_at_once:
            raise ValueError(f"it promises {count} bytes in one piece")
        return self._file.read(count)


class Deflated:
    """zlib's stream of `size` bytes from the position of an open file on, read forwards."""

    def __init__(self, file, size):
        self._file, self._left = file, size
        self._inflate, self._waiting = zlib.decompressobj(), b""

    def read(self, count):
        parts, wanted = [], count
        while wanted:
            if not self._waiting and self._left:
                self._waiting = self._file.read(min(CHUNK, self._left))
                self._left -= len(self._waiting)
            if not self._waiting or self._inflate.eof:
                break
            parts.append(self._inflate.decompress(self._waiting, wanted))
            self._waiting, wanted = self._inflate.unconsumed_tail, wanted - len(parts[-1])
        return b"".join(parts)

    def refuse_more_than(self, count):
        """Reads to the end, where zlib compares its checksum; ValueError if that is not near."""
        if len(self.read(count + 1)) > count or not self._inflate.eof:
            raise ValueError("its compressed part is longer than it says, or cut")

    def close(self):
        self._file.close()


def inflated(content, size):
    """The bytes of a raw deflate stream, as zip files have them; ValueError if they are not
    `size`.
    """
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    found = inflate.decompress(content, size + 1)
    if len(found) != size or not inflate.eof:
        raise ValueError(f"it expands to another size than {size} bytes")
    return found
