"""Which image files a command line means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aesthetic_client.errors import InputError

# Searched for in folders; a file named outright is always tried.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp")


def find_images(paths: Sequence[str]) -> list[Path]:
    """Files as given, and image files below folders, sorted. Raises InputError for none."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found.extend(_below(path))
        else:
            found.append(path)  # a missing one is reported beside the others, with its reason
    unique = list(dict.fromkeys(found))
    if not unique:
        raise InputError(
            f"no images in {', '.join(paths)}: looked for {', '.join(SUFFIXES)}, in subfolders too"
        )
    return unique


def _below(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files.extend(
            Path(parent, name)
            for name in sorted(names)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        )
    return files
