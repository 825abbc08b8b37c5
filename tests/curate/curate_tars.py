"""What a tar holds, as the tests of tars compare it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import Sample
from aesthetic_curate.shards import Shard

OPTIONS = InputOptions()


def shard(path: Path) -> Shard:
    return Shard(path.stem, "tar", str(path))


def samples(path: Path, options: InputOptions = OPTIONS) -> list[Sample]:
    with open_source(shard(path), options) as source:
        found = [sample for chunk in source.chunks() for sample in chunk.samples]
        assert len(found) == len(source)
    return found


def notes(path: Path) -> dict[str, int]:
    with open_source(shard(path), OPTIONS) as source:
        list(source.chunks())
        return dict(source.notes)


def rows(path: Path) -> list[tuple[str, str, str, bytes | None]]:
    return [(s.key, s.name, s.status, s.image) for s in samples(path)]


def extensions(path: Path) -> list[list[str]]:
    with open_source(shard(path), OPTIONS) as source:
        return [[m.extension for m in source.members(row)] for row in range(len(source))]


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def add(tar: tarfile.TarFile, name: str, data: bytes, **pax: str) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.pax_headers = len(data), pax
    tar.addfile(info, io.BytesIO(data))


def copied(path: Path, which: Iterable[int]) -> bytes:
    target = io.BytesIO()
    with open_source(shard(path), OPTIONS) as source:
        for row in which:
            source.append_to(row, target)
    return target.getvalue()
