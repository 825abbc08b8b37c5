"""The columns of a scored parquet, named once.

One column a head, under the head's output name (`aesthetic_score` is the default head's), and the
sample's own metadata columns as they came. A metadata column whose name is taken by one of ours is
kept as `source_NAME`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aesthetic_client.contract import EMBEDDING_DIM

KEY = "key"
STATUS = "status"
ERROR = "error"
IMAGE = "image"  # what of the sample was scored: a tar member's extension, a path, a URL
WIDTH = "width"  # pixels of the image file; EXIF orientation ignored, as the score ignores it
HEIGHT = "height"
EMBEDDING = "embedding"
SOURCE_PREFIX = "source_"

EMBEDDING_TYPES = {"float16": pa.float16(), "float32": pa.float32()}


def scored_schema(outputs: Sequence[str], embedding: str | None) -> pa.Schema:
    """The schema of our columns: `outputs` are heads' output names; `embedding` a dtype or None."""
    fields = [pa.field(KEY, pa.string(), nullable=False)]
    fields += [pa.field(output, pa.float32()) for output in outputs]
    fields += [
        pa.field(STATUS, pa.string(), nullable=False),
        pa.field(ERROR, pa.string()),
        pa.field(IMAGE, pa.string()),
        pa.field(WIDTH, pa.int32()),
        pa.field(HEIGHT, pa.int32()),
    ]
    if embedding:
        # Without nulls, since Arrow below 26 writes a fixed-size list's nulls to parquet and cannot
        # read them back: rows without an embedding hold NaN.
        kind = pa.list_(EMBEDDING_TYPES[embedding], EMBEDDING_DIM)
        fields.append(pa.field(EMBEDDING, kind, nullable=False))
    return pa.schema(fields)


def embedding_array(embeddings: NDArray[np.float32], dtype: str) -> pa.FixedSizeListArray:
    """The embedding column of vectors (n, 768); NaN stands for none."""
    flat = np.ascontiguousarray(embeddings, dtype).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(flat, EMBEDDING_DIM)


def renamed_metadata(metadata: pa.Table, taken: Sequence[str]) -> pa.Table:
    """The metadata with `source_` before the names that are taken."""
    names: list[str] = []
    for name in metadata.column_names:
        while name in taken or name in names:
            name = SOURCE_PREFIX + name
        names.append(name)
    return metadata.rename_columns(names)
