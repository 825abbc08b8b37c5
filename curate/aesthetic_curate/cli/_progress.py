"""The live line of a long run: shards, samples a second, errors, time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from aesthetic_curate.runs import Progress as Moment

LINE_EVERY_S = 30.0  # in a log, which no terminal redraws
SURE_AFTER_S = 5.0  # of scoring, before a time left is named


class Bar:
    """Shows a run's progress on stderr: a bar on a terminal, a line now and then in a log."""

    def __init__(self, shards: int, done: int) -> None:
        self._total, self._before = shards, done
        self._first_s: float | None = None  # when the first sample was done
        self._said_s = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(f"{done}/{shards} shards", total=1.0)

    def show(self, moment: Moment) -> None:
        """Take in where the run is."""
        if self._bar is not None:
            share = moment.share(self._total - self._before)
            self._bar.update(self._task, completed=share, description=self._line(moment))
        elif time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            print(self._line(moment), file=sys.stderr, flush=True)

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _line(self, moment: Moment) -> str:
        parts = [f"{self._before + moment.shards_done}/{self._total} shards"]
        if moment.samples:
            now = time.monotonic()
            if self._first_s is None:
                self._first_s = now
            seconds = now - self._first_s
            parts.append(f"{moment.samples:,} samples")
            if seconds >= 1:
                parts.append(f"{moment.samples / seconds:,.1f}/s")
            if moment.failed:
                parts.append(f"{moment.failed:,} without a score")
            share = moment.share(self._total - self._before)
            if seconds >= SURE_AFTER_S and share:
                parts.append(f"{_duration(seconds * (1 - share) / share)} left")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    """`4 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
