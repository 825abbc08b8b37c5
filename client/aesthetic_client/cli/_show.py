"""Progress and tables: with rich where it is installed (the `cli` extra), plain where it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TextIO, TypeVar

T = TypeVar("T")
PADDING = 3  # columns of a terminal between two columns of a table


def status(message: str) -> AbstractContextManager[object]:
    """A spinner on a terminal's stderr, a line elsewhere."""
    try:
        from rich.console import Console
    except ImportError:
        print(f"{message} ...", file=sys.stderr)
        return nullcontext()
    console = Console(stderr=True)
    if console.is_terminal:
        return console.status(message)
    print(f"{message} ...", file=sys.stderr)
    return nullcontext()


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same items, with a bar on a terminal's stderr: done, rate, time left."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft
    except ImportError:
        yield from items
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeLeft())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")
        for item in items:
            yield item
            bar.update(task, advance=1)
            speed = bar.tasks[task].speed
            bar.update(task, rate=f"{speed:.1f}/s" if speed else "")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO) -> None:
    """A table whose last column is text and whose others are numbers. Nothing is cut off."""
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        _print_plain(columns, rows, file)
        return
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        _print_plain(columns, rows, file)
        return
    table = Table(box=SIMPLE_HEAD)
    widest = [max(len(row[at]) for row in rows) for at in range(len(columns) - 1)] if rows else []
    # Two thirds of the width for the numbers, which stay whole; long names above them are folded.
    room = console.width * 2 // 3 // max(1, len(widest)) - PADDING
    for name, width in zip(columns, widest, strict=False):
        table.add_column(
            name, justify="right", overflow="fold", min_width=width, max_width=max(width, room)
        )
    table.add_column(columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO) -> None:
    lines = [tuple(columns), *map(tuple, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns) - 1)]
    for line in lines:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=False))
        print(f"{numbers}  {line[-1]}", file=file)


@contextmanager
def opened(output: str | None) -> Iterator[TextIO]:
    """A text file to write to, or stdout."""
    if output in (None, "-"):
        yield sys.stdout
        return
    with open(str(output), "w", encoding="utf-8", newline="") as file:
        yield file
