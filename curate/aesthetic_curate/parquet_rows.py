"""Rows of a parquet by number, without the whole of it in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.samples import CHUNK_ROWS
from aesthetic_curate.storage import local_copy

BUFFER_BYTES = 4 * 2**20
CACHE_BYTES = 256 * 2**20  # of row groups that are kept for the rows asked for next


class ParquetRows:
    """An open parquet, local or at a URL (then a copy of it). Raises UnreadableError."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files = ExitStack()
        try:
            path = self._files.enter_context(local_copy(url))
            # Read in pieces: else Arrow holds whole columns of row groups, and until the end.
            file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
            self.file = self._files.enter_context(file)
        except (pa.ArrowException, OSError) as error:
            self._files.close()
            raise not_parquet(url, error) from error
        except BaseException:
            self._files.close()
            raise
        groups = self.file.metadata
        counts = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.names: list[str] = self.file.schema_arrow.names
        self._cache: OrderedDict[tuple[int, tuple[str, ...] | None], pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def close(self) -> None:
        self._cache.clear()
        self._files.close()

    def column(self, name: str) -> pa.ChunkedArray:
        """One whole column. Raises UnreadableError."""
        try:
            return self.file.read(columns=[name]).column(name)
        except (pa.ArrowException, OSError) as error:
            raise not_parquet(self.url, error) from error

    def batches(
        self, start: int, stop: int, names: Sequence[str], batch_bytes: int
    ) -> Iterator[tuple[int, pa.Table]]:
        """The rows [start, stop) in order, at most CHUNK_ROWS and about `batch_bytes` at once.

        With each batch the number of its first row. Raises UnreadableError.
        """
        first, last = np.searchsorted(self.starts, [start, stop - 1], "right") - 1
        if start >= stop:
            return
        groups = list(range(int(first), int(last) + 1))
        position = int(self.starts[first])
        rows = self._batch_rows(groups, batch_bytes)
        batches = self.file.iter_batches(rows, groups, list(names))
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise not_parquet(self.url, error) from error
            if batch is None:
                return
            begin, end = max(position, start), min(position + len(batch), stop)
            if begin < end:
                yield begin, pa.Table.from_batches([batch.slice(begin - position, end - begin)])
            position += len(batch)

    def _batch_rows(self, groups: list[int], batch_bytes: int) -> int:
        """Rows that hold about so many bytes, by what the parquet says of its row groups."""
        found = [self.file.metadata.row_group(group) for group in groups]
        size = sum(group.total_byte_size for group in found)
        rows = sum(group.num_rows for group in found)
        return int(min(CHUNK_ROWS, max(1, batch_bytes * rows // max(1, size))))

    def take(self, rows: NDArray[np.int64], names: Sequence[str] | None = None) -> pa.Table:
        """These rows in this order, nulls for those below 0. Raises UnreadableError."""
        columns = None if names is None else tuple(names)
        groups = np.searchsorted(self.starts, rows, side="right") - 1
        needed = [int(group) for group in np.unique(groups[rows >= 0])]
        tables, base, offset = [], {-1: 0}, 0
        for group in needed:
            # Only the rows in use are kept while the next group is read.
            mine = rows[groups == group] - self.starts[group]
            tables.append(self._group(group, columns).take(pa.array(mine)))
            base[group] = offset
            offset += len(mine)
        if not tables:
            schema = self.file.schema_arrow
            wanted = schema if columns is None else pa.schema([schema.field(n) for n in columns])
            empty = [pa.nulls(len(rows), field.type) for field in wanted]
            return pa.table(empty, names=wanted.names)
        # Each row's place among what was taken, group after group.
        place = np.full(len(rows), -1, np.int64)
        for group in needed:
            mine_mask = groups == group
            place[mine_mask] = base[group] + np.arange(np.count_nonzero(mine_mask))
        return pa.concat_tables(tables).take(pa.array(place, mask=place < 0))

    def _group(self, group: int, columns: tuple[str, ...] | None) -> pa.Table:
        key = (group, columns)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        try:
            table = self.file.read_row_group(group, columns=columns and list(columns))
        except (pa.ArrowException, OSError) as error:
            raise not_parquet(self.url, error) from error
        self._cache[key] = table
        while len(self._cache) > 1 and sum(t.nbytes for t in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return table


class RowCursor:
    """Rows one by one: in ascending order the file is read once, and one batch is in memory."""

    def __init__(self, table: ParquetRows, names: Sequence[str], batch_bytes: int) -> None:
        self._table, self._names, self._batch_bytes = table, names, batch_bytes
        self._batches: Iterator[tuple[int, pa.Table]] = iter(())
        self._batch = pa.table({})
        self._start, self._stop = 0, -1  # of the batch

    def row(self, number: int) -> pa.Table:
        """One row, of the columns by `names`. Raises UnreadableError."""
        if not self._start <= number < self._stop:
            self._find(number)
        return self._batch.slice(number - self._start, 1)

    def _find(self, number: int) -> None:
        starts = self._table.starts
        group_start = starts[np.searchsorted(starts, number, "right") - 1]
        if number < self._start or group_start > self._stop:
            end = len(self._table)
            self._batches = self._table.batches(number, end, self._names, self._batch_bytes)
        self._batch, self._stop = pa.table({}), -1  # the old batch goes before the next is read
        for start, batch in self._batches:
            if number < start + len(batch):
                self._batch, self._start, self._stop = batch, start, start + len(batch)
                return
        raise IndexError(number)


def not_parquet(url: str, error: Exception) -> UnreadableError:
    """The error of a parquet that cannot be read."""
    return UnreadableError(f"{url}: cannot be read as a parquet file: {error}")
