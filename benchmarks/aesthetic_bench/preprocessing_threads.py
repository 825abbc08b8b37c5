"""Images a second of the whole machine: several threads of one process over the same files."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .company import Ticks
from .measurements import medians


class Crowd:
    """So many threads that prepare file after file in one way, round by round."""

    def __init__(
        self,
        megapixels: float,
        data: Sequence[bytes],
        way: str,
        prepare: Callable[[bytes], object],
        threads: int,
    ) -> None:
        self.megapixels, self.way, self.threads = megapixels, way, threads
        self._data, self._prepare = data, prepare
        self._rounds: list[dict[str, float]] = []

    def measure(self, seconds: float) -> None:
        """Each thread takes the next file until the time is over, and every file once at least."""
        ticks, begin, numbers = Ticks.now(), time.perf_counter(), itertools.count()

        def work(_: int) -> int:
            done = 0
            while True:
                number = next(numbers)  # one at a time: CPython's lock is held
                late = time.perf_counter() - begin >= seconds
                if late and number >= len(self._data):
                    return done
                self._prepare(self._data[number % len(self._data)])
                done += 1

        with ThreadPoolExecutor(self.threads) as pool:
            done = sum(pool.map(work, range(self.threads)))
        rate = done / (time.perf_counter() - begin)
        self._rounds.append({"images_per_s": rate, **Ticks.now().company_since(ticks)})

    def as_dict(self) -> dict[str, Any]:
        return {
            "megapixels": self.megapixels,
            "way": self.way,
            "threads": self.threads,
            **medians(self._rounds),
            "rounds": self._rounds,
        }
