"""Stored embeddings: an .npy as clip-retrieval writes them, or a parquet; and their scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aesthetic_client.contract import EMBEDDING_DIM, Head
from aesthetic_curate import columns
from aesthetic_curate.embedding_tables import EmbeddingTableSource, MetadataTable, cut, row_keys
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import EMBEDDING_CHUNK_ROWS, EmbeddingChunk, EmbeddingSource
from aesthetic_curate.shards import Shard
from aesthetic_curate.storage import local_copy
from aesthetic_curate.vectors import SERVED_BLOCKS, Blocks, ScoreUnits, score_rows

ARRAY_SUFFIX = ".npy"


@contextmanager
def open_embeddings(shard: Shard, options: InputOptions) -> Iterator[EmbeddingSource]:
    """The rows of an .npy or a parquet of embeddings, for the block.

    Raises UnreadableError for a file that holds none of the right width, and for metadata that has
    another number of rows; InputError for a column that is named and not there.
    """
    kind = ArraySource if shard.url.lower().endswith(ARRAY_SUFFIX) else EmbeddingTableSource
    with closing(kind(shard, options)) as source:
        yield source


class ArraySource:
    """Rows [start, stop) of an .npy (n, 768) of floats, with the metadata parquet beside it."""

    notes: Mapping[str, int] = {}

    def __init__(self, shard: Shard, options: InputOptions) -> None:
        self._url = shard.url
        with ExitStack() as files:
            self._path = files.enter_context(local_copy(shard.url))
            rows = len(self._array())
            self._table: MetadataTable | None = None
            if shard.metadata_url is not None:
                other = replace(options, image_column=None, embedding_column=None)
                table = MetadataTable(shard.metadata_url, other)
                self._table = files.enter_context(closing(table))
                if len(table) != rows:
                    raise UnreadableError(
                        f"{shard.metadata_url} has {len(table)} rows, but {shard.url} has {rows} "
                        "embeddings: they do not belong together"
                    )
            self._files = files.pop_all()
        self._start, self._stop = cut(shard, rows)

    def __len__(self) -> int:
        return self._stop - self._start

    def chunks(self) -> Iterator[EmbeddingChunk]:
        """Every row, in order; the embeddings are the file's own bytes. Raises UnreadableError."""
        start, stop = self._start, self._stop
        beside = None if self._table is None else self._table.rows(start, stop)
        for first in range(start, stop, EMBEDDING_CHUNK_ROWS):
            rows = min(EMBEDDING_CHUNK_ROWS, stop - first)
            keys, metadata = beside.take(rows) if beside else (row_keys(None, first, rows), None)
            # Each chunk has a map of its own: what was read does not stay in memory.
            yield EmbeddingChunk(keys, self._array()[first : first + rows], metadata)

    def close(self) -> None:
        self._files.close()

    def _array(self) -> NDArray[np.floating[Any]]:
        try:
            array = np.load(self._path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            text = f"{self._url}: cannot be read as an .npy array: {error}"
            raise UnreadableError(text) from error
        if not isinstance(array, np.ndarray):
            array.close()
            raise UnreadableError(f"{self._url}: is an .npz archive; give its array as an .npy")
        if array.ndim != 2 or array.shape[1] != EMBEDDING_DIM:
            raise UnreadableError(
                f"{self._url}: holds an array of shape {array.shape}, expected "
                f"(n, {EMBEDDING_DIM}): embeddings of CLIP ViT-L/14"
            )
        if array.dtype.newbyteorder("=") not in (np.float16, np.float32, np.float64):
            raise UnreadableError(
                f"{self._url}: holds numbers of type {array.dtype}, expected float16, float32 or "
                "float64"
            )
        return array


@dataclass(frozen=True)
class ScoredEmbeddings:
    """A chunk's rows, scored. Scores (n,) by output name are NaN where `ok` is False.

    `problems` says why, by row. `units` are the vectors that were scored, (n, 768) of length 1 and
    NaN where `ok` is False, if they were to be kept.
    """

    scores: Mapping[str, NDArray[np.float32]]
    ok: NDArray[np.bool_]
    problems: Mapping[int, str]
    units: NDArray[np.float32] | None

    @property
    def statuses(self) -> Counter[str]:
        """How many rows have which status."""
        bad = len(self.problems)
        return +Counter({"ok": len(self.ok) - bad, "bad_embedding": bad})

    def columns(self) -> dict[str, pa.Array]:
        """Status, error and the scores, as the scored parquet has them: null where not ok."""
        errors = np.full(len(self.ok), None, object)
        for row, problem in self.problems.items():
            errors[row] = problem
        names = pa.array(["bad_embedding", "ok"])
        found = {
            columns.STATUS: names.take(pa.array(self.ok.view(np.int8))),
            columns.ERROR: pa.array(errors, pa.string()),
        }
        for output, values in self.scores.items():
            found[output] = pa.array(values, mask=~self.ok)
        return found


def score_embedding_chunk(
    chunk: EmbeddingChunk,
    score: ScoreUnits,
    heads: Sequence[Head],
    *,
    normalize: bool = False,
    keep_units: bool = False,
    blocks: Blocks = SERVED_BLOCKS,
) -> ScoredEmbeddings:
    """Score a chunk's rows by `score`: `LocalHeads.score_units`, or one that asks a server.

    `score` gets float32 unit vectors, `blocks.rows` at most, from `blocks.threads` threads; zeros
    stand for rows that are none. `normalize` takes rows of any length but zero. Raises what `score`
    raises.
    """
    rows = score_rows(
        chunk.embeddings,
        score,
        heads,
        normalize=normalize,
        keep_units=keep_units,
        blocks=blocks,
    )
    problems = {**rows.problems, **chunk.problems}  # a row of another width is NaN by then
    ok = np.ones(len(chunk.embeddings), bool)
    ok[list(problems)] = False
    return ScoredEmbeddings(rows.scores, ok, dict(sorted(problems.items())), rows.units)
