"""From what the caller points at to shards, with names that do not depend on who does them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aesthetic_client.errors import InputError
from aesthetic_curate.errors import NoSamplesError, UnreadableError
from aesthetic_curate.folders import group_files
from aesthetic_curate.layouts import Layout, kind_of, stem_of
from aesthetic_curate.locations import expand, is_folder, is_local, list_files, local_path, parent
from aesthetic_curate.options import InputOptions
from aesthetic_curate.parquet_rows import not_parquet
from aesthetic_curate.shards import Kind, Shard
from aesthetic_curate.storage import opened
from aesthetic_curate.table_columns import find_columns

__all__ = ["InputOptions", "find_shards"]

# Stored embeddings are scored a thousand times as fast as images: so many times larger pieces.
EMBEDDINGS_FACTOR = 100


class _BrokenError(UnreadableError):
    """A file that is there, and is not what its name says. (One that is away may come back.)"""


@dataclass(frozen=True)
class _Found:
    """A file, or a folder of images, and the folder that the caller named it from."""

    url: str
    base: str
    is_images: bool = False


def find_shards(inputs: Sequence[str], options: InputOptions) -> list[Shard]:
    """The shards of files, folders, globs and {braces}, sorted by their names.

    Names are relative to the common folder of all inputs, and those of the same inputs and options
    are always the same. A broken table or array among others is a shard, which scoring then tells
    of. Raises NoSamplesError where there is nothing, UnreadableError for what is missing and where
    all is broken, InputError for what is no data set.
    """
    found: dict[str, _Found] = {}
    for given in inputs:
        for one in _find(given, options):
            found.setdefault(one.url, one)
    files = [one.url for one in found.values() if not one.is_images]
    layout = Layout(files)
    base = _common([one.base for one in found.values()])
    shards: list[Shard] = []
    broken: dict[tuple[str, str], _BrokenError] = {}
    for one in found.values():
        name = _name(one, base)
        if one.is_images:
            shards += _folder_shards(name, one.url, options)
        elif not layout.is_companion(one.url):
            try:
                shards += _file_shards(name, one.url, layout, options)
            except _BrokenError as error:
                broken[name, one.url] = error
    shards += _broken_shards(broken, shards)
    if not shards:
        raise NoSamplesError(f"{', '.join(inputs)}: nothing to score was found there")
    return sorted(_with_own_names(shards), key=lambda shard: shard.name)


def _find(given: str, options: InputOptions) -> Iterator[_Found]:
    urls = expand(given)
    if not urls:
        raise NoSamplesError(f"{given}: matches nothing")
    is_pattern = urls != [local_path(given)]
    _check_presence(given, urls)
    base = _base(given) if is_pattern else ""
    missing = True
    for url in (_absolute(url) for url in urls):
        if _is_folder(url, is_pattern):
            missing = False
            yield from _in_folder(url, base or url, options)
        elif kind_of(url):
            missing = False
            yield _Found(url, base or parent(url))
        elif not is_pattern:
            raise InputError(
                f"{given}: is no data set; name a folder, .tar, .parquet or .npy files"
                + (", or score images with `aesthetic score`" if _is_image(url, options) else "")
            )
    if missing:
        raise NoSamplesError(f"{given}: matches no folder and no .tar, .parquet or .npy file")


def _in_folder(url: str, base: str, options: InputOptions) -> Iterator[_Found]:
    names = [name for name in list_files(url) if not name.startswith(".") and "/." not in name]
    files = [name for name in names if kind_of(name)]
    if files:
        yield from (_Found(f"{url.rstrip('/')}/{name}", base) for name in files)
    elif any(_is_image(name, options) for name in names):
        yield _Found(url, base, is_images=True)
    elif names:
        raise NoSamplesError(
            f"{url}: none of its {len(names)} files is a .tar, .parquet, .npy or an image "
            f"({', '.join(options.image_extensions)})"
        )
    else:
        raise NoSamplesError(f"{url}: the folder is empty, or not there")


def _check_presence(given: str, urls: Sequence[str]) -> None:
    missing = [url for url in urls if is_local(url) and not os.path.exists(url)]
    if missing and len(urls) == 1:
        raise NoSamplesError(f"{given}: there is no such file or folder")
    if missing:
        raise UnreadableError(
            f"{given}: {len(missing)} of {len(urls)} files are not there, the first is "
            f"{missing[0]}; a * in the pattern takes those that are"
        )


# --- shards ------------------------------------------------------------------------------------


def _folder_shards(name: str, url: str, options: InputOptions) -> list[Shard]:
    _, grouping, _ = group_files(list_files(url), options)
    keys = grouping.groups().keys
    shards = _pieces(Shard(name, "folder", url), len(keys), options.rows_per_shard)
    return [replace(one, keys_sha256=_digest(keys[one.start : one.stop])) for one in shards]


def _digest(keys: pa.StringArray) -> str:
    return hashlib.sha256(
        "\0".join(keys.to_pylist()).encode("utf-8", "surrogateescape")
    ).hexdigest()


def _file_shards(name: str, url: str, layout: Layout, options: InputOptions) -> list[Shard]:
    kind = kind_of(url)
    beside = layout.metadata_url(url)
    if kind == "tar":
        return [Shard(name, "tar", url, metadata_url=beside)]
    rows_per_shard = options.rows_per_shard
    if kind == "array":
        shard = Shard(name, "embeddings", url, metadata_url=beside)
        return _pieces(shard, _array_rows(url), rows_per_shard * EMBEDDINGS_FACTOR)
    table, rows = _table_kind(url, options)
    factor = EMBEDDINGS_FACTOR if table == "embeddings" else 1
    return _pieces(Shard(name, table, url), rows, rows_per_shard * factor)


def _broken_shards(
    broken: Mapping[tuple[str, str], _BrokenError], others: Sequence[Shard]
) -> list[Shard]:
    """Files that cannot be read, whole. Raises the first one's error where there are no others."""
    if broken and not others:
        raise next(iter(broken.values()))
    # What a broken parquet held cannot be known: it must not call for a tower by itself.
    table: Kind = "embeddings" if all(one.kind == "embeddings" for one in others) else "table"
    kinds: dict[str, Kind] = {"array": "embeddings", "table": table}
    return [Shard(name, kinds[kind_of(url) or "table"], url) for name, url in broken]


