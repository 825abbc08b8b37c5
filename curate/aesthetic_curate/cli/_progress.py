"""The live line of a long run: shards, samples a second, errors, time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aesthetic_curate.runs import Progress as Moment

LINE_EVERY_S = 30.0  # in a log, which no terminal redraws


class Bar:
    """Shows a run's progress on stderr: a bar on a terminal, a line now and then in a log."""

    def __init__(self, shards: int, done: int) -> None:
        self._total, self._before = shards, done
        self._started_s = self._said_s = time.monotonic()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("shards"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self._console,
                transient=True,
                speed_estimate_period=600,
            )
            self._task = self._bar.add_task("shards", total=shards, completed=done, speed="")

    def show(self, moment: Moment) -> None:
        """Take in where the run is."""
        rate = moment.samples / max(1e-9, time.monotonic() - self._started_s)
        failed = f", {moment.failed} without a score" if moment.failed else ""
        text = f"{moment.samples} samples, {rate:.1f}/s{failed}"
        done = self._before + moment.shards_done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, speed=text)
        elif time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            print(f"shards {done}/{self._total}, {text}{self._left(moment)}", file=sys.stderr)

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> Any:
        if self._bar is not None:
            self._bar.stop()

    def _left(self, moment: Moment) -> str:
        if not moment.shards_done:
            return ""
        left = self._total - self._before - moment.shards_done
        seconds = (time.monotonic() - self._started_s) / moment.shards_done * left
        return f", {seconds / 60:.0f} min left"
