"""The files of a shard, scored or filtered: their names, and the one that marks it as done."""

from __future__ import annotations

import json
from typing import Any

from aesthetic_curate.storage import Folder

PARQUET, TAR, STATS = ".parquet", ".tar", "_stats.json"  # after the shard's name


def read_stats(folder: Folder, shard: str) -> dict[str, Any] | None:
    """The stats of a shard that is done, None for one that is not."""
    try:
        found = json.loads(folder.read_bytes(shard + STATS))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
