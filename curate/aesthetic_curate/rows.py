"""Writes a shard's rows to parquet as they come, with whatever metadata columns they bring."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from aesthetic_curate.columns import renamed_metadata
from aesthetic_curate.schemas import as_text, conform, lossy, unified

ROW_GROUP_ROWS = 16_384
ROW_GROUP_BYTES = 128 * 2**20
COMPRESSION = "zstd"


class RowWriter:
    """A parquet file of our columns and the metadata's. Use `with`; memory is that of a row group.

    Metadata columns may change from chunk to chunk: the file is then written anew, group by group,
    under the schema that holds all.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._ours = schema
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table, metadata: pa.Table | None) -> None:
        """Add rows, under our schema, and as many rows of metadata."""
        if metadata is not None:
            metadata = renamed_metadata(metadata, self._ours.names)
            for name, column in zip(metadata.column_names, metadata.columns, strict=True):
                rows = rows.append_column(name, column)
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            if self._writer is not None:
                self._writer.close()

    def _flush(self) -> None:
        """Write what waits as one row group; an empty file gets its schema at least."""
        schema = self._schema
        for table in self._waiting:
            schema = unified(schema, table.schema)
        for table in self._waiting:
            schema = as_text(schema, lossy(table, schema))
        if self._writer is None:
            self._writer = self._opened(self._path, schema)
        elif schema != self._schema:
            schema = self._rewrite(schema)
        self._schema = schema
        if self._waiting:
            whole = pa.concat_tables([conform(table, schema) for table in self._waiting])
            self._writer.write_table(whole, row_group_size=max(1, whole.num_rows))
        self._waiting, self._rows, self._bytes = [], 0, 0

    def _rewrite(self, schema: pa.Schema) -> pa.Schema:
        """Put the groups written so far under the wider schema; the one that holds without loss."""
        assert self._writer is not None
        self._writer.close()
        with pq.ParquetFile(self._path) as written:
            groups = range(written.num_row_groups)
            for group in groups:
                schema = as_text(schema, lossy(written.read_row_group(group), schema))
            beside = self._path.with_name(self._path.name + ".wider")
            self._writer = self._opened(beside, schema)
            for group in groups:
                table = conform(written.read_row_group(group), schema)
                self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        beside.replace(self._path)  # the writer's open file goes along
        return schema

    def _opened(self, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
        return pq.ParquetWriter(path, schema, compression=COMPRESSION)
