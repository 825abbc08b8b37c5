"""One model, every core: a batch shared out among OpenVINO's streams, a single item on all threads.

Streams of one thread each compute a batch faster than one stream of all threads, but a single item
would take one thread's time. So, where the config leaves the choice to this backend, the model is
compiled for both: whole rounds of a batch go to the streams, what is left over to all threads at
once. The two never run at the same time. The price is a second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aesthetic_serve.backends.batching import Array
from aesthetic_serve.backends.openvino.options import PRECISION, Options, Properties

PARTS_A_STREAM = 2  # so that a stream that other processes slow down leaves some to its neighbour

Feed = dict[str, Array]


class Engine:
    """A model compiled by `options`. `run` is for one thread at a time."""

    def __init__(self, core: Any, model: Any, options: Options, *, batching: bool) -> None:
        self._streams = Streams(core, model, options.batches)
        self._batching = batching
        self._single: Streams | None = None
        if options.single is not None and self._streams.count > 1:
            self._single = Streams(core, model, options.single)

    @property
    def precision(self) -> str:
        """`bf16` or `f32`: what the CPU computes in, which may be more than was asked for."""
        return self._streams.precision

    def run(self, outputs: Sequence[str], feed: Feed) -> list[Array]:
        """The outputs by name, (rows, ...) each where the model batches. Raises RuntimeError."""
        if not self._batching:
            return self._streams.run(outputs, [feed])[0]
        rows, streams = len(next(iter(feed.values()))), self._streams.count
        left = rows % streams if self._single else 0
        bounds = part_bounds(rows - left, self._streams.parts)
        done = self._streams.run(outputs, [_rows(feed, *part) for part in bounds])
        if self._single and left:
            done += self._single.run(outputs, [_rows(feed, rows - left, rows)])
        return done[0] if len(done) == 1 else list(map(np.concatenate, zip(*done, strict=True)))


class Streams:
    """A compiled model with as many requests as parts of a batch may be on their way at once.

    The requests are all started from the calling thread, and OpenVINO gives each to the next idle
    stream. Threads of ours, which would wait for a stream each, may stop dead: what OpenVINO's
    Python part prepares at its first use must not be begun by two threads at once.
    """

    def __init__(self, core: Any, model: Any, properties: Properties) -> None:
        compiled = core.compile_model(model, "CPU", properties)
        self.count = max(1, int(compiled.get_property("NUM_STREAMS")))
        self.precision: str = compiled.get_property(PRECISION).get_type_name()
        self.parts = self.count * PARTS_A_STREAM if self.count > 1 else 1
        self._requests = [compiled.create_infer_request() for _ in range(self.parts)]

    def run(self, outputs: Sequence[str], feeds: Sequence[Feed]) -> list[list[Array]]:
        """Each feed's outputs, in order; at most `parts` feeds. Raises RuntimeError."""
        # Inputs are read where they lie; outputs are copied out of the requests' own memory.
        feeds = [{k: np.ascontiguousarray(array) for k, array in feed.items()} for feed in feeds]
        started: list[Any] = []
        failures: list[RuntimeError] = []
        try:
            for request, feed in zip(self._requests, feeds, strict=False):
                request.start_async(feed, share_inputs=True)
                started.append(request)
        finally:
            for request in started:
                try:
                    request.wait()
                except RuntimeError as error:  # the others still compute: wait for them too
                    failures.append(error)
        if failures:
            raise failures[0]
        return [
            [np.array(request.get_tensor(name).data) for name in outputs] for request in started
        ]


def part_bounds(rows: int, parts: int) -> list[tuple[int, int]]:
    """`rows` in at most `parts` runs of nearly the same length, the longer ones first."""
    parts = min(rows, parts)
    if not parts:
        return []
    size, longer = divmod(rows, parts)
    ends = [(i + 1) * size + min(i + 1, longer) for i in range(parts)]
    return list(zip([0, *ends], ends, strict=False))


def _rows(feed: Feed, begin: int, end: int) -> Feed:
    return {name: array[begin:end] for name, array in feed.items()}
