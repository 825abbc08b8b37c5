"""What tars and folders have in common: samples of grouped files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

from aesthetic_client.images import MAX_FILE_BYTES
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.grouping import Groups
from aesthetic_curate.metadata import SampleMetadata, TableBeside
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import CHUNK_ROWS, Chunk, Member, Sample

CHUNK_BYTES = 64 * 2**20  # of images; a chunk of large ones has fewer rows


class GroupedSource(ABC):
    """Samples [start, stop) of grouped members, which are read one by one as they are needed."""

    def __init__(
        self,
        groups: Groups,
        options: InputOptions,
        notes: Counter[str],
        beside: TableBeside | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self.notes: Mapping[str, int] = notes
        self._groups = groups
        self._beside = beside
        self._start = min(start, len(groups))
        self._stop = len(groups) if stop is None else max(self._start, min(stop, len(groups)))
        self._images, several = groups.images(options.image_extensions)
        notes.update(+Counter(several_images=several, duplicate_keys=groups.duplicate_keys))
        self._metadata = SampleMetadata(groups, beside, self._read_many, notes)

    def __len__(self) -> int:
        return self._stop - self._start

    def chunks(self) -> Iterator[Chunk]:
        """Every sample, in order, read as it is asked for."""
        start = self._start
        for samples in gathered(self._samples()):
            stop = start + len(samples)
            yield Chunk(samples, self._metadata.table(start, stop))
            start = stop

    def members(self, row: int) -> list[Member]:
        """All files of a sample, in their order, as bytes; those cut off left out.

        Raises UnreadableError.
        """
        return [
            Member(self._groups.extension(member), self._read(member))
            for member in self._groups.members(self._start + row)
            if self._is_whole(member)
        ]

    @abstractmethod
    def append_to(self, row: int, file: BinaryIO) -> None:
        """Append the sample's tar entries, verbatim where the source is a tar."""

    def close(self) -> None:
        if self._beside:
            self._beside.close()

    @abstractmethod
    def _read(self, member: int) -> bytes:
        """A file's bytes. Raises UnreadableError."""

    @abstractmethod
    def _name(self, member: int) -> str:
        """What a sample's `name` says of its image."""

    def _size(self, member: int) -> int:
        """Bytes of a file where they are known without reading it, else 0."""
        return 0

    def _is_whole(self, member: int) -> bool:
        return True

    def _read_many(self, members: Sequence[int]) -> list[bytes | None]:
        return [self._read_or_none(member) for member in members]

    def _read_or_none(self, member: int) -> bytes | None:
        try:
            return self._read(member)
        except UnreadableError:
            return None

    def _samples(self) -> Iterator[Sample]:
        return map(self._sample, *self._work())

    def _work(self) -> tuple[Iterable[str], Iterable[int]]:
        """The keys and the images' member numbers of all samples."""
        return _keys(self._groups, self._start, self._stop), map(
            int, self._images[self._start : self._stop]
        )

    def _sample(self, key: str, member: int) -> Sample:
        if member < 0:
            return Sample(key, status="no_image", error="the sample has no image file")
        name = self._name(member)
        if (size := self._size(member)) > MAX_FILE_BYTES:
            error = f"the file has {size >> 20} MB, the limit is {MAX_FILE_BYTES >> 20}"
            return Sample(key, None, name, "bad_image", error)
        try:
            return Sample(key, self._read(member), name)
        except UnreadableError as error:
            return Sample(key, None, name, "unreadable", str(error))


def gathered(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Lists of at most CHUNK_ROWS samples and about CHUNK_BYTES of images."""
    chunk: list[Sample] = []
    size = 0
    for sample in samples:
        chunk.append(sample)
        size += len(sample.image or b"")
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _keys(groups: Groups, start: int, stop: int) -> Iterator[str]:
    for first in range(start, stop, 4096):
        yield from groups.keys.slice(first, min(4096, stop - first)).to_pylist()
