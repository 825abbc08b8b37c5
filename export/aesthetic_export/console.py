"""What the commands of this room print: progress, warnings and tables, all to stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from aesthetic_export.files import Progress as OnProgress
from aesthetic_export.parity import ParityReport, Report

stderr = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    stderr.print(text, markup=False)


def warn(text: str) -> None:
    """What must not be overlooked."""
    stderr.print(Panel(text, title="WARNING", style="bold red"))


@contextlib.contextmanager
def downloads() -> Iterator[OnProgress]:
    """A bar for every file that is being downloaded."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=stderr) as bars:

        def on_progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total or None)
            bars.update(tasks[name], completed=done)

        yield on_progress


@contextlib.contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for every phase of a long build that goes on: name, steps done, steps in all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=stderr, transient=True) as bars:

        def on_progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(escape(name), total=total)
            bars.update(tasks[name], completed=done, total=total)
            if done >= total:
                bars.remove_task(tasks.pop(name))

        yield on_progress


def print_report(report: Report) -> None:
    """A parity report: its line, then every head's differences in points of the scale, if any."""
    verdict = "PASS" if report else "FAIL"
    say(f"{verdict} {report.name} against {report.reference}: {report.summary()}")
    if not isinstance(report, ParityReport):
        return
    table = Table(
        Column("head", overflow="fold"),
        *("mean |difference|", "99% within", "largest", "allowed", "rank correlation"),
    )
    for head, score in report.scores.items():
        allowed = f"{report.tolerance.of(head):.1e}"
        p99 = "" if score.p99 is None else f"{score.p99:.1e}"
        ranks = "" if score.rank_correlation is None else f"{score.rank_correlation:.4f}"
        table.add_row(head, f"{score.mean:.1e}", p99, f"{score.max:.1e}", allowed, ranks)
    stderr.print(table)