def _pieces(shard: Shard, rows: int, rows_per_shard: int) -> list[Shard]:
    """The shard in pieces of `rows_per_shard`, numbered; whole if it is no longer than one."""
    if rows <= rows_per_shard:
        return [shard]
    starts = range(0, rows, rows_per_shard)
    return [
        replace(
            shard,
            name=f"{shard.name}-{number:05d}",
            start=start,
            stop=min(start + rows_per_shard, rows),
        )
        for number, start in enumerate(starts)
    ]


def _table_kind(url: str, options: InputOptions) -> tuple[Kind, int]:
    """Whether a parquet's images or its embeddings are meant, and its rows."""
    with opened(url) as file:
        try:
            parquet = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise _BrokenError(str(not_parquet(url, error))) from error
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    columns = find_columns(schema, options, url)
    if columns.holds_embeddings(options):
        return "embeddings", rows
    if columns.image is None:
        raise InputError(
            f"{url}: no column of images or embeddings was found among {', '.join(schema.names)}; "
            "name it with --image-column or --embedding-column, or leave the file out"
        )
    return "table", rows


def _array_rows(url: str) -> int:
    with opened(url) as file:
        try:
            numpy_format: Any = np.lib.format  # untyped
            version = numpy_format.read_magic(file)
            shape, _, _ = getattr(numpy_format, f"read_array_header_{version[0]}_0")(file)
        except (ValueError, AttributeError, OSError) as error:
            raise _BrokenError(f"{url}: is no .npy array: {error}") from error
    if len(shape) != 2:
        raise InputError(f"{url}: expected embeddings of shape (n, 768), got {shape}")
    return int(shape[0])


# --- names -------------------------------------------------------------------------------------


def _name(found: _Found, base: str) -> str:
    relative = f"{found.url}/".removeprefix(base).strip("/").replace("://", "/")
    if found.is_images:
        return relative or found.url.rpartition("/")[2] or "images"
    return stem_of(relative)


def _with_own_names(shards: Sequence[Shard]) -> Iterator[Shard]:
    """A file's extension is added where two shards would have one name."""
    names = Counter(shard.name for shard in shards)
    taken: Counter[str] = Counter()
    for shard in sorted(shards, key=lambda shard: (shard.url, shard.start)):
        name = shard.name
        if names[name] > 1:
            name += shard.url[len(stem_of(shard.url)) :].replace(".", "-")
        taken[name] += 1
        if taken[name] > 1:
            name += f"-{taken[name]}"
        yield replace(shard, name=name)


def _base(pattern: str) -> str:
    """The folder before the first special character."""
    pattern = _absolute(local_path(pattern))
    special = [pattern.find(character) for character in "{*?[" if character in pattern]
    return parent(pattern[: min(special)] + "x" if special else pattern)


def _common(folders: Sequence[str]) -> str:
    """The folder that holds all of them, with a "/" at its end; "" where they share none."""
    shared = []
    for parts in zip(*(folder.rstrip("/").split("/") for folder in folders), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared) + "/" if shared else ""


def _absolute(url: str) -> str:
    # Workers may run in other folders, and a rerun may start in one.
    return os.path.abspath(url) if is_local(url) else url.rstrip("/")


def _is_folder(url: str, is_match: bool) -> bool:
    if is_local(url):
        return os.path.isdir(url)
    # Each question is a request: what a pattern matched besides tars is hardly a folder.
    is_other_file = is_match and "." in url.rpartition("/")[2]
    return not kind_of(url) and not is_other_file and is_folder(url)


def _is_image(name: str, options: InputOptions) -> bool:
    return name.rpartition(".")[2].lower() in options.image_extensions
