"""Drive the running server, case by case, and record what it did meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aesthetic_client import contract

from .errors import BenchError
from .inputs import Images, write_image_data, write_pixel_data
from .perf_analyzer import Job, PerfAnalyzer
from .settings import HEADS_CASES, Settings, requests_for
from .statistics import Server, Snapshot, work_between

Say = Callable[[str], None]

WARM_UP_REQUESTS = 8
SLOWEST = 10  # a case may take so many times what was expected of it
GRACE_S = 60.0
HEADS_WINDOWS = 3


class Sweeps:
    """The served cases of a run, one sweep a model."""

    def __init__(
        self,
        settings: Settings,
        analyzer: PerfAnalyzer,
        grpc_url: str,
        server: Server,
        images: Images,
        scratch: Path,
    ) -> None:
        self._settings = settings
        self._analyzer = analyzer
        self._url = grpc_url.removeprefix("grpc://")
        self._server = server
        self._images = images
        self._scratch = scratch

    def images(self, model: str, expected_per_s: float, say: Say) -> Iterator[dict[str, Any]]:
        """An image ensemble at each concurrency, from a rate in images/s that is expected of it."""
        data = self._input_data(model)
        if not self._settings.quick:
            say(f"{model}: warming up")
            job = Job(model, self._url, WARM_UP_REQUESTS, input_data=data)
            self._analyzer.run_requests(
                job, WARM_UP_REQUESTS, timeout_s=_limit(WARM_UP_REQUESTS, expected_per_s)
            )
        for concurrency in self._settings.concurrency:
            requests = requests_for(
                concurrency, expected_per_s, self._settings.seconds, quick=self._settings.quick
            )
            say(f"{model}: {concurrency} in flight, {requests} requests")
            job = Job(model, self._url, concurrency, input_data=data)
            before = self._server.snapshot()
            times = self._analyzer.run_requests(
                job, requests, timeout_s=_limit(requests, expected_per_s)
            )
            yield {
                **_head(job),
                "images_per_s": times.requests_per_s,
                **asdict(times.latency),
                "requests": requests,
                "measured_s": times.measured_s,
                "models": self._work(before, model, requests),
            }

    def heads(self, say: Say) -> Iterator[dict[str, Any]]:
        """`aesthetic_heads` over random embeddings: batch sizes and concurrencies of its own."""
        model = contract.AESTHETIC_HEADS.name
        window_s = max(1.0, self._settings.seconds / 10)
        for batch, concurrency in HEADS_CASES:
            say(f"{model}: {concurrency} in flight, {batch} embeddings each")
            job = Job(model, self._url, concurrency, batch=batch)
            before = self._server.snapshot()
            measured = self._analyzer.run_windows(job, window_s)
            work = self._work(before, model)
            yield {
                **_head(job),
                "embeddings_per_s": measured.items_per_s,
                **asdict(measured.latency),
                "requests": work[model]["inferences"] // batch,
                "measured_s": HEADS_WINDOWS * window_s,
                "models": work,
            }

    def _work(self, before: Snapshot, model: str, requests: int | None = None) -> dict[str, Any]:
        """What the models did since `before`. Raises BenchError unless all of it succeeded."""
        work = work_between(before, self._server.snapshot())
        failures = sum(done.failures for done in work.values())
        if failures or model not in work:
            raise BenchError(f"{failures or 'all'} requests to {model} failed; nothing is measured")
        if requests is not None and work[model].requests != requests:
            raise BenchError(
                f"the server answered {work[model].requests} requests to {model}, not {requests}: "
                "something else sends to it"
            )
        return {name: done.as_dict() for name, done in work.items()}

    def _input_data(self, model: str) -> Path:
        target = self._scratch / f"{model}-input.json"
        if model == contract.AESTHETIC.name:
            return write_image_data(self._images.files, target)
        return write_pixel_data(self._images.pixels, target)


def _head(job: Job) -> dict[str, Any]:
    return {
        "model": job.model,
        "items_per_request": job.batch,
        "concurrency": job.concurrency,
    }


def _limit(requests: int, per_s: float) -> float:
    return GRACE_S + SLOWEST * requests / per_s
