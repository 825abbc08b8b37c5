"""Samples of a parquet with a column of images: their bytes, their paths or their URLs."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from aesthetic_client.errors import InputError
from aesthetic_client.images import MAX_FILE_BYTES
from aesthetic_curate.ahead import ReadAhead
from aesthetic_curate.downloads import read_url
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.grouped_source import CHUNK_BYTES, gathered
from aesthetic_curate.locations import is_local, join, local_path, parent
from aesthetic_curate.options import InputOptions
from aesthetic_curate.parquet_rows import ParquetRows, RowCursor
from aesthetic_curate.samples import CHUNK_ROWS, Chunk, Member, Sample
from aesthetic_curate.shards import Shard
from aesthetic_curate.table_columns import find_columns, metadata_columns
from aesthetic_curate.tar_entries import write_entries

GIVEN_ROWS = 4 * CHUNK_ROWS  # images that are kept after they were given out,
GIVEN_BYTES = 256 * 2**20  # and their bytes
_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"))


class _Row(NamedTuple):
    key: str
    data: bytes | None
    address: str | None  # a path or URL, where the bytes are not in the table


class TableSource:
    """Rows [start, stop) of a parquet; it is read once through, by row groups.

    The key is the key column's text, or the row's number in the file. Files are looked up from the
    parquet's folder. Addresses on a network are read ahead by `url_threads` threads; `members` and
    `append_to` give the bytes that `chunks` gave last, as long as they are at hand. All columns but
    those of encoded files are metadata. Raises UnreadableError, or InputError for a table
    without images.
    """

    def __init__(self, shard: Shard, options: InputOptions) -> None:
        self.notes: Mapping[str, int] = Counter()
        self._url = local_path(shard.url)
        self._table = ParquetRows(self._url)
        try:
            schema = self._table.file.schema_arrow
            self._columns = find_columns(schema, options, self._url)
            if self._columns.image is None:
                raise InputError(
                    f"{self._url}: no column of images was found among {', '.join(schema.names)}; "
                    "name it with --image-column"
                )
        except BaseException:
            self._table.close()
            raise
        self._metadata = metadata_columns(schema)
        names = dict.fromkeys([*self._metadata, self._columns.image, self._columns.key])
        self._names = [name for name in names if name]
        self._cursor = RowCursor(self._table, self._names, CHUNK_BYTES)
        self._start = min(shard.start, len(self._table))
        stop = len(self._table) if shard.stop is None else min(shard.stop, len(self._table))
        self._stop = max(self._start, stop)
        self._ahead = ReadAhead(options.url_threads)
        self._given = _Given()

    def __len__(self) -> int:
        return self._stop - self._start

    def chunks(self) -> Iterator[Chunk]:
        """Every sample, in order, read as it is asked for. Raises UnreadableError."""
        tables: deque[pa.Table] = deque()
        first = 0
        for samples in gathered(self._samples(self._rows(tables))):
            if self._columns.image_kind == "text":
                self._given.add(first, samples)
            first += len(samples)
            yield Chunk(samples, _take(tables, len(samples)) if self._metadata else None)

    def members(self, row: int) -> list[Member]:
        """The image, and the metadata as json. Raises UnreadableError."""
        return self._keyed_members(row)[1]

    def append_to(self, row: int, file: BinaryIO) -> None:
        """Append the sample's image and metadata as tar entries."""
        write_entries(file, *self._keyed_members(row))

    def close(self) -> None:
        self._ahead.close()
        self._table.close()

    def _keyed_members(self, row: int) -> tuple[str, list[Member]]:
        table = self._cursor.row(self._start + row)
        (found,) = self._rows_of(table, self._start + row)
        members = []
        image = self._given.image(row)
        sample = Sample(found.key, image, found.address or "") if image else self._sample(found)
        if sample.status == "unreadable":
            raise UnreadableError(sample.error)
        if sample.image is not None:
            members.append(Member(_extension(sample.image, sample.name), sample.image))
        if self._metadata:
            (record,) = table.select(self._metadata).to_pylist()
            text = json.dumps(record, default=str, ensure_ascii=False)
            members.append(Member("json", text.encode("utf-8", "backslashreplace")))
        return found.key, members

    def _samples(self, rows: Iterator[_Row]) -> Iterator[Sample]:
        if self._columns.image_kind == "text":
            return self._ahead.map(self._sample, rows)
        return map(self._sample, rows)

    def _sample(self, row: _Row) -> Sample:
        name = row.address or ""
        if row.data is not None:
            if len(row.data) > MAX_FILE_BYTES:
                error = f"the image has more than {MAX_FILE_BYTES >> 20} MB"
                return Sample(row.key, None, name, "bad_image", error)
            return Sample(row.key, row.data, name)
        if not row.address:
            error = f"the column {self._columns.image} is empty here"
            return Sample(row.key, status="no_image", error=error)
        try:
            address = join(parent(self._url), local_path(row.address))
            data = read_url(address, stopped=self._ahead.stopped)
            return Sample(row.key, data, name)
        except (UnreadableError, InputError) as error:
            return Sample(row.key, None, name, "unreadable", error.message)

    def _rows(self, tables: deque[pa.Table]) -> Iterator[_Row]:
        """The rows; the metadata of those that were begun is appended to `tables`."""
        batches = self._table.batches(self._start, self._stop, self._names, CHUNK_BYTES)
        for first, table in batches:
            if self._metadata:
                tables.append(table.select(self._metadata))
            yield from self._rows_of(table, first)

    def _rows_of(self, table: pa.Table, first: int) -> Iterator[_Row]:
        image = table.column(self._columns.image).combine_chunks()
        empty: list[Any] = [None] * len(table)
        keys = table.column(self._columns.key).to_pylist() if self._columns.key else empty
        data = addresses = empty
        if self._columns.image_kind == "bytes":
            data = image.to_pylist()
        elif self._columns.image_kind == "text":
            addresses = image.to_pylist()
        else:
            fields = [record or {} for record in image.to_pylist()]
            data = [record.get("bytes") for record in fields]
            addresses = [record.get("path") for record in fields]
        for number, (key, one, address) in enumerate(zip(keys, data, addresses, strict=True)):
            # Numbered in the whole file: a slice does not change a key.
            yield _Row(f"{first + number:09d}" if key is None else str(key), one, address)


