"""What a source gives: samples with their images, in chunks that carry their metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# ok: scored. no_image: nothing in the sample is an image. unreadable: its bytes could not be had
# (a cut tar, a dead URL). bad_image: the bytes are no image that can be scored.
# bad_embedding: no unit vector of 768 numbers. refused: the server refused it for another reason.
Status = Literal["ok", "no_image", "unreadable", "bad_image", "bad_embedding", "refused"]

CHUNK_ROWS = 256  # samples that are read ahead together; their metadata travels as one table
EMBEDDING_CHUNK_ROWS = 16_384  # rows of stored embeddings; 50 MB in fp32


@dataclass(frozen=True)
class Sample:
    """One sample of a data set. `image` holds an encoded image file unless `status` says why not.

    `name` says what of the sample is scored: a tar member's extension, a path or a URL.
    """

    key: str
    image: bytes | None = None
    name: str = ""
    status: Status = "ok"
    error: str = ""


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples. `metadata` has a row a sample, or is None where there are no columns."""

    samples: Sequence[Sample]
    metadata: pa.Table | None


@dataclass(frozen=True)
class EmbeddingChunk:
    """Consecutive rows of stored embeddings, (n, 768) of any float type, not yet checked.

    Rows that could not be had in this shape are NaN; `problems` says why, by row.
    """

    keys: Sequence[str]
    embeddings: NDArray[np.floating[Any]]
    metadata: pa.Table | None
    problems: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """A file of a sample: what follows its key's dot ("jpg", "json", "seg.png"), and its bytes."""

    extension: str
    data: bytes


class Source(Protocol):
    """An opened shard of images. A row's number is its place among all samples of the shard."""

    # Counts of what is worth knowing about the input: ignored_members, duplicate_keys, ...
    notes: Mapping[str, int]

    def __len__(self) -> int:
        """Samples."""

    def chunks(self) -> Iterator[Chunk]:
        """Every sample, in order, read as it is asked for."""

    def members(self, row: int) -> list[Member]:
        """All files of a sample, in their order, as bytes. Raises UnreadableError."""

    def append_to(self, row: int, file: BinaryIO) -> None:
        """Append the sample's tar entries, verbatim where the source is a tar."""

    def close(self) -> None: ...


class EmbeddingSource(Protocol):
    """An opened shard of stored embeddings."""

    notes: Mapping[str, int]

    def __len__(self) -> int: ...

    def chunks(self) -> Iterator[EmbeddingChunk]: ...

    def close(self) -> None: ...
