"""Files written as results are."""

from __future__ import annotations

from aesthetic_curate.storage import Folder


def write(folder: Folder, name: str, data: bytes) -> None:
    with folder.writing(name) as path:
        path.write_bytes(data)
