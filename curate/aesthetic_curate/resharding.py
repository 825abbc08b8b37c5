"""Cuts a selection into output shards of equal size, and sees which of them are left to write.

`ImageTextPairDataset.to_webdataset` of NeMo Curator 0.7 corresponds: its `samples_per_shard` is
ours, its `max_shards` the digits of a shard's number (five here, more where needed), its
`old_id_col` our `old_key_column`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from aesthetic_client.errors import InputError
from aesthetic_curate.errors import NoSamplesError
from aesthetic_curate.filter_jobs import (
    FORMAT,
    FilterJob,
    OutputShard,
    Piece,
    Settings,
    check_old_key_column,
)
from aesthetic_curate.places import lies_in
from aesthetic_curate.results import Results, ScoredShard
from aesthetic_curate.schemas import as_text, lossy, unified
from aesthetic_curate.selection import Criteria, Selection
from aesthetic_curate.shard_files import PARQUET, STATS, TAR, read_stats
from aesthetic_curate.storage import READERS, Folder

MANIFEST = "_filter.json"
SHARD_DIGITS = 5  # as img2dataset and NeMo Curator 0.7 name shards; more where there are more
KEY_DIGITS = 4  # at least, as there
DATA = (TAR, PARQUET, STATS)
_OURS = re.compile(rf"\d{{5,}}({'|'.join(map(re.escape, DATA))})")


@dataclass(frozen=True)
class FilterPlan:
    """All output shards of a filter run, and what the folder's manifest says of it."""

    job: FilterJob
    shards: Sequence[OutputShard]
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Todo:
    """Shards that are left to write, and how many files of another filter were removed."""

    shards: Sequence[OutputShard]
    done: int
    removed: int


