"""Worker processes that tell how far they are, stop when asked, and end with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from aesthetic_curate.errors import StoppedError

Task = TypeVar("Task")
Result = TypeVar("Result")

POLL_S = 0.2  # between two looks at the workers' counters
STOP_GRACE_S = 20.0  # for all workers to end what they do, after the first Ctrl-C
KILLED_S = 1.0  # for a killed process to be gone


class Seat:
    """A worker's place: its own counters, and the wish of its parent that it stops."""

    def __init__(self, counters: Any, first: int, stop: Any) -> None:
        self._counters, self._first, self._stop = counters, first, stop

    def count(self, *numbers: int) -> None:
        """Add to this worker's counters. Raises StoppedError where the run is to stop."""
        for at, number in enumerate(numbers):
            self._counters[self._first + at] += number
        if self._stop.is_set():
            raise StoppedError("the run was stopped")

    def at_stop(self, act: Callable[[], None]) -> None:
        """Call `act`, from a thread of its own, when the run is to stop."""

        def wait_and_act() -> None:
            self._stop.wait()
            act()

        threading.Thread(target=wait_and_act, daemon=True).start()


def map_in_workers(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    start: Callable[..., None],
    arguments: tuple[Any, ...],
    tell: Callable[[Sequence[int]], None],
    counters: int,
) -> Iterator[Result]:
    """Results of tasks as they come. `start(seat, *arguments)` is called in each worker first.

    `tell` is given the sums of the workers' `counters` numbers, five times a second. The first
    error stops the rest and is raised; StoppedError for a worker that died.
    """
    context = multiprocessing.get_context("spawn")  # neither gRPC nor Arrow survives a fork
    counts = context.RawArray("q", counters * workers)  # no lock: a killed worker would keep it
    places, stop = context.Value("i", 0), context.Event()
    given = (counts, counters, places, stop, start, arguments)
    pool = ProcessPoolExecutor(workers, context, _enter, given)
    with _stopping(pool, stop):
        waiting: set[Future[Result]] = {pool.submit(_call, function, task) for task in tasks}
        while waiting:
            ended, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
            tell([sum(counts[at::counters]) for at in range(counters)])
            for future in ended:
                yield _result(future)


def host_of_processes() -> str:
    """Names what process ids count in: the machine and, of containers, which of them."""
    host = socket.gethostname() or "host"
    with contextlib.suppress(OSError):  # there are none outside Linux
        host += f"-{os.stat('/proc/self/ns/pid').st_ino}"
    return host


def is_alive(pid: int) -> bool:
    """Whether a process of this machine, or this container, is there and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # in a container without an init nobody takes leave of the orphans that died
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state != b"Z"


@contextlib.contextmanager
def terminations_as_interrupts() -> Iterator[None]:
    """SIGTERM, as batch systems send it before the end, stops a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        raise StoppedError(
            "a worker process was killed (out of memory?); what is done is kept: run the same "
            "command again to go on, with fewer --workers"
        ) from None


@contextlib.contextmanager
def _stopping(pool: ProcessPoolExecutor, stop: Any) -> Iterator[None]:
    """Ends the workers when the run ends early: asked first, killed when asked again."""
    try:
        yield
    except BaseException:
        stop.set()
        processes = list((pool._processes or {}).values())  # it does not say otherwise
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + STOP_GRACE_S
        try:
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            late = [process for process in processes if process.is_alive()]
            for process in late:
                process.kill()
            for process in late:  # so that a sweep finds them dead
                process.join(KILLED_S)
        raise
    pool.shutdown()


def _enter(
    counts: Any, counters: int, places: Any, stop: Any, start: Any, arguments: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent stops
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with places.get_lock():
        place, places.value = places.value, places.value + 1
    try:
        start(Seat(counts, place * counters, stop), *arguments)
    except Exception as error:  # raised here, it would look like a worker that was killed
        global _start_error
        _start_error = error


_start_error: Exception | None = None


def _call(function: Callable[[Task], Result], task: Task) -> Result:
    if _start_error is not None:
        raise _start_error
    return function(task)


def _end_with_parent() -> None:
    """A parent that was killed leaves no worker behind, which would write beside the next run."""
    process = multiprocessing.parent_process()
    if process is not None:
        multiprocessing.connection.wait([process.sentinel])
        os._exit(1)
