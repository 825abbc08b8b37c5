"""Which shards a scored folder should hold, so that an unfinished run never looks complete."""

from __future__ import annotations

import json
from collections.abc import Sequence

from aesthetic_curate.shards import Shard
from aesthetic_curate.storage import Folder

MANIFEST = "_run.json"


def write_manifest(folder: Folder, shards: Sequence[Shard]) -> None:
    """Name all shards of the run, those of other machines included. Raises OutputError."""
    text = json.dumps({"shards": [shard.name for shard in shards]}, indent=0)
    with folder.writing(MANIFEST) as path:
        path.write_text(text + "\n", "utf-8")


def read_manifest(folder: Folder) -> list[str]:
    """The shards of the last run into the folder; none where it was not a run that wrote it."""
    try:
        found = json.loads(folder.read_bytes(MANIFEST))
    except (FileNotFoundError, ValueError):
        return []
    return [str(name) for name in found["shards"]]
