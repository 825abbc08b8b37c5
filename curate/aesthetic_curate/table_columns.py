"""Which columns of a parquet hold keys, images and embeddings, by their names and types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from aesthetic_client.errors import InputError
from aesthetic_curate.metadata import KEY_COLUMNS
from aesthetic_curate.options import InputOptions

BYTES_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "img", "content")
PATH_COLUMNS = (
    "image_path",
    "path",
    "filepath",
    "file_path",
    "file_name",
    "filename",
    "file",
    "image",
)
URL_COLUMNS = ("url", "image_url", "img_url", "uri", "image_uri")
EMBEDDING_COLUMNS = (
    "image_embedding",
    "embedding",
    "embeddings",
    "img_emb",
    "clip_embedding",
    "emb",
)

# bytes: an encoded file. struct: {bytes, path}, as Hugging Face's `datasets` writes images.
# text: a path or a URL.
ImageKind = Literal["bytes", "struct", "text"]
_Fits = Callable[[pa.DataType], bool]


@dataclass(frozen=True)
class TableColumns:
    """Names of columns, None where there is none."""

    key: str | None
    image: str | None
    image_kind: ImageKind
    embedding: str | None

    def holds_embeddings(self, options: InputOptions) -> bool:
        """Whether the embeddings are meant: they are there, and no image's own bytes."""
        if options.embedding_column or options.image_column:
            return options.embedding_column is not None
        return self.embedding is not None and (self.image is None or self.image_kind == "text")


def find_columns(schema: pa.Schema, options: InputOptions, url: str) -> TableColumns:
    """The columns that `options` names, else those with known names and fitting types.

    Raises InputError for a named one that is not there, or not of such a type.
    """
    key = _named(schema, options.key_column, url) or _first(schema, KEY_COLUMNS, _is_key)
    embedding = _named(schema, options.embedding_column, url)
    embedding = embedding or _first(schema, EMBEDDING_COLUMNS, is_embedding)
    image = _named(schema, options.image_column, url)
    if image is None:
        image = _first(schema, BYTES_COLUMNS, _is_encoded) or _any(schema, _is_struct)
        image = image or _first(schema, PATH_COLUMNS, _is_text)
        image = image or _first(schema, URL_COLUMNS, _is_text)
    kind = image_kind(schema.field(image).type) if image else "bytes"
    if kind is None:
        raise InputError(
            f"{url}: the column {image!r} holds {schema.field(image).type}; images are bytes, "
            "paths, URLs or {bytes, path}"
        )
    return TableColumns(key, image, kind, embedding)


def image_kind(kind: pa.DataType) -> ImageKind | None:
    """How a column of this type holds images, if it may."""
    if _is_struct(kind):
        return "struct"
    if _is_binary(kind):
        return "bytes"
    return "text" if _is_text(kind) else None


def is_embedding(kind: pa.DataType) -> bool:
    """Whether this is a list of floats."""
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(check(kind) for check in lists) and pa.types.is_floating(kind.value_type)


def metadata_columns(schema: pa.Schema) -> list[str]:
    """The columns that go along with the scores: all but encoded files."""
    return [field.name for field in schema if not _is_encoded(field.type)]


def _named(schema: pa.Schema, name: str | None, url: str) -> str | None:
    if name is not None and name not in schema.names:
        raise InputError(f"{url}: has no column {name!r}; it has {', '.join(schema.names)}")
    return name


def _first(schema: pa.Schema, names: Sequence[str], fits: _Fits) -> str | None:
    by_name = {field.name.lower(): field for field in reversed(list(schema))}
    found = (by_name[name] for name in names if name in by_name and fits(by_name[name].type))
    return next((field.name for field in found), None)


def _any(schema: pa.Schema, fits: _Fits) -> str | None:
    return next((field.name for field in schema if fits(field.type)), None)


def _is_encoded(kind: pa.DataType) -> bool:
    return _is_binary(kind) or _is_struct(kind)


def _is_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    return "bytes" in fields and _is_binary(fields["bytes"])


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_key(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))
