"""What the client costs an image: its rates against an instant server, and its stages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as messages

from aesthetic_client import _core, _grpc, _wire
from aesthetic_client._address import parse_address
from aesthetic_client.pixels import DEFAULT_OPTIONS

from . import client_loops
from .client_loops import HEADS, Payload, run_score_many, run_threads
from .client_tables import KIND
from .company import Ticks
from .instant_server import InstantServer
from .machine import versions
from .measurements import medians
from .records import Begun

SCORE_MANY, SCORE_BATCH = "Client.score_many", "Client.score_batch"
# Each way's protocol, and how its threads send; score_many has threads of its own.
WAYS: dict[str, tuple[str, Callable[[str, Payload], Any] | None]] = {
    SCORE_MANY: ("grpc", None),
    SCORE_BATCH: ("grpc", client_loops.score_batch),
    "tritonclient": ("grpc", client_loops.plain_tritonclient),
    "bare gRPC": ("grpc", client_loops.bare_grpc),
    "Client.score_batch, HTTP": ("http", client_loops.score_batch),
}
STAGES = ("load", "compose", "serialise", "send and wait", "parse", "results")
TARGETS = {"pixels": 1000.0, "batches of pixels": 3000.0}  # images/s of one process
METHOD = (
    "One client process and one server process on 127.0.0.1, which answers at once with constant "
    "scores. Each way sends as many requests at a time as `in_flight`; ways follow one another in "
    "every round, and the medians of the rounds count. client_us_per_image: processor time of the "
    "client's process. The server's processor time stands beside it: where it is near 1 core, the "
    "server is the limit. Bare gRPC: requests serialised before, answers not read. Stages: one "
    "thread, one request after another; send and wait is gRPC's own work, its threads included."
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """A run: seconds a case and round, rounds, and requests at a time."""

    seconds: float = 4.0
    rounds: int = 3
    in_flight: int = 4


@dataclass(frozen=True)
class Usage:
    """Time so far: on the clock, and processors' of the client, the server and everybody."""

    clock_s: float
    client_s: float
    server_s: float
    ticks: Ticks

    @classmethod
    def now(cls, server: int) -> Usage:
        return cls(time.perf_counter(), time.process_time(), cpu_s(server), Ticks.now())

    def since(self, before: Usage, requests: int, size: int) -> dict[str, float]:
        """Rates and costs of `requests` of `size` images each, sent between the two."""
        clock_s = self.clock_s - before.clock_s
        client_s, server_s = self.client_s - before.client_s, self.server_s - before.server_s
        others_s = self.ticks.busy_s - before.ticks.busy_s - client_s - server_s
        return {
            "requests_per_s": requests / clock_s,
            "images_per_s": requests * size / clock_s,
            "client_us_per_image": client_s / requests / size * 1e6,
            "client_cores": client_s / clock_s,
            "server_us_per_image": server_s / requests / size * 1e6,
            "server_cores": server_s / clock_s,
            "others_cores": max(0.0, others_s / clock_s),
        }


def cpu_s(process: int) -> float:
    """Processor seconds of a process so far, its threads included."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """Every case and stage, as one plain record."""
    begun = Begun()
    loads = list(client_loops.payloads())
    with InstantServer() as server:
        cases = [case for load in loads for case in _cases(server, load, settings, say)]
        stages = {}
        for load in loads:
            say(f"stages: {load.name}")
            stages[load.name] = time_stages(server.urls["grpc"], load, settings.seconds)
    return begun.record(
        KIND,
        METHOD,
        versions("none: the instant server", "none"),
        targets=_reached(cases),
        parameters={
            "seconds": settings.seconds,
            "rounds": settings.rounds,
            "in_flight": settings.in_flight,
            "outputs": list(client_loops.OUTPUTS),
            "file_bytes": client_loops.FILE_BYTES,
            "protocol": "on 127.0.0.1, gRPC where no other is named",
        },
        cases=cases,
        stages=stages,
    )


def _cases(
    server: InstantServer, payload: Payload, settings: Settings, say: Say
) -> Iterator[dict[str, Any]]:
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(settings.rounds):
        for way, measured in rounds.items():
            say(f"{payload.name}, round {number + 1}: {way}")
            measured.append(_measured(server, payload, way, settings))
    for way, measured in rounds.items():
        yield {
            "payload": payload.name,
            "images_per_request": payload.size,
            "way": way,
            **medians(measured),
            "rounds": measured,
        }


def _measured(
    server: InstantServer, payload: Payload, way: str, settings: Settings
) -> dict[str, float]:
    protocol, opened = WAYS[way]
    url = server.urls[protocol]
    if opened is None:
        before = Usage.now(server.pid)
        requests = run_score_many(url, payload, settings.in_flight, settings.seconds)
    else:
        with opened(url, payload) as send:
            send(0)  # connects
            before = Usage.now(server.pid)
            requests = run_threads(send, settings.in_flight, settings.seconds)
    return Usage.now(server.pid).since(before, requests, payload.size)


def time_stages(url: str, payload: Payload, seconds: float) -> dict[str, dict[str, float]]:
    """Microseconds an image of each stage of a request, on the clock and of this process."""
    clock, cpu = dict.fromkeys(STAGES, 0), dict.fromkeys(STAGES, 0)
    number, begin = 0, time.perf_counter()
    with grpc.insecure_channel(parse_address(url).netloc, _grpc.CHANNEL_OPTIONS) as channel:
        infer: Callable[[bytes], bytes] = channel.unary_unary(_grpc.INFER)
        while number == 0 or time.perf_counter() - begin < seconds:
            marks = _pass_stages(infer, payload, number)
            for stage, before, after in zip(STAGES, marks, marks[1:], strict=False):
                clock[stage] += after[0] - before[0]
                cpu[stage] += after[1] - before[1]
            number += 1
    images = number * payload.size
    return {
        stage: {
            "clock_us_per_image": clock[stage] / images / 1e3,
            "client_us_per_image": cpu[stage] / images / 1e3,
        }
        for stage in STAGES
    }


def _pass_stages(
    infer: Callable[[bytes], bytes], payload: Payload, number: int
) -> list[tuple[int, int]]:
    """The client's way of one request, with the times between its stages."""
    sources = payload.batch(number)
    marks = [_mark()]
    loaded = _core.load_group(sources, "server", DEFAULT_OPTIONS)
    marks.append(_mark())
    request = _wire.score_request(_core.good_items(loaded), HEADS)
    marks.append(_mark())
    message = _grpc.serialise(request)
    marks.append(_mark())
    answer = infer(message)
    marks.append(_mark())
    arrays = _grpc.arrays(request, messages.ModelInferResponse.FromString(answer))
    marks.append(_mark())
    _core.merge((0, sources), loaded, _wire.score_results(arrays, HEADS, True))
    marks.append(_mark())
    return marks


def _mark() -> tuple[int, int]:
    return time.perf_counter_ns(), time.process_time_ns()


def _reached(cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The better of the client's two ways, beside what is aimed at."""
    found = {}
    for name, target in TARGETS.items():
        ours = [c for c in cases if c["payload"] == name and c["way"] in (SCORE_MANY, SCORE_BATCH)]
        best = max(ours, key=lambda case: float(case["images_per_s"]))
        found[name] = {
            "images_per_s": best["images_per_s"],
            "target_images_per_s": target,
            "reached": best["images_per_s"] >= target,
            "way": best["way"],
            "best_round_images_per_s": max(one["images_per_s"] for one in best["rounds"]),
            # What the process could do on one core beside a server that costs nothing.
            "client_bound_images_per_s": 1e6 / best["client_us_per_image"],
        }
    return found
