"""Finds rows by the samples' keys, however the two tables write them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_FOLDERS = ("^.*/", "")
_ZEROS = ("^0+([0-9]+)$", r"\1")


def match_keys(
    wanted: pa.ChunkedArray, column: pa.ChunkedArray, *, shared: bool = False
) -> NDArray[np.int64]:
    """(n,) for each wanted key its row in a column, -1 where it has none.

    Keys are compared as they are; if none matches, without their folders; if still none does, and
    where one side holds numbers, as whole numbers, whatever zeros precede them. Where a key comes
    several times, the first one gets the first row, the second the second; those that come after
    the last get none, or that one where it may be `shared`.
    """
    rows = np.full(len(wanted), -1, np.int64)
    keys, values = _texts(wanted), _texts(column)
    if keys is None or values is None:
        return rows
    are_numbers = any(_is_number(one.type) for one in (wanted, column))
    edits = [(_FOLDERS, _ZEROS)] if are_numbers else [(), (_FOLDERS,), (_FOLDERS, _ZEROS)]
    for edit in edits:
        rows = _match(_edited(keys, edit), _edited(values, edit), shared=shared)
        if np.any(rows >= 0):
            break
    return rows


def _match(wanted: pa.Array, values: pa.Array, *, shared: bool) -> NDArray[np.int64]:
    known = values.unique().drop_null()
    mine, theirs = _numbered(wanted, known), _numbered(values, known)
    order = np.argsort(theirs, kind="stable")
    first = np.searchsorted(theirs[order], mine, "left")
    end = np.searchsorted(theirs[order], mine, "right")
    place = first + _repetitions(mine)
    if shared:
        place = np.minimum(place, end - 1)
    found = (mine >= 0) & (place < end)
    rows = np.full(len(mine), -1, np.int64)
    rows[found] = order[place[found]]
    return rows


def _numbered(values: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    """The number of each value among the known ones, -1 for others and for null."""
    found = pc.index_in(values, value_set=known).cast(pa.int64()).fill_null(-1)
    return np.asarray(found, np.int64)


def _repetitions(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value came before."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    counts = np.empty(len(values), np.int64)
    counts[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered, "left")
    return counts


def _edited(texts: pa.Array, edits: tuple[tuple[str, str], ...]) -> pa.Array:
    for pattern, replacement in edits:
        texts = pc.replace_substring_regex(texts, pattern, replacement)
    return texts


def _texts(column: pa.ChunkedArray) -> pa.Array | None:
    """Text and whole numbers as text; None for a column of anything else."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):  # what pandas makes of numbers with gaps
        gaps = pc.is_nan(column)
        try:
            column = pc.if_else(gaps, pa.scalar(None, column.type), column).cast(pa.int64())
        except pa.ArrowInvalid:
            return None
    if not (pa.types.is_integer(column.type) or _is_text(column.type)):
        return None
    return column.cast(pa.string()).combine_chunks()


def _is_number(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
