"""Packed tars, unpacked into a temporary file as far as they go."""

from __future__ import annotations

import bz2
import lzma
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from aesthetic_curate.storage import output_errors

_PIECE = 1 << 14  # packed; it may hold a thousand times as much
_RECORD = 10_240


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_GZIP_WINDOW = zlib.MAX_WBITS | 16
# A plain tar begins with a member's name: "BZh" alone is text.
_MAGIC: tuple[tuple[re.Pattern[bytes], Callable[[], _Decompressor] | None], ...] = (
    (re.compile(rb"\x1f\x8b"), lambda: zlib.decompressobj(_GZIP_WINDOW)),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor),
    (re.compile(rb"\xfd7zXZ\0"), lzma.LZMADecompressor),
    (re.compile(rb"\x28\xb5\x2f\xfd"), None),  # zstd, by pyarrow
)
HEAD_BYTES = 10  # of a file, that tell whether it is packed


def is_packed(head: bytes) -> bool:
    """Whether a file that begins so is packed by gzip, bzip2, xz or zstd."""
    return any(magic.match(head) for magic, _ in _MAGIC)


def unpacked(path: Path) -> BinaryIO:
    """A temporary file, gone when closed, of all that can be unpacked.

    A packed file that is cut off or broken gives what comes before that: the tar in it then ends
    early, and is noted as such. Raises OutputError where the temporary folder's disk is full.
    """
    # Its owner closes it.
    file: BinaryIO = tempfile.TemporaryFile(prefix="aesthetic-")  # noqa: SIM115
    try:
        with output_errors(f"unpacking {path} into {tempfile.gettempdir()}"):
            for piece in _pieces(path):
                file.write(piece)
            file.flush()
    except BaseException:
        file.close()
        raise
    return file


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as packed:
        head = packed.read(HEAD_BYTES)
        packed.seek(0)
        make = next(make for magic, make in _MAGIC if magic.match(head))
        if make is None:
            yield from _zstd_pieces(packed)
            return
        unpacker = make()
        while data := packed.read(_PIECE):
            while data:
                try:
                    piece = unpacker.decompress(data)
                except (zlib.error, OSError, lzma.LZMAError, EOFError):
                    return
                yield piece
                data = unpacker.unused_data
                if unpacker.eof:  # files that were packed one by one may follow each other
                    unpacker = make()


def _zstd_pieces(packed: BinaryIO) -> Iterator[bytes]:
    with pa.CompressedInputStream(packed, "zstd") as stream:
        while True:
            try:
                piece = stream.read(_RECORD)  # a read that meets the end of a cut file is lost
            except (pa.ArrowException, OSError):
                return
            if not piece:
                return
            yield piece
