"""Known layouts of files: what belongs beside what, as img2dataset and clip-retrieval write it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from aesthetic_curate.locations import is_file, is_local, list_folder, parent

_KINDS: tuple[tuple[str, Literal["tar", "table", "array"]], ...] = (
    (r"\.tar(\.(gz|bz2|xz|zst))?|\.t(gz|bz2|xz)", "tar"),
    (r"\.parquet|\.pq", "table"),
    (r"\.npy", "array"),
)
_EMBEDDINGS = re.compile(r"(?P<root>.*/)img_emb/img_emb_(?P<number>\d+)\.npy")
_METADATA = re.compile(r"(?P<root>.*/)metadata/metadata_(?P<number>\d+)\.parquet")
_TEXTS = re.compile(r".*/text_emb/text_emb_\d+\.npy")


def kind_of(url: str) -> Literal["tar", "table", "array"] | None:
    """What a file is by its extension."""
    return next((kind for pattern, kind in _KINDS if _suffix(url, pattern)), None)


def stem_of(url: str) -> str:
    """A file's path or URL without its extension."""
    for pattern, _ in _KINDS:
        if match := _suffix(url, pattern):
            return url[: match.start()]
    return url


class Layout:
    """What belongs together among files that are shards, and beside them."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._urls = set(urls)
        # The stems whose parquet is metadata of the tar or the array of that name.
        self._stems = {stem_of(url) for url in self._urls if kind_of(url) in ("tar", "array")}
        self._folders: dict[str, set[str]] = {}

    def is_companion(self, url: str) -> bool:
        """Whether a file belongs to another of the files, and is no shard of its own."""
        if _TEXTS.fullmatch(url):
            return self._has_images(url)
        if kind_of(url) != "table":
            return False
        if match := _METADATA.fullmatch(url):
            return f"{match['root']}img_emb/img_emb_{match['number']}.npy" in self._urls
        return stem_of(url) in self._stems

    def metadata_url(self, url: str) -> str | None:
        """The parquet of a tar's or an array's metadata, if there is one."""
        if match := _EMBEDDINGS.fullmatch(url):
            beside = f"{match['root']}metadata/metadata_{match['number']}.parquet"
        else:
            beside = stem_of(url) + ".parquet"
        return beside if self._exists(beside) else None

    def _exists(self, url: str) -> bool:
        folder = parent(url)
        if folder not in self._folders:
            self._folders[folder] = list_folder(folder)
        if not self._folders[folder] and not is_local(url):
            return is_file(url)  # many servers list nothing, and give what is asked for
        return url.rpartition("/")[2] in self._folders[folder]

    def _has_images(self, url: str) -> bool:
        number = url.rpartition("_")[2]
        root = parent(parent(url))
        return f"{root}/img_emb/img_emb_{number}" in self._urls


def _suffix(url: str, pattern: str) -> re.Match[str] | None:
    return re.search(f"({pattern})$", url, re.IGNORECASE)
