"""Filter runs over scored folders, and what they are compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from curate_datasets import img2dataset
from curate_results import SCORE, grouped, write_results

from aesthetic_curate.filter_jobs import Settings
from aesthetic_curate.filter_runs import run
from aesthetic_curate.resharding import plan, prepare
from aesthetic_curate.results import Results
from aesthetic_curate.selection import Condition, Criteria, Selection, select
from aesthetic_curate.storage import identity

GOOD = Criteria((Condition(SCORE, low=5.5),))


def scored_data(folder: Path) -> tuple[list[Path], Path]:
    """Four tars of 40 samples, and the folder of their scores."""
    tars = img2dataset(folder / "data", shards=4, samples=41)
    write_results(folder / "scored", tars)
    return tars, folder / "scored"


def write(
    scored: Path,
    out: Path,
    selection: Selection | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Filter, and the stats of the shards that were written."""
    results = Results.open(str(scored))
    selection = selection or select(results, GOOD)
    planned = plan(results, GOOD, selection, str(out), Settings(**settings))
    return list(run(planned.job, prepare(planned, overwrite=overwrite).shards, workers))


def selected(tars: Iterable[Path], selection: Selection) -> list[tuple[str, dict[str, bytes]]]:
    every = [grouped(tar) for tar in tars]
    return [
        samples[row]
        for samples, rows in zip(every, selection.rows, strict=True)
        for row in rows.tolist()
    ]


def written(out: Path) -> list[tuple[str, dict[str, bytes]]]:
    return [sample for tar in sorted(out.glob("*.tar")) for sample in grouped(tar)]


def point_at(scored: Path, tar: Path) -> None:
    edit_stats(scored, lambda stats: stats["shard"].update(url=str(tar)))
    trust(scored, tar)


def trust(scored: Path, tar: Path) -> None:
    """Say that the tar as it is now was scored."""
    edit_stats(scored, lambda stats: stats.update(input=identity(str(tar))))


def edit_stats(scored: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    for path in scored.glob("*_stats.json"):
        stats = json.loads(path.read_text())
        edit(stats)
        path.write_text(json.dumps(stats))
