"""Samples of a folder of images: one an image file, with the files of its name beside it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from aesthetic_client.errors import InputError
from aesthetic_client.images import MAX_FILE_BYTES
from aesthetic_curate.ahead import ReadAhead
from aesthetic_curate.downloads import read_url
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.grouped_source import GroupedSource
from aesthetic_curate.grouping import Grouping
from aesthetic_curate.locations import is_folder, is_local, list_files, local_path
from aesthetic_curate.metadata import clean
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import Member, Sample
from aesthetic_curate.shards import Shard
from aesthetic_curate.tar_entries import write_entries


class FolderSource(GroupedSource):
    """Samples [start, stop) of the images below a folder, in the order of their paths.

    A sample's `name` is its image's path. Notes: `ignored_members`, files of no image,
    `unreadable_files`, which `members` and `append_to` left out, and those of GroupedSource.
    Raises UnreadableError where there is no such folder.
    """

    def __init__(self, shard: Shard, options: InputOptions) -> None:
        self._url = local_path(shard.url)
        if not is_folder(self._url):
            raise UnreadableError(f"{shard.url}: there is no such folder")
        self._ahead = None if is_local(self._url) else ReadAhead(options.url_threads)
        self._paths, grouping, ignored = group_files(list_files(self._url), options)
        self._counts = +Counter(ignored_members=ignored)
        super().__init__(grouping.groups(), options, self._counts, None, shard.start, shard.stop)

    def members(self, row: int) -> list[Member]:
        """All files of a sample, in their order. Raises UnreadableError for the scored image.

        What lies beside it may have any size, and is left out where it cannot be read.
        """
        return list(self._files(row))

    def append_to(self, row: int, file: BinaryIO) -> None:
        """Append the sample's files as tar entries."""
        key = self._groups.keys[self._start + row].as_py()
        write_entries(file, key, self._files(row))

    def close(self) -> None:
        super().close()
        if self._ahead:
            self._ahead.close()

    def _files(self, row: int) -> Iterator[Member]:
        image = self._images[self._start + row]
        for member in self._groups.members(self._start + row):
            try:
                data = self._read(member, MAX_FILE_BYTES if member == image else sys.maxsize)
            except UnreadableError:
                if member == image:
                    raise
                self._counts["unreadable_files"] += 1
                continue
            yield Member(self._groups.extension(member), data)

    def _read(self, member: int, limit: int = MAX_FILE_BYTES) -> bytes:
        # What was listed is a name, even where it looks like a URL ("std::vector.png").
        try:
            return read_url(f"{self._url.rstrip('/')}/{self._paths[member]}", limit)
        except InputError as error:
            raise UnreadableError(clean(error.message)) from error

    def _name(self, member: int) -> str:
        return clean(self._paths[member])

    def _read_many(self, members: Sequence[int]) -> list[bytes | None]:
        if self._ahead:
            return list(self._ahead.map(self._read_or_none, members))
        return super()._read_many(members)

    def _samples(self) -> Iterator[Sample]:
        if not self._ahead:
            return super()._samples()
        return self._ahead.map(lambda work: self._sample(*work), zip(*self._work(), strict=True))


def group_files(names: Sequence[str], options: InputOptions) -> tuple[list[str], Grouping, int]:
    """The files of samples in their order, their groups, and how many files belong to none.

    A folder's images are often named with dots ("Screenshot 2024.01.31 at 10.11.12.png"), so a key
    is a path without its last extension, and no image hides behind another. Other files belong to
    the image whose key begins their name: "a.seg.json" to "a.seg.png", else to "a.jpg".
    Paths are as the file system has them; keys are clean where a name is no UTF-8.
    """
    shown = [name for name in names if not name.startswith(".") and "/." not in name]
    grouping, paths = Grouping(), list[str]()
    keys, others = set[str](), list[str]()
    for name in shown:
        key, _, extension = clean(name).rpartition(".")
        if key and not key.endswith("/") and extension.lower() in options.image_extensions:
            grouping.add(key, extension.lower())
            keys.add(key)
            paths.append(name)
        else:
            others.append(name)
    ignored = len(names) - len(shown)
    for name in others:
        cleaned = clean(name)
        owner = _key_of(cleaned, keys)
        if owner is None:
            ignored += 1
            continue
        grouping.add(owner, cleaned[len(owner) + 1 :].lower())
        paths.append(name)
    return paths, grouping, ignored


def _key_of(name: str, keys: set[str]) -> str | None:
    folder, slash, file = name.rpartition("/")
    while "." in file:
        file = file.rpartition(".")[0]
        if (key := folder + slash + file) in keys:
            return key
    return None
