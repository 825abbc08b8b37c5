"""A whole `aesthetic curate score` before a server that answers at once: its rate, its memory."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .client_cases import cpu_s
from .curation_tables import KIND
from .errors import BenchError
from .instant_server import InstantServer
from .machine import versions
from .memory import family
from .records import Begun

METHOD = (
    "One `aesthetic curate score` of WebDataset tars (JPEG, JSON and text a sample) on one server "
    "process that answers at once with constant scores; files are sent as they are. Resident "
    "memory is that of the command's processes, summed, every `sample_every_s`; "
    "`late_over_early` compares the means of the last and the second quarter of the run, "
    "`worker_us_per_sample` is the processor time of the command's processes."
)
WARM_UP = 0.25  # of the run, before memory is compared

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """The data set, and how it is scored."""

    samples: int = 100_000
    samples_per_shard: int = 5_000
    workers: int = 1
    in_flight: int = 16
    sample_every_s: float = 0.5
    image_side: int = 320  # pixels; about 20 KB


def run(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """Make the data set, score it, and return one plain record."""
    begun = Begun()
    with tempfile.TemporaryDirectory() as folder, InstantServer() as server:
        say(f"making {settings.samples} samples")
        file_bytes = make_data_set(Path(folder, "in"), settings)
        say("scoring")
        measured = score(Path(folder), server, settings)
    return begun.record(
        KIND,
        METHOD,
        versions("none: the instant server", "none"),
        parameters={**asdict(settings), "image_bytes": file_bytes},
        **measured,
    )


def make_data_set(folder: Path, settings: Settings) -> int:
    """Tars as img2dataset writes them, of a few images again and again; an image's bytes."""
    folder.mkdir(parents=True)
    images = list(_images(settings.image_side))
    for start in range(0, settings.samples, settings.samples_per_shard):
        name = f"{start // settings.samples_per_shard:05d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.GNU_FORMAT) as tar:
            for index in range(start, min(start + settings.samples_per_shard, settings.samples)):
                caption = f"made-up sample {index}"
                fields = {"key": f"{index:09d}", "caption": caption, "similarity": index % 7 / 7}
                _add(tar, f"{index:09d}.jpg", images[index % len(images)])
                _add(tar, f"{index:09d}.json", json.dumps(fields).encode())
                _add(tar, f"{index:09d}.txt", caption.encode())
    return len(images[0])


def score(folder: Path, server: InstantServer, settings: Settings) -> dict[str, Any]:
    """Run the command; samples a second, processor time, and the memory over the run."""
    command = [
        *(sys.executable, "-m", "aesthetic_client.cli", "curate", "score"),
        *(str(folder / "in"), "-o", str(folder / "out"), "--url", server.urls["grpc"]),
        *("--workers", str(settings.workers), "--in-flight", str(settings.in_flight)),
        *("--embedding", "float16"),
    ]
    server_before_s, begun_s = cpu_s(server.pid), time.perf_counter()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    memory: list[tuple[float, float]] = []
    spent_s: dict[int, float] = {}
    while run.poll() is None:
        processes = family(run.pid)
        memory.append((time.perf_counter() - begun_s, sum(map(_resident_mib, processes))))
        for process in processes:
            try:
                spent_s[process] = cpu_s(process)
            except OSError:  # it has just ended
                continue
        time.sleep(settings.sample_every_s)
    took_s = time.perf_counter() - begun_s
    assert run.stdout is not None and run.stderr is not None
    with run:
        output, errors = run.communicate()
    if run.returncode:
        raise BenchError(f"aesthetic curate score failed with {run.returncode}: {errors.strip()}")
    scored = sum(
        json.loads(path.read_text("utf-8"))["statuses"]["ok"]
        for path in (folder / "out").glob("*_stats.json")
    )
    return {
        "scored": scored,
        "summary": output.splitlines()[0].partition(":")[0],
        "seconds": took_s,
        "samples_per_s": scored / took_s,
        "worker_us_per_sample": sum(spent_s.values()) / scored * 1e6,
        "server_us_per_sample": (cpu_s(server.pid) - server_before_s) / scored * 1e6,
        "memory": _memory(memory),
    }


def _memory(points: list[tuple[float, float]]) -> dict[str, Any]:
    """MiB over the run, thinned, and how the end compares with the second quarter."""
    values = np.array([mib for _, mib in points])
    quarter = max(1, int(len(values) * WARM_UP))
    early, late = values[quarter : 2 * quarter], values[-quarter:]
    step = max(1, len(points) // 100)
    return {
        "peak_mib": float(values.max()),
        "early_mib": float(early.mean()),
        "late_mib": float(late.mean()),
        "late_over_early": float(late.mean() / early.mean()),
        "points": [[round(at, 1), round(mib, 1)] for at, mib in points[::step]],
    }


def _resident_mib(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _images(side: int, count: int = 64) -> Iterator[bytes]:
    chance = np.random.default_rng(0)
    for _ in range(count):
        coarse = chance.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((side, side)).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
