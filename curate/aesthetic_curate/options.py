"""How inputs are read: what a run of many processes tells each of them, and its results keep."""

from __future__ import annotations

from dataclasses import dataclass

# The client's suffixes, in the order of preference where a sample has several images.
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "jpe", "jfif", "mpo")


@dataclass(frozen=True)
class InputOptions:
    """What of the input is read. Columns that are None are found by their names and types.

    `rows_per_shard` cuts tables and folders of images into shards; tars and arrays stay whole.
    `image_extensions` are lower-case, without a dot, the preferred first; "seg.png" may be one.
    `url_threads` files are on their way at once where they come over a network.
    """

    rows_per_shard: int = 10_000
    key_column: str | None = None
    image_column: str | None = None
    embedding_column: str | None = None
    image_extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    url_threads: int = 32
