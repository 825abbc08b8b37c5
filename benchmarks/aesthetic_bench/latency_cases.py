"""What the server adds to a single image's time, stage by stage, with a tower that costs nothing.

And beside it the served tower itself, with its bare engine: both while nothing else is asked.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from aesthetic_client import Client, contract
from aesthetic_client.pixels import prepare_pixels
from aesthetic_serve import EmbeddedServer

from .company import Ticks, resting_company
from .engine import model_config, open_session
from .inputs import Images, load_images
from .instant_tower import instant_repository
from .latency_tables import KIND
from .machine import versions
from .measurements import latency, medians
from .provenance import read_provenance, weights_of
from .records import Begun
from .shared_memory import SharedMemoryWay
from .statistics import ModelWork, Server, work_between
from .workers import Worker

INSTANT, SERVED = "instant tower", "served tower"
PIXELS, FILES, SHARED = "pixels", "JPEG file", "pixels by shared memory"
ENSEMBLES = {
    PIXELS: contract.AESTHETIC_PIXELS,
    FILES: contract.AESTHETIC,
    SHARED: contract.AESTHETIC_PIXELS,
}
TARGET_MS = 5.0  # of a single image's time that is neither engine nor decoding
WAIT_S = 600.0
HEADS_RUNS = 200
DECODING_TURNS = 5
METHOD = (
    "One request at a time through a warm idle server on 127.0.0.1, all outputs asked for. The "
    "instant tower is a graph of the tower's inputs and outputs that takes next to no time, served "
    "from the same config: what is left is the server's and the client's. A turn is some requests "
    "each way and the bare engine's runs, every way in its turn; figures are medians of the "
    "turns' means. Stages: Triton's own statistics; 'process' is a step's compute time without "
    "the bare engine's own, which is the way into the Python process and back. Engine of "
    "`preprocess`: the pixel preparation itself, in the client's process."
)

Say = Callable[[str], None]
Way = Callable[[int], object]  # sends the request of that number and waits for its answer


@dataclass(frozen=True)
class LatencySettings:
    """A run. `requests`: those of one way in a turn, for the instant and for the served tower."""

    repository: Path
    profile: contract.Profile
    images: Path | None = None
    turns: int = 10
    requests: tuple[int, int] = (20, 3)


def run(settings: LatencySettings, say: Say = lambda _: None) -> dict[str, Any]:
    """The record of one run. Raises BenchError, or a ServeError where Triton cannot be run."""
    begun = Begun()
    provenance = read_provenance(settings.repository)
    with TemporaryDirectory(prefix="aesthetic-bench-") as folder:
        scratch = Path(folder)
        images = load_images(settings.images, scratch)
        described = images.as_dict()
        np.save(scratch / "pixels.npy", images.pixels)
        instant = instant_repository(settings.repository, scratch / "repository", settings.profile)
        towers = {}
        for name, repository, requests in (
            (INSTANT, instant, settings.requests[0]),
            (SERVED, settings.repository, settings.requests[1]),
        ):
            say(f"{name}: loading")
            found = _Tower(settings, repository, images, scratch, shared=name == INSTANT)
            towers[name] = found.measure(requests, lambda text, name=name: say(f"{name}: {text}"))
    return begun.record(
        KIND,
        METHOD,
        versions(towers[SERVED].pop("triton"), "none"),
        weights=weights_of(provenance),
        parameters={
            "profile": settings.profile.name or settings.profile.precision,
            "turns": settings.turns,
            "requests_a_turn": list(settings.requests),
            "target_ms": TARGET_MS,
            "max_queue_delay_us": towers[INSTANT].pop("max_queue_delay_us"),
            "images": described,
        },
        towers={
            name: {k: v for k, v in one.items() if k != "triton"} for name, one in towers.items()
        },
    )


class _Tower:
    """One repository, served and bare."""

    def __init__(
        self,
        settings: LatencySettings,
        repository: Path,
        images: Images,
        scratch: Path,
        *,
        shared: bool,
    ) -> None:
        self._settings, self._repository = settings, repository
        self._images, self._scratch, self._shared = images, scratch, shared

    def measure(self, requests: int, say: Say) -> dict[str, Any]:
        profile = self._settings.profile
        task = {
            "kind": "profile",
            "model_folder": str(self._repository / contract.CLIP_IMAGE.name),
            "config_file": profile.config_file,
            "pixels": str(self._scratch / "pixels.npy"),
            "count": len(self._images.files),
        }
        others = resting_company()["other_processes_share_of_cpu"]
        server = EmbeddedServer(self._repository, supervise=False, config_name=profile.name or None)
        with Worker("bare engine", task, self._scratch) as engine, server:
            engine.wait_until_ready(WAIT_S)
            with Client(server.grpc_url) as client:
                found = self._turns(engine, server, client, requests, say)
        # What ran beside the requests were the server and the engine: others show before them.
        found["company"]["other_processes_share_of_cpu"] = others
        return found

    def _turns(
        self, engine: Worker, server: EmbeddedServer, client: Client, requests: int, say: Say
    ) -> dict[str, Any]:
        asked = Server(server.ports.http)
        files = [file.read_bytes() for file in self._images.files]
        pixels = list(self._images.pixels)
        count = len(pixels)
        ways: dict[str, Way] = {
            PIXELS: lambda n: client.score(pixels[n % count]),
            FILES: lambda n: client.score(files[n % count]),
        }
        own = {"aesthetic_heads": self._heads_ms(), "preprocess": _decode_ms(files)}
        if not self._shared:
            return self._measure(engine, asked, ways, own, requests, say)
        with SharedMemoryWay(server.grpc_url, self._images.pixels) as shared:
            return self._measure(engine, asked, {**ways, SHARED: shared.send}, own, requests, say)

    def _measure(
        self,
        engine: Worker,
        asked: Server,
        ways: Mapping[str, Way],
        own: dict[str, float],
        requests: int,
        say: Say,
    ) -> dict[str, Any]:
        for send in ways.values():
            send(0)
        before = Ticks.now()
        engine_ms: list[float] = []
        times: dict[str, list[float]] = {way: [] for way in ways}
        stages: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for turn in range(self._settings.turns):
            say(f"turn {turn + 1} of {self._settings.turns}")
            asked_of = {"do": "turn", "batches": [1], "seconds": 0.02 * requests}
            rate = engine.ask(asked_of, WAIT_S)["rates"][0]
            engine_ms.append(1e3 / rate["images_per_s"])
            for way, send in ways.items():
                then = asked.snapshot()
                measured = [_timed_ms(send, turn * requests + n) for n in range(requests)]
                costs = {**own, contract.CLIP_IMAGE.name: engine_ms[-1]}
                ensemble = ENSEMBLES[way]
                # Triton counts an answer after it has sent it: the other way's last may be in it.
                work = {
                    name: done
                    for name, done in work_between(then, asked.snapshot()).items()
                    if name in (ensemble.name, *ensemble.steps)
                }
                times[way] += measured
                mean_ms = statistics.fmean(measured)
                stages[way].append(stages_ms(mean_ms, ensemble.name, work, costs))
        config = asked.config(contract.CLIP_IMAGE.name)
        batching = config.get("dynamic_batching", {})
        return {
            "triton": asked.version(),
            "max_queue_delay_us": int(batching.get("max_queue_delay_microseconds", 0)),
            "engine_ms": statistics.median(engine_ms),
            "engine_turns_ms": engine_ms,
            "company": Ticks.now().company_since(before),
            "ways": {
                way: {
                    **asdict(latency(times[way])),
                    "requests": len(times[way]),
                    "overhead_ms": statistics.median(one["overhead"] for one in stages[way]),
                    "stages_ms": medians(stages[way]),
                }
                for way in ways
            },
        }

    def _heads_ms(self) -> float:
        """The heads' bare engine: one embedding at a time."""
        folder = self._repository / contract.AESTHETIC_HEADS.name
        score, _ = open_session(folder, model_config(folder))
        embedding = np.ones((1, contract.EMBEDDING_DIM), np.float32)
        return statistics.median(
            _timed_ms(lambda _: score(embedding), n) for n in range(HEADS_RUNS)
        )


