"""Work on the next items while this one is in use: for files that each wait for a network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ReadAhead:
    """Threads that are at most `2 * threads` items ahead of the one that was asked for."""

    def __init__(self, threads: int) -> None:
        self.stopped = threading.Event()  # set on closing, for work that waits
        self._window = 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results, in the order of the items; items are taken as they are worked on."""
        waiting: deque[Future[Result]] = deque()
        rest = iter(items)
        try:
            while True:
                for item in islice(rest, self._window - len(waiting)):
                    waiting.append(self._pool.submit(work, item))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Start nothing more. What is under way ends by itself, soon."""
        self.stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
