"""Samples of a WebDataset tar: indexed once by its headers, read as they are asked for."""

from __future__ import annotations

import io
import os
import tarfile
from array import array
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from aesthetic_client.images import MAX_FILE_BYTES
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.grouped_source import GroupedSource
from aesthetic_curate.grouping import Grouping, split_name
from aesthetic_curate.metadata import TableBeside
from aesthetic_curate.options import InputOptions
from aesthetic_curate.shards import Shard
from aesthetic_curate.storage import local_copy
from aesthetic_curate.tar_headers import BLOCK, Entry, TarScan, padded
from aesthetic_curate.unpacking import HEAD_BYTES, is_packed, unpacked

_PIECE = 1 << 22  # bytes that are copied at once


class TarSource(GroupedSource):
    """All samples of a tar, or of a packed one. Threads may read at once.

    Notes: `ignored_members` (folders, links, hidden files, names without an extension),
    `truncated` (it ends without its end mark, and what was whole before is kept),
    `trailing_bytes` after the end mark, and those of GroupedSource and TableBeside.
    Raises UnreadableError for what is no tar.
    """

    def __init__(self, shard: Shard, options: InputOptions) -> None:
        self._files = ExitStack()
        try:
            file = self._files.enter_context(_open_tar(shard.url, self._files))
            self._file = file.fileno()
            self._index = TarIndex(shard.url, self._file)
            groups = self._index.grouping.groups()
            del self._index.grouping
            beside = None
            if shard.metadata_url:
                key_column = options.key_column
                notes = self._index.notes
                beside = TableBeside(shard.metadata_url, groups.keys, key_column, notes)
                self._files.callback(beside.close)
            super().__init__(groups, options, self._index.notes, beside, shard.start, shard.stop)
        except BaseException:
            self._files.close()
            raise

    def append_to(self, row: int, file: BinaryIO) -> None:
        """Append the sample's entries, headers and all, as they are in the tar."""
        index = self._index
        for member in self._groups.members(self._start + row):
            if not self._is_whole(member):
                continue
            start = index.starts[member]
            end = index.data[member] + padded(index.sizes[member])
            while start < end:
                piece = os.pread(self._file, min(_PIECE, end - start), start)
                # The padding after the last data may be missing.
                file.write(piece or bytes(end - start))
                start += len(piece) or end - start

    def close(self) -> None:
        self._files.close()

    def _read(self, member: int) -> bytes:
        index = self._index
        if member in index.sparse:
            return self._read_sparse(member)
        size = index.sizes[member]
        try:
            data = os.pread(self._file, size, index.data[member])
        except OSError as error:
            raise UnreadableError(f"the tar cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise UnreadableError(f"the tar is cut off after {len(data)} of {size} bytes")
        return data

    def _read_sparse(self, member: int) -> bytes:
        # Rare: sparse files are left to tarfile, over their own blocks alone.
        entry = io.BytesIO()
        index = self._index
        size = index.data[member] + padded(index.sizes[member]) - index.starts[member]
        entry.write(os.pread(self._file, size, index.starts[member]))
        entry.write(bytes(2 * BLOCK))
        entry.seek(0)
        try:
            with tarfile.open(fileobj=entry) as tar:
                info = tar.next()
                content = tar.extractfile(info) if info and info.size <= MAX_FILE_BYTES else None
                if content is None:
                    raise UnreadableError("the sparse file is too large")
                return content.read()
        except (tarfile.TarError, OSError) as error:
            raise UnreadableError(f"the sparse file cannot be read: {error}") from error

    def _name(self, member: int) -> str:
        return self._groups.extension(member)

    def _size(self, member: int) -> int:
        return self._index.sizes[member] if self._is_whole(member) else 0

    def _is_whole(self, member: int) -> bool:
        return member != self._index.cut


class TarIndex:
    """Where each member's headers start, its data start, and how long it is: 24 bytes a member."""

    def __init__(self, url: str, file: int) -> None:
        self.starts, self.data, self.sizes = array("q"), array("q"), array("q")
        self.sparse: set[int] = set()
        self.cut = -1  # the member whose data is not all there
        self.notes: Counter[str] = Counter()
        self.grouping = Grouping()
        scan = TarScan(file, os.fstat(file).st_size)
        end = 0
        for entry in scan:
            self._add(entry)
            end = entry.end
        if scan.reason:
            if not end:
                raise UnreadableError(f"{url}: is no tar archive: {scan.reason}")
            self.notes["truncated"] = 1
            if end > scan.size > 0 and self.starts and self.data[-1] + self.sizes[-1] > scan.size:
                self.cut = len(self.starts) - 1
        elif scan.size - end > 2 * BLOCK:
            self.notes += Counter(trailing_bytes=_bytes_after(file, end, scan.size))

    def _add(self, entry: Entry) -> None:
        names = split_name(entry.name) if entry.regular else None
        if names is None:
            self.notes["ignored_members"] += 1
            return
        if entry.sparse:
            self.sparse.add(len(self.starts))
        self.starts.append(entry.start)
        self.data.append(entry.data)
        self.sizes.append(entry.size)
        self.grouping.add(*names)


def _bytes_after(file: int, start: int, size: int) -> int:
    """Bytes from the first that is not zero behind the end mark: a second tar, say."""
    while start < size:
        piece = os.pread(file, _PIECE, start)
        if not piece:
            return 0
        if stripped := piece.lstrip(b"\0"):
            return size - start - (len(piece) - len(stripped))
        start += len(piece)
    return 0


def _open_tar(url: str, files: ExitStack) -> BinaryIO:
    path: Path = files.enter_context(local_copy(url))
    try:
        file = files.enter_context(path.open("rb", buffering=0))
        if is_packed(file.read(HEAD_BYTES)):
            return unpacked(path)
    except OSError as error:
        raise UnreadableError(f"{url}: {error.strerror or error}") from error
    return file
