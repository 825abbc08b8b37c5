"""Stored embeddings in a parquet: a column of lists of floats, whatever else stands beside it."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aesthetic_client.contract import EMBEDDING_DIM
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.options import InputOptions
from aesthetic_curate.parquet_rows import not_parquet
from aesthetic_curate.samples import EMBEDDING_CHUNK_ROWS, EmbeddingChunk
from aesthetic_curate.shards import Shard
from aesthetic_curate.storage import local_copy
from aesthetic_curate.table_columns import find_columns, is_embedding, metadata_columns

BUFFER_BYTES = 4 * 2**20  # read at once; without it a row group's whole column is in memory
KEY_DIGITS = 9  # of a key that is a row's number
NO_EMBEDDING = "has no embedding"
OTHER_WIDTH = "holds {width} numbers, expected " + f"{EMBEDDING_DIM} of CLIP ViT-L/14"

_FOOTER_END = 8  # bytes: the footer's length, and "PAR1"
_ARROW_SCHEMA = b"\x0cARROW:schema"  # a key of the footer, after its length


class EmbeddingTableSource:
    """Rows [start, stop) of a parquet with a column of embeddings, read once through.

    Raises UnreadableError for a file or column that holds no embeddings of the right width,
    InputError for a column that is named and not there.
    """

    notes: Mapping[str, int] = {}

    def __init__(self, shard: Shard, options: InputOptions) -> None:
        with ExitStack() as files:
            self._table = files.enter_context(closing(MetadataTable(shard.url, options)))
            url, schema = self._table.url, self._table.schema
            column = find_columns(schema, options, url).embedding
            if column is None:
                raise UnreadableError(
                    f"{url}: no column of embeddings was found among {', '.join(schema.names)}; "
                    "name it with --embedding-column"
                )
            kind = _storage(schema.field(column).type)
            if not is_embedding(kind) or getattr(kind, "list_size", EMBEDDING_DIM) != EMBEDDING_DIM:
                raise UnreadableError(
                    f"{url}: the column {column!r} holds {kind}, expected lists of "
                    f"{EMBEDDING_DIM} floats: embeddings of CLIP ViT-L/14"
                )
            self._column = column
            self._table.names.remove(column)
            self._vectors = files.enter_context(
                open_parquet(self._table.path, as_lists=pa.types.is_fixed_size_list(kind))
            )
            self._files = files.pop_all()
        self._start, self._stop = cut(shard, len(self._table))

    def __len__(self) -> int:
        return self._stop - self._start

    def chunks(self) -> Iterator[EmbeddingChunk]:
        """Every row, in order. Raises UnreadableError."""
        beside = self._table.rows(self._start, self._stop)
        names = [self._column]
        for batch in batches(self._vectors, self._table.url, names, self._start, self._stop):
            array, problems = vectors_of(batch.column(0))
            keys, metadata = beside.take(len(batch))
            yield EmbeddingChunk(keys, array, metadata, problems)

    def close(self) -> None:
        self._files.close()


class MetadataTable:
    """A parquet's keys and other columns, without what holds encoded files.

    `names` are the columns that go along; the key is the key column's text, or the row's number.
    """

    def __init__(self, url: str, options: InputOptions) -> None:
        self.url = url
        with ExitStack() as files:
            self.path = files.enter_context(local_copy(url))
            try:
                self._file = files.enter_context(open_parquet(self.path))
            except (pa.ArrowException, OSError) as error:
                raise not_parquet(url, error) from error
            self.schema: pa.Schema = self._file.schema_arrow
            self.names = metadata_columns(self.schema)
            self._key = find_columns(self.schema, options, url).key
            self._files = files.pop_all()

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def rows(self, start: int, stop: int) -> MetadataRows:
        """The rows [start, stop), to be taken in order."""
        return MetadataRows(self._file, self.url, self.names, self._key, start, stop)

    def close(self) -> None:
        self._files.close()


class MetadataRows:
    """Rows of a metadata table that are still to come; batches of any sizes lie behind them."""

    def __init__(
        self,
        file: pq.ParquetFile,
        url: str,
        names: Sequence[str],
        key: str | None,
        start: int,
        stop: int,
    ) -> None:
        self._names, self._key, self._at = list(names), key, start
        wanted = list(dict.fromkeys([*names, *([key] if key else [])]))
        self._batches = batches(file, url, wanted, start, stop) if wanted else None
        self._waiting: deque[pa.RecordBatch] = deque()

    def take(self, rows: int) -> tuple[list[str], pa.Table | None]:
        """Keys and metadata of the next rows. Raises UnreadableError."""
        first, self._at = self._at, self._at + rows
        if self._batches is None:
            return row_keys(None, first, rows), None
        taken = []
        while rows:
            batch = self._waiting.popleft() if self._waiting else next(self._batches)
            taken.append(batch.slice(0, rows))
            if len(batch) > rows:
                self._waiting.appendleft(batch.slice(rows))
            rows -= len(taken[-1])
        table = pa.Table.from_batches(taken)
        keys = row_keys(table.column(self._key) if self._key else None, first, len(table))
        return keys, table.select(self._names) if self._names else None


def cut(shard: Shard, rows: int) -> tuple[int, int]:
    """First row and the one after the last of a shard, in a file of so many rows."""
    start = min(shard.start, rows)
    return start, max(start, rows if shard.stop is None else min(shard.stop, rows))


def row_keys(column: pa.ChunkedArray | None, first: int, rows: int) -> list[str]:
    """Keys as text; a row without one has its number in the file."""
    if column is None:
        return numbered_keys(first, rows)
    keys: list[str] = column.cast(pa.string()).to_pylist()
    if column.null_count:
        return [f"{first + at:09d}" if key is None else key for at, key in enumerate(keys)]
    return keys


def numbered_keys(first: int, rows: int) -> list[str]:
    """`rows` numbers from `first` on, each of nine digits, or of more where it has more.

    Digit by digit over all of them: formatting one by one takes as long as scoring.
    """
    if first + rows > 10**KEY_DIGITS:
        return [f"{number:0{KEY_DIGITS}d}" for number in range(first, first + rows)]
    left = np.arange(first, first + rows)
    digits = np.empty((rows, KEY_DIGITS), np.uint32)  # code points: numpy's text is UTF-32
    for place in reversed(range(KEY_DIGITS)):
        left, digits[:, place] = np.divmod(left, 10)
    digits += ord("0")
    keys: list[str] = digits.view(f"U{KEY_DIGITS}")[:, 0].tolist()
    return keys


def batches(
    file: pq.ParquetFile, url: str, names: Sequence[str], start: int, stop: int
) -> Iterator[pa.RecordBatch]:
    """The rows [start, stop) of these columns, in order. Raises UnreadableError."""
    counts = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    ends = np.cumsum(counts, dtype=np.int64)
    groups = [at for at, end in enumerate(ends) if end > start and end - counts[at] < stop]
    if start >= stop or not groups:
        return
    position = int(ends[groups[0]] - counts[groups[0]])
    found = file.iter_batches(EMBEDDING_CHUNK_ROWS, groups, list(names))
    while True:
        try:
            batch = next(found, None)
        except (pa.ArrowException, OSError) as error:
            raise not_parquet(url, error) from error
        if batch is None:
            return
        begin, end = max(position, start), min(position + len(batch), stop)
        if begin < end:
            yield batch.slice(begin - position, end - begin)
        position += len(batch)


def vectors_of(
    column: pa.Array,
) -> tuple[NDArray[np.floating[Any]], dict[int, str]]:
    """Lists of floats as (n, 768), without a copy where all have that length.

    Rows that have not are NaN there, and told of by their number.
    """
    column = getattr(column, "storage", column)  # of an extension type: a tensor
    if pa.types.is_fixed_size_list(column.type):
        lists = pa.list_(column.type.value_type)
        column = column.cast(lists)
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=False)  # nulls among them become NaN
    widths = np.diff(offsets)
    present = np.ones(len(column), bool)
    if column.null_count:
        present = column.is_valid().to_numpy(zero_copy_only=False)
    good = present & (widths == EMBEDDING_DIM)
    if good.all():
        return values[offsets[0] : offsets[-1]].reshape(-1, EMBEDDING_DIM), {}
    array = np.full((len(column), EMBEDDING_DIM), np.nan, values.dtype)
    places = offsets[:-1][good]
    array[good] = values[places[:, None] + np.arange(EMBEDDING_DIM)]
    problems = {
        int(row): OTHER_WIDTH.format(width=widths[row]) if present[row] else NO_EMBEDDING
        for row in np.flatnonzero(~good)
    }
    return array, problems


def open_parquet(path: Path, *, as_lists: bool = False) -> pq.ParquetFile:
    """A parquet to be read once through, with little of it in memory.

    `as_lists` reads fixed-size lists as lists: Arrow cannot read a null among the former.
    """
    known = _metadata_without_types(path) if as_lists else None
    # Without pre_buffer=False Arrow keeps every byte that it has read until the file is closed.
    return pq.ParquetFile(path, metadata=known, buffer_size=BUFFER_BYTES, pre_buffer=False)


def _metadata_without_types(path: Path) -> pq.FileMetaData:
    """A file's metadata without Arrow's own types, of which parquet has no fixed-size lists."""
    with path.open("rb") as file:
        file.seek(-_FOOTER_END, io.SEEK_END)
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        file.seek(-_FOOTER_END - length, io.SEEK_END)
        footer = file.read(length)
    # A key of the same length that nobody looks for.
    footer = footer.replace(_ARROW_SCHEMA, _ARROW_SCHEMA.swapcase())
    return pq.read_metadata(io.BytesIO(b"PAR1" + footer + end))


def _storage(kind: pa.DataType) -> pa.DataType:
    return getattr(kind, "storage_type", kind)
