"""Writes scores into a data set's own parquets, beside its tars.

`ImageTextPairDataset.save_metadata` of NeMo Curator 0.7 corresponds: there the classifiers added
`aesthetic_score` and `image_embedding` to the rows of `NNNNN.parquet`, and `from_webdataset` took
the name of the id column. It sorted the rows by their id, since it joined by position; here rows
are joined by their id, keep the file's order, and those without an image are kept with null.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aesthetic_client.errors import InputError
from aesthetic_curate.columns import EMBEDDING, KEY
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.keys import match_keys
from aesthetic_curate.locations import parent
from aesthetic_curate.results import Results, ScoredShard
from aesthetic_curate.shard_files import PARQUET
from aesthetic_curate.storage import Folder, local_copy

IMAGE_EMBEDDING = "image_embedding"  # as NeMo Curator 0.7 names it
ID_COLUMNS = ("key", "id", "__key__", "sample_id")


@dataclass(frozen=True)
class Target:
    """A parquet of the data set, and the scored shards of its rows; where the result goes."""

    source: str
    folder: str
    name: str
    shards: tuple[ScoredShard, ...]


@dataclass(frozen=True)
class Annotated:
    """What became of one parquet: its rows, how many got a score, scored rows it lacks."""

    path: str
    rows: int
    matched: int
    left_over: int


def find_targets(results: Results, dataset: str | None, output: str | None) -> list[Target]:
    """The parquets to write to: those beside the scored inputs, or of their names in `dataset`.

    Raises InputError where there is none, or where it is the very input whose scores these are.
    """
    shards: dict[str, list[ScoredShard]] = defaultdict(list)
    for scored in results.shards:
        shards[_parquet_of(scored, dataset, in_place=output is None)].append(scored)
    targets = []
    for source, parts in shards.items():
        name = source.rpartition("/")[2]
        targets.append(Target(source, output or parent(source), name, tuple(parts)))
    if len({(target.folder, target.name) for target in targets}) < len(targets):
        # Below several folders; their scored shards are named apart.
        targets = [
            Target(target.source, target.folder, target.shards[0].name + PARQUET, target.shards)
            for target in targets
        ]
    return targets


def annotate(
    results: Results,
    target: Target,
    *,
    outputs: Sequence[str],
    id_column: str | None = None,
    embedding_column: str | None = None,
) -> Annotated:
    """Add (or replace) the score columns, and the embeddings where a column is named for them.

    The parquet is replaced as a whole, or written to the target's folder.

    Raises:
        InputError: no such id column, or no id in it is the key of a scored sample.
        UnreadableError: the parquet cannot be read.
        OutputError: the parquet cannot be written.
    """
    names = {output: output for output in outputs}
    if embedding_column:
        names[EMBEDDING] = embedding_column
    with local_copy(target.source) as path:
        try:
            with pq.ParquetFile(path) as file:
                table, metadata = file.read(), file.metadata
        except pa.ArrowInvalid as error:
            raise UnreadableError(f"{target.source}: {error}") from None
    scored = pa.concat_tables(
        [results.columns(shard, [KEY, *names]) for shard in target.shards],
        promote_options="permissive",
    )
    id_column = _id_column(table, id_column, target.source)
    rows = match_keys(table.column(id_column), scored.column(KEY))
    matched = int((rows >= 0).sum())
    if scored.num_rows and not matched:
        raise InputError(
            f"{target.source}: no id in its column {id_column} is the key of a scored "
            f"sample, such as {scored.column(KEY)[0].as_py()!r}: name the id column by --id-column"
        )
    for name, column in names.items():
        values, known = _values(scored.column(name))
        taken = pa.array(rows, mask=~np.append(known, False)[rows])  # row -1 is unknown
        table = _with_column(table, column, values.take(taken))
    folder = Folder(target.folder)
    folder.sweep(target.name)
    with folder.writing(target.name) as path:
        pq.write_table(table, path, **_layout(metadata))
    return Annotated(folder.path(target.name), table.num_rows, matched, scored.num_rows - matched)


def _parquet_of(scored: ScoredShard, dataset: str | None, *, in_place: bool) -> str:
    """The parquet that holds a scored shard's rows."""
    shard = scored.shard
    if dataset is not None:
        return Folder(dataset).path(shard.name + PARQUET)
    if shard.metadata_url:
        return shard.metadata_url
    if shard.kind not in ("table", "embeddings") or not shard.url.endswith(PARQUET):
        raise InputError(
            f"no parquet lies beside {shard.url}: name the folder of the data set's parquets by "
            "--dataset"
        )
    if in_place:
        raise InputError(
            f"{shard.url} is the input of its own scores, and changing it would make them out of "
            "date: write copies with -o DIR"
        )
    return shard.url


def _id_column(table: pa.Table, asked: str | None, source: str) -> str:
    for name in [asked] if asked else ID_COLUMNS:
        if name in table.column_names:
            return name
    columns = ", ".join(table.column_names)
    raise InputError(
        f"{source} has no column {asked or ' or '.join(ID_COLUMNS)}; it has {columns}: name the "
        "one with the samples' ids by --id-column"
    )


def _with_column(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    """The table with the column in the place of the one of that name, else at its end."""
    at = table.schema.get_field_index(name)
    return table.append_column(name, column) if at < 0 else table.set_column(at, name, column)


def _values(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, NDArray[np.bool_]]:
    """What is written, and which rows have a value: embeddings are NaN where there is none.

    Embeddings become lists of float32, which cudf and pandas read as 0.7 wrote them.
    """
    if pa.types.is_floating(column.type):
        return column, column.is_valid().to_numpy()
    vectors = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    known = ~np.isnan(vectors[:: max(1, len(vectors) // max(1, len(column)))])
    return column.cast(pa.list_(pa.float32())), known


def _layout(metadata: pq.FileMetaData) -> dict[str, Any]:
    """Row groups and compression as the file had them."""
    if not metadata.num_row_groups or not metadata.num_columns:
        return {}
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    codec = groups[0].column(0).compression
    return {
        "row_group_size": max(1, *(group.num_rows for group in groups)),
        "compression": "none" if codec == "UNCOMPRESSED" else codec,
    }
