"""Tar entries of samples that did not come from a tar."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from typing import BinaryIO

from aesthetic_curate.samples import Member
from aesthetic_curate.tar_headers import padded


def write_entries(file: BinaryIO, key: str, members: Iterable[Member]) -> None:
    """Append a sample as WebDataset reads it. The same sample gives the same bytes."""
    for member in members:
        info = tarfile.TarInfo(f"{tar_key(key)}.{member.extension}")
        info.size = len(member.data)
        file.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "backslashreplace"))
        file.write(member.data.ljust(padded(info.size), b"\0"))


def tar_key(key: str) -> str:
    """A key that survives a tar: WebDataset ends it at its first dot, tar takes no absolute path.

    Dots in the last part become underscores; "/", "." and ".." at its parts are left out.
    """
    parts = [part for part in key.split("/") if part not in ("", ".", "..")] or ["_"]
    parts[-1] = parts[-1].replace(".", "_")
    return "/".join(parts)
