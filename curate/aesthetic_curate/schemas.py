"""One schema for tables whose columns were inferred apart.

Rows of JSON rarely agree: a field that is null in one chunk is a number in the next, or a text.
Numbers widen where nothing is lost; what does not go together becomes JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa


def unified(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """The schema that holds both, with the columns of `one` first."""
    fields = {field.name: field for field in one}
    for field in other:
        known = fields.get(field.name)
        fields[field.name] = field if known is None else _widened(known, field)
    return pa.schema(list(fields.values()))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's rows under the schema: columns that it lacks are null, others are cast.

    Raises pa.ArrowInvalid where a cast would lose something (a whole number above 2**53).
    """
    columns = []
    for field in schema:
        at = table.schema.get_field_index(field.name)
        column = pa.nulls(table.num_rows, field.type) if at < 0 else table.column(at)
        if column.type != field.type:
            column = _as_text(column) if pa.types.is_string(field.type) else column.cast(field.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def as_text(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The schema with these columns as text."""
    return pa.schema(
        [pa.field(one.name, pa.string()) if one.name in names else one for one in schema]
    )


def lossy(table: pa.Table, schema: pa.Schema) -> list[str]:
    """The columns that cannot be cast to the schema without loss."""
    found = []
    for name in table.column_names:
        try:
            conform(table.select([name]), pa.schema([schema.field(name)]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            found.append(name)
    return found


def _widened(one: pa.Field, other: pa.Field) -> pa.Field:
    if one.type == other.type:
        return one
    try:
        return pa.unify_schemas(
            [pa.schema([one]), pa.schema([other])], promote_options="permissive"
        ).field(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.field(one.name, pa.string())


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text stays; everything else becomes JSON, bytes their hexadecimal digits."""
    if pa.types.is_large_string(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    values = [
        value
        if value is None or isinstance(value, str)
        else json.dumps(value, default=_plain, ensure_ascii=False)
        for value in column.to_pylist()
    ]
    return pa.chunked_array([pa.array(values, pa.string())])


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
