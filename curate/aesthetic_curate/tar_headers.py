"""The headers of a tar, read without its data: ustar, GNU and pax, sparse files, cut archives."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

BLOCK = 512
_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_NO_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, directories, pipes
_MAX_EXTENSION = 1 << 24  # bytes of one pax header or long name; more is no header
_MAX_SIZE = 1 << 62  # bytes of a member; a file's offsets are signed numbers of 64 bits
_ADLER = 65521


class Entry(NamedTuple):
    """A member: from `start`, its first header, to `end`, with its padding.

    `data` and `size` say where its bytes are stored. `regular` is false for links and the like.
    """

    name: str
    start: int
    data: int
    size: int
    regular: bool
    sparse: bool

    @property
    def end(self) -> int:
        return self.data + padded(self.size)


class HeaderError(ValueError):
    """A block that is no header."""


@dataclass
class TarScan:
    """The members of an open tar, in their order. After the iteration `reason` says why the
    archive ended before its end mark, "" where it did not."""

    file: int
    size: int
    reason: str = ""
    _global: dict[str, str] | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Each member. The data of the last one may be cut off."""
        offset = 0
        while offset < self.size:
            try:
                entry = self._entry(offset)
            except HeaderError as error:
                self.reason = f"{error} at byte {offset}"
                return
            if entry is None:
                return
            yield entry
            if entry.data + entry.size > self.size:
                self.reason = f"the archive is cut off in {entry.name}"
                return
            offset = entry.end
        self.reason = "the archive has no end mark"

    def _entry(self, start: int) -> Entry | None:
        """The member whose headers begin there; None for the end mark. Raises HeaderError."""
        pax: dict[str, str] = dict(self._global or {})
        long_name = None
        offset = start
        while True:
            header = os.pread(self.file, BLOCK, offset)
            kind, size = _kind_and_size(header)
            if kind is None:
                return None
            offset += BLOCK
            if kind in (b"x", b"X"):
                pax.update(_pax_records(self._extension(offset, size)))
            elif kind == b"g":
                self._global = {
                    **(self._global or {}),
                    **_pax_records(self._extension(offset, size)),
                }
                pax = {**self._global, **pax}
            elif kind == b"L":
                long_name = self._extension(offset, size).split(b"\0", 1)[0]
            elif kind == b"K":
                self._extension(offset, size)
            else:
                return self._member(start, offset, header, kind, size, pax, long_name)
            offset += padded(size)

    def _member(
        self,
        start: int,
        offset: int,
        header: bytes,
        kind: bytes,
        size: int,
        pax: dict[str, str],
        long_name: bytes | None,
    ) -> Entry:
        name = _decoded(long_name or _name(header))
        sparse = kind == b"S"
        if pax:
            name = pax.get("GNU.sparse.name") or pax.get("path") or name
            size = _number(pax["size"]) if "size" in pax else size
            sparse = sparse or "GNU.sparse.major" in pax or "GNU.sparse.size" in pax
        more = kind == b"S" and header[482]
        while more:  # the map of a sparse file goes on in further blocks
            block = os.pread(self.file, BLOCK, offset)
            if len(block) < BLOCK:
                raise HeaderError("the archive is cut off in a header")
            offset += BLOCK
            more = block[504]
        if kind in _NO_DATA:
            size = 0
        regular = (kind in _REGULAR or sparse) and not (kind == b"\0" and name.endswith("/"))
        return Entry(name, start, offset, size, regular, sparse)

    def _extension(self, offset: int, size: int) -> bytes:
        if size > _MAX_EXTENSION:
            raise HeaderError("a header is broken")
        data = os.pread(self.file, size, offset)
        if len(data) < size:
            raise HeaderError("the archive is cut off in a header")
        return data


def padded(size: int) -> int:
    """Bytes in whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _kind_and_size(header: bytes) -> tuple[bytes | None, int]:
    """The type flag and the bytes of data; None for a block of zeros. Raises HeaderError."""
    if len(header) < BLOCK:
        raise HeaderError("the archive is cut off in a header")
    if not header[0] and header == _ZEROS:
        return None, 0
    stored = header[148:156]
    try:
        checksum = int(stored.partition(b"\0")[0].strip() or b"0", 8)
        field = header[124:136]
        if field[0] & 0x80:
            size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
        else:
            size = int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise HeaderError("a header is broken") from None
    # Its own eight bytes count as blanks. Adler-32 holds a sum of bytes: quicker than adding them.
    expected = checksum - 8 * 32 + sum(stored) + 1
    is_sum = (expected - (zlib.adler32(header) & 0xFFFF)) % _ADLER == 0
    if not 0 <= size <= _MAX_SIZE or not (is_sum or checksum == _signed_sum(header)):
        raise HeaderError("a header is broken")
    return header[156:157], size


def _signed_sum(header: bytes) -> int:
    """The checksum as some old writers take it, of signed bytes."""
    body = header[:148] + b" " * 8 + header[156:]
    return sum(byte - 256 if byte > 127 else byte for byte in body)


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    # Only POSIX headers have a prefix; GNU's keep times there.
    if header[345] and header[257:263] == b"ustar\0":
        return header[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _decoded(name: bytes) -> str:
    # Names in other encodings stay apart from each other, and fit into a parquet.
    return name.decode("utf-8", "backslashreplace")


def _pax_records(data: bytes) -> dict[str, str]:
    """Keyword and value of each record, "LENGTH KEYWORD=VALUE\\n". Raises HeaderError."""
    records = {}
    while data and data[0]:
        length, _, _ = data.partition(b" ")
        try:
            end = int(length)
        except ValueError:
            raise HeaderError("a pax header is broken") from None
        keyword, equals, value = data[len(length) + 1 : end - 1].partition(b"=")
        # A length that does not go past itself would be read for ever.
        if not equals or not len(length) < end <= len(data) or data[end - 1] != 0x0A:
            raise HeaderError("a pax header is broken")
        records[_decoded(keyword)] = _decoded(value)
        data = data[end:]
    return records


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= _MAX_SIZE:
        raise HeaderError("a pax header is broken")
    return number