class _Given:
    """The images that were given out last, by row: a URL may not give the same a second time."""

    def __init__(self) -> None:
        self._images: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def add(self, first: int, samples: Sequence[Sample]) -> None:
        for row, sample in enumerate(samples, first):
            self._bytes -= len(self._images.pop(row, b""))
            if sample.image:
                self._images[row] = sample.image
                self._bytes += len(sample.image)
        while len(self._images) > GIVEN_ROWS or self._bytes > GIVEN_BYTES:
            self._bytes -= len(self._images.popitem(last=False)[1])

    def image(self, row: int) -> bytes | None:
        return self._images.get(row)


def _take(tables: deque[pa.Table], rows: int) -> pa.Table:
    """The next rows of a queue of tables."""
    taken = []
    while rows:
        table = tables.popleft()
        taken.append(table.slice(0, rows))
        if len(table) > rows:
            tables.appendleft(table.slice(rows))
        rows -= min(rows, len(table))
    return pa.concat_tables(taken)


def _extension(data: bytes, name: str) -> str:
    """A tar member's extension: by the image's first bytes, else by its name."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, extension in _MAGIC:
        if data.startswith(magic):
            return extension
    suffix = name.rpartition("/")[2].partition("?")[0].rpartition(".")[2].lower()
    return suffix if suffix.isalnum() and len(suffix) <= 5 and is_local(suffix) else "jpg"