def stages_ms(
    request_ms: float, ensemble: str, work: Mapping[str, ModelWork], engines_ms: Mapping[str, float]
) -> dict[str, float]:
    """The parts of one request's mean time; all but `overhead` and `total` add up to `total`.

    `engines_ms` is what each step's computation takes by itself; `overhead` is the rest of all.
    """
    steps = {name: done for name, done in work.items() if name != ensemble}
    inside = work[ensemble].request_ms
    found = {
        "client and gRPC": request_ms - inside,
        "between steps": inside - sum(done.request_ms for done in steps.values()),
    }
    for name, done in steps.items():
        queue_ms = done.queue_ns / done.requests / 1e6
        found[f"{name}: queue"] = queue_ms
        found[f"{name}: process"] = done.request_ms - queue_ms - engines_ms[name]
        found[f"{name}: engine"] = engines_ms[name]
    found["total"] = request_ms
    found["overhead"] = request_ms - sum(engines_ms[name] for name in steps)
    return found


def _decode_ms(files: Sequence[bytes]) -> float:
    """An image's mean, the files in turns as they are sent: one again and again stays in caches."""
    turns = [
        [_timed_ms(lambda _, data=data: prepare_pixels(data), n) for data in files]
        for n in range(DECODING_TURNS)
    ]
    return statistics.median(map(statistics.fmean, turns))


def _timed_ms(act: Way, number: int) -> float:
    begin = time.perf_counter()
    act(number)
    return (time.perf_counter() - begin) * 1e3
