"""Rows of a parquet by number, without the whole of it in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aesthetic_curate.errors import UnreadableError
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


def not_parquet(url: str, error: Exception) -> UnreadableError:
    """The error of a parquet that cannot be read."""
    return UnreadableError(f"{url}: cannot be read as a parquet file: {error}")
