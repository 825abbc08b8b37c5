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
QUIET_S = 10.0  # without a sample: then it is said


class Bar:
    """Shows a run's progress on stderr: a bar on a terminal, a line now and then in a log."""

    def __init__(self, shards: int, done: int) -> None:
        self._total, self._before = shards, done
        self._first: tuple[float, Moment] | None = None  # when the first samples were done
        self._last = (time.monotonic(), 0)  # when the number of samples last changed
        self._said_s = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(f"{done}/{shards} shards", total=1.0)

    def show(self, moment: Moment) -> None:
        """Take in where the run is."""
        now = time.monotonic()
        if moment.samples and self._first is None:
            self._first = (now, moment)
        if moment.samples != self._last[1]:
            self._last = (now, moment.samples)
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
        if self._first is not None:
            parts.append(f"{moment.samples:,} samples")
            parts += self._pace(moment)
            if moment.failed:
                parts.append(f"{moment.failed:,} without a score")
        quiet_s = time.monotonic() - self._last[0]
        if quiet_s >= QUIET_S:
            parts.append(f"nothing for {_duration(quiet_s)}: waiting for the servers?")
        return ", ".join(parts)

    def _pace(self, moment: Moment) -> list[str]:
        """Samples a second and the time left, from what came after the first samples."""
        assert self._first is not None
        first_s, first = self._first
        seconds, samples = time.monotonic() - first_s, moment.samples - first.samples
        if seconds < 1 or not samples:
            return []
        pace = [f"{samples / seconds:,.1f}/s"]
        share = moment.share(self._total - self._before)
        gained = share - first.share(self._total - self._before)
        if seconds >= SURE_AFTER_S and gained > 0:
            pace.append(f"{_duration(seconds * (1 - share) / gained)} left")
        return pace


def _duration(seconds: float) -> str:
    """`4 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
