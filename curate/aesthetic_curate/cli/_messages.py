"""What `aesthetic curate score` tells its user before and after a run."""

from __future__ import annotations

import sys

from aesthetic_client.contract import CPU_PROFILES, SEEDED_WEIGHTS
from aesthetic_curate.config import Job, is_seeded, tower_precision
from aesthetic_curate.likeness import like_notes
from aesthetic_curate.runs import Plan, Summary


def say_plan(todo: Plan, job: Job) -> None:
    """What a user should know before a long run."""
    if is_seeded(job.provenance):
        print(f"WARNING: the model has weights: {SEEDED_WEIGHTS}", file=sys.stderr)
    if not job.provenance:
        print("WARNING: the server does not say where its weights come from", file=sys.stderr)
    for note in like_notes(job.config.likes, job.provenance):
        print(note, file=sys.stderr)
    if todo.done:
        print(f"{len(todo.done)} shards are done already", file=sys.stderr)
    if todo.other_settings:
        print(_redone(todo, tower_precision(job.provenance)), file=sys.stderr)
    if todo.other_input:
        print(f"{todo.other_input} shards have changed since, and are redone", file=sys.stderr)


def _redone(todo: Plan, now: str) -> str:
    """That shards of other settings are redone, and how to keep them. `now`: "" without a tower."""
    before = todo.other_precisions if now else ()
    told = f" (in {', '.join(before)}; now in {now})" if before else ""
    way_back = (
        f" or, if nothing else differs, --profile {before[0]} (or --url of a server in it)"
        if len(before) == 1 and before[0] in CPU_PROFILES
        else ""
    )
    return (
        f"{todo.other_settings} shards were scored with other settings or another model{told}, "
        f"and are redone. To keep them, stop now and give another --output{way_back}"
    )


def say_summary(summary: Summary, output: str) -> None:
    """What a run's shards hold, and where."""
    scored = summary.statuses["ok"]
    print(f"{summary.shards} shards, {summary.samples} samples, {scored} scored: {output}")
    for status, count in sorted(summary.statuses.items()):
        if status != "ok":
            print(f"  {count} {status}")
    if summary.kept is not None:
        print(f"  {summary.kept} in the filtered tars")
