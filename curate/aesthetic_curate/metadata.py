"""Metadata of samples as columns: fields of their json, their captions, the parquet beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from aesthetic_client.errors import InputError
from aesthetic_curate.grouping import Groups
from aesthetic_curate.keys import match_keys
from aesthetic_curate.parquet_rows import ParquetRows

JSON = "json"
TEXTS = ("txt", "text", "caption", "cls")  # files whose text becomes a column of their extension
KEY_COLUMNS = ("key", "__key__", "id", "sample_id", "image_id", "uid", "uuid")


class SampleMetadata:
    """The metadata of grouped samples.

    A parquet's column goes before the json's field of the same name; a field that is named like a
    file's extension becomes `json_txt`, a file's text named like a column `member_txt`.
    `read` gives the bytes of members, None where they cannot be had. Counts in `notes`:
    `bad_metadata`, json or text that could not be read.
    """

    def __init__(
        self,
        groups: Groups,
        beside: TableBeside | None,
        read: Callable[[Sequence[int]], list[bytes | None]],
        notes: Counter[str],
    ) -> None:
        self._beside = beside
        self._read = read
        self._notes = notes
        self._json = groups.one_of(JSON) if groups.has(JSON) else None
        self._texts = {name: groups.one_of(name) for name in TEXTS if groups.has(name)}

    def table(self, start: int, stop: int) -> pa.Table | None:
        """One row a sample of [start, stop), or None where there are no columns."""
        fields = self._fields(start, stop)
        columns = self._beside.columns(start, stop, fields) if self._beside else {}
        for name, values in fields.items():
            if name not in columns:
                columns[name] = values
        for name, members in self._texts.items():
            files = self._bytes(members, start, stop)
            texts = [None if data is None else clean(data) for data in files]
            columns[f"member_{name}" if name in columns else name] = pa.array(texts, pa.string())
        return pa.table(columns) if columns else None

    def _fields(self, start: int, stop: int) -> dict[str, pa.Array]:
        if self._json is None:
            return {}
        documents = self._bytes(self._json, start, stop)
        records = [None if data is None else parse_record(data) for data in documents]
        pairs = zip(records, documents, strict=True)
        bad = sum(record is None and data is not None for record, data in pairs)
        self._notes += Counter(bad_metadata=bad)
        fields = columns_of(records)
        return {f"json_{name}" if name in self._texts else name: fields[name] for name in fields}

    def _bytes(self, members: NDArray[np.int64], start: int, stop: int) -> list[bytes | None]:
        wanted = [int(member) for member in members[start:stop]]
        found = iter(self._read([member for member in wanted if member >= 0]))
        documents = [next(found) if member >= 0 else None for member in wanted]
        pairs = zip(documents, wanted, strict=True)
        missing = sum(data is None and member >= 0 for data, member in pairs)
        self._notes += Counter(bad_metadata=missing)
        return documents


class TableBeside:
    """The parquet of a shard's metadata: its rows in the order of the samples' keys.

    Counts in `notes`: `metadata_only`, rows of no sample (img2dataset's failed downloads), and
    `metadata_missing`, samples without a row. Raises UnreadableError, or InputError where
    `key_column` is not there.
    """

    def __init__(
        self, url: str, keys: pa.StringArray, key_column: str | None, notes: Counter[str]
    ) -> None:
        self._table = ParquetRows(url)
        try:
            self._rows = self._find_rows(keys, key_column)
        except BaseException:
            self._table.close()
            raise
        found = self._rows[self._rows >= 0]
        notes.update(
            +Counter(
                metadata_only=len(self._table) - len(np.unique(found)),
                metadata_missing=len(keys) - len(found),
            )
        )

    def columns(self, start: int, stop: int, fields: dict[str, pa.Array]) -> dict[str, pa.Array]:
        """The columns of samples [start, stop); where one has no row, its json's field if alike."""
        rows = self._rows[start:stop]
        if not np.any(self._rows >= 0):
            return {}
        table = self._table.take(rows)
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        missing = pa.array(rows < 0)
        for name in columns.keys() & fields.keys() if np.any(rows < 0) else ():
            try:
                values = fields[name].cast(columns[name].type)
                columns[name] = pc.if_else(missing, values, columns[name])
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                continue
        return columns

    def close(self) -> None:
        self._table.close()

    def _find_rows(self, keys: pa.StringArray, key_column: str | None) -> NDArray[np.int64]:
        names = self._table.names
        if key_column is not None and key_column not in names:
            raise InputError(
                f"{self._table.url}: has no column {key_column!r}; it has {', '.join(names)}"
            )
        rows = np.full(len(keys), -1, np.int64)
        for name in [key_column] if key_column else [n for n in KEY_COLUMNS if n in names]:
            column = self._table.column(name)
            rows = match_keys(pa.chunked_array([keys]), column, shared=True)
            if np.any(rows >= 0):
                break
        return rows


# --- json --------------------------------------------------------------------------------------


def parse_record(data: bytes) -> dict[str, Any] | None:
    """The fields of a json file, one named "json" for what is no object; None for no json."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else {JSON: value}


def columns_of(records: Sequence[dict[str, Any] | None]) -> dict[str, pa.Array]:
    """Records as columns, in the order in which their fields first appear."""
    names = dict.fromkeys(name for record in records if record for name in record)
    return {
        clean(name): typed_array([record.get(name) if record else None for record in records])
        for name in names
    }


def typed_array(values: Sequence[Any]) -> pa.Array:
    """Numbers, strings, lists of them as such; objects, and values of different types, as text.

    Text of a string is the string itself, of anything else its json: so whether a column holds
    text because of its own values or of another chunk's makes no difference.
    """
    if not any(isinstance(value, dict) or _is_nested(value) for value in values):
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            pass
    return pa.array([None if value is None else as_text(value) for value in values], pa.string())


def as_text(value: object) -> str:
    """A value of a column of mixed types."""
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def clean(text: str | bytes) -> str:
    """Text as a parquet can hold it: what is no UTF-8 is written as an escape."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def _is_nested(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