def plan(
    results: Results, criteria: Criteria, selection: Selection, out: str, settings: Settings
) -> FilterPlan:
    """Cut the selected rows, in their order, into output shards.

    Raises NoSamplesError for an empty selection, InputError for settings that do not fit.
    """
    check_old_key_column(settings.old_key_column, list(results.heads))
    if settings.samples_per_shard < 1:
        raise InputError(
            f"--samples-per-shard takes a number above 0: {settings.samples_per_shard}"
        )
    if not selection.count:
        raise NoSamplesError(f"no sample of {results.folder.url} meets the conditions")
    kinds = {shard.shard.kind for shard in results.shards}
    if kinds == {"embeddings"}:  # which come without images
        settings = replace(settings, metadata_only=True)
    elif "embeddings" in kinds and not settings.metadata_only:
        raise InputError(
            f"{results.folder.url} holds scores of images and of stored embeddings, which have no "
            "images to copy: pass --metadata-only, or score them into folders of their own"
        )
    size = settings.samples_per_shard
    digits = max(SHARD_DIGITS, len(str((selection.count - 1) // size)))
    shards = _cut(results.shards, selection, size, digits)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "criteria": criteria.to_json(),
        "settings": asdict(settings),
        "scored": results.folder.url,
        "scored_fingerprint": results.fingerprint,
        "scored_shards": hashlib.sha256(
            "".join(f"{shard.name} {shard.digest}\n" for shard in results.shards).encode()
        ).hexdigest(),
        "selection": selection.digest,
        "samples": selection.count,
        "shards": len(shards),
    }
    text = json.dumps(manifest, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    job = FilterJob(
        scored=results.folder.url,
        out=out,
        settings=settings,
        fingerprint=fingerprint,
        scored_fingerprint=results.fingerprint,
        key_digits=max(KEY_DIGITS, len(str(size - 1))),
        schema=_common_schema(results),
        outputs=tuple(results.heads),
        provenance=results.provenance,
    )
    return FilterPlan(job, shards, {"fingerprint": fingerprint, **manifest})


def prepare(plan: FilterPlan, *, overwrite: bool = False) -> Todo:
    """Make the output folder this filter's own, and see what is left to do.

    `overwrite` lets shards of a filter with other settings be removed first. Raises InputError
    for a folder of another filter, or with data that no filter wrote.
    """
    folder = Folder(plan.job.out)
    _check_apart(plan.job.scored, folder.url)
    names = set(folder.names())
    before = _manifest(folder)
    removed = 0
    if before is None:
        foreign = sorted(name for name in names if name.endswith(DATA))
        if foreign:
            raise InputError(
                f"{folder.url} holds files that no filter wrote, such as {foreign[0]}: choose an "
                "empty folder"
            )
    elif before.get("fingerprint") != plan.job.fingerprint:
        # Marks of done shards go first: what a crash leaves here counts for nothing.
        old = sorted(filter(_OURS.fullmatch, names), key=lambda name: not name.endswith(STATS))
        if old and not overwrite:
            raise InputError(
                f"{folder.url} holds what was filtered with other settings or from other scores "
                f"({_differing(before, plan.manifest)}): choose another folder, or pass "
                "--overwrite to replace it"
            )
        for name in old:
            folder.remove(name)
        removed, names = len(old), set()
    if before != plan.manifest:
        with folder.writing(MANIFEST) as path:
            path.write_text(json.dumps(plan.manifest, indent=1), encoding="utf-8")
    with ThreadPoolExecutor(READERS) as readers:
        done = readers.map(lambda shard: _is_done(folder, names, plan.job, shard), plan.shards)
        todo = [shard for shard, is_done in zip(plan.shards, done, strict=True) if not is_done]
    return Todo(todo, len(plan.shards) - len(todo), removed)


# --- planning ----------------------------------------------------------------------------------


def _cut(
    scored: Sequence[ScoredShard], selection: Selection, size: int, digits: int
) -> list[OutputShard]:
    """Consecutive runs of `size` rows."""
    shards: list[OutputShard] = []
    pieces: list[Piece] = []
    room = size
    for shard, rows in zip(scored, selection.rows, strict=True):
        at = 0
        while at < len(rows):
            part = rows[at : at + room]
            pieces.append(Piece(shard, part))
            at += len(part)
            room -= len(part)
            if not room:
                shards.append(_shard(len(shards), digits, pieces))
                pieces, room = [], size
    if pieces:
        shards.append(_shard(len(shards), digits, pieces))
    return shards


def _shard(number: int, digits: int, pieces: Sequence[Piece]) -> OutputShard:
    return OutputShard(number, f"{number:0{digits}d}", tuple(pieces))


def _common_schema(results: Results) -> pa.Schema:
    """One schema for all output shards, whichever of them are written by which run."""
    with ThreadPoolExecutor(READERS) as readers:
        schemas = list(readers.map(results.schema, results.shards))
    schema = schemas[0]
    for other in schemas[1:]:
        schema = unified(schema, other)
    for shard, own in zip(results.shards, schemas, strict=True):
        # A wider type need not hold all: a large number is no float, an early date no nanoseconds.
        widened = [field.name for field in own if _may_lose(field.type, schema.field(field.name))]
        if widened:
            schema = as_text(schema, lossy(results.columns(shard, widened), schema))
    return schema


def _may_lose(kind: pa.DataType, common: pa.Field) -> bool:
    """Whether a column's values are to be looked at; all of them can be text, and null anything."""
    held = kind == common.type or pa.types.is_null(kind) or pa.types.is_string(common.type)
    return not held


# --- the output folder -------------------------------------------------------------------------


def _manifest(folder: Folder) -> dict[str, Any] | None:
    try:
        found = json.loads(folder.read_bytes(MANIFEST))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which settings differ, with their values before, in a few words."""
    words = [
        f"its {name} was {json.dumps(before.get(name))}"
        for name in ("criteria", "settings", "scored")
        if before.get(name) != now.get(name)
    ]
    return ", ".join(words) or "the scores have changed since"


def _is_done(folder: Folder, names: set[str], job: FilterJob, shard: OutputShard) -> bool:
    if not names.issuperset(shard.name + suffix for suffix in job.suffixes):
        return False
    stats = read_stats(folder, shard.name)
    return stats is not None and stats.get("fingerprint") == job.fingerprint


def _check_apart(scored: str, out: str) -> None:
    """Raises InputError for an output below the scores, where it would pass for some of them."""
    if lies_in(out, scored):
        raise InputError(f"{out} lies in {scored}: choose a folder apart from the scores")
