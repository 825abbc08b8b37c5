"""What `aesthetic curate score` tells its user before and after a run."""

from __future__ import annotations

import sys

from aesthetic_client.contract import SEEDED_WEIGHTS
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
        now = tower_precision(job.provenance) or "unknown"
        before = f" (in {', '.join(todo.other_precisions)}; now in {now})"
        print(
            f"{todo.other_settings} shards were scored with other settings or another model"
            f"{before if todo.other_precisions else ''}, and are redone",
            file=sys.stderr,
        )
    if todo.other_input:
        print(f"{todo.other_input} shards have changed since, and are redone", file=sys.stderr)


def say_summary(summary: Summary, output: str) -> None:
    """What a run's shards hold, and where."""
    scored = summary.statuses["ok"]
    print(f"{summary.shards} shards, {summary.samples} samples, {scored} scored: {output}")
    for status, count in sorted(summary.statuses.items()):
        if status != "ok":
            print(f"  {count} {status}")
    if summary.kept is not None:
        print(f"  {summary.kept} in the filtered tars")
