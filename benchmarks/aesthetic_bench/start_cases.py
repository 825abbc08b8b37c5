"""`aesthetic serve`, from the command to the first score that a client has from it."""

from __future__ import annotations

import datetime
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np

from aesthetic_client import Client, contract
from aesthetic_serve.ports import choose_ports

from .children import LAST_LINES, child_environment, end_child
from .company import Ticks
from .errors import BenchError
from .machine import versions
from .provenance import TOWER, read_provenance, weights_of
from .records import Begun
from .start_tables import KIND

TARGET_S = 15.0
LIMIT_S = 300.0
READY = "Triton is ready"  # the first line that `aesthetic serve` prints
# "I1120 19:23:14.683107 32322 file.cc:273] ..."; the rest names what is loaded.
LOG_LINE = re.compile(r"^[IWE]\d{4} (\d\d):(\d\d):(\d\d\.\d+) .*?\] (.*)$", re.MULTILINE)
LOADING, LOADED = re.compile(r'"loading: (\w+):'), re.compile(r"\"successfully loaded '(\w+)'")
ZONE_S = 900.0  # time zones lie whole quarters of an hour apart
METHOD = (
    "A process of `aesthetic serve` as a user types it, and a client, already imported, that "
    "scores one image's pixels as soon as the command says that it is ready. Stages follow one "
    "another: until Triton's first line in its log, until it begins to load models, until the last "
    "one is loaded (its warm-up included), until the command has scored its canary and says so, "
    "until the client has its score. Models load at the same time; a model's own time is from "
    "`loading` to `successfully loaded`. Warm: the files in the page cache. Cold: out of it, as "
    "far as the kernel drops them when asked."
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class StartSettings:
    """A run. Without `profiles` those that are in the repository."""

    repository: Path
    profiles: tuple[str, ...] = ()
    rounds: int = 3
    cold: bool = False


def run(settings: StartSettings, say: Say = lambda _: None) -> dict[str, Any]:
    """The record of one run. Raises BenchError."""
    begun = Begun()
    provenance = read_provenance(settings.repository)
    profiles = settings.profiles or tuple(_profiles(settings.repository))
    caches = ("cold", "warm") if settings.cold else ("warm",)
    found: dict[str, list[dict[str, Any]]] = {f"{p}, {c}": [] for p in profiles for c in caches}
    with TemporaryDirectory(prefix="aesthetic-bench-") as scratch:
        for profile in profiles:
            _read_all(settings.repository, profile)
        for number in range(settings.rounds):
            for profile in profiles:
                for cache in caches:
                    say(f"round {number + 1} of {settings.rounds}: {profile}, {cache}")
                    if cache == "cold":
                        _drop_from_cache(settings.repository)
                    started = start_once(settings.repository, profile, Path(scratch))
                    found[f"{profile}, {cache}"].append(started)
    return begun.record(
        KIND,
        METHOD,
        versions("2.51.0 of the serve extra", "none"),
        weights=weights_of(provenance),
        parameters={"rounds": settings.rounds, "target_s": TARGET_S},
        starts={name: {**_medians(starts), "rounds": starts} for name, starts in found.items()},
    )


def start_once(repository: Path, profile: str, scratch: Path) -> dict[str, Any]:
    """One start: `first_score_s`, the stages that add up to it, and each model's own time."""
    ports = choose_ports(None, None, None)
    log, errors = scratch / "server.log", scratch / "serve.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "aesthetic_client.cli", "serve"]
    command += ["--repository", str(repository), "--profile", profile, "--log-file", str(log)]
    for name in ("grpc", "http", "metrics"):
        command += [f"--{name}-port", str(getattr(ports, name))]
    pixels = np.zeros((contract.IMAGE_SIZE, contract.IMAGE_SIZE, 3), np.uint8)
    before, begin, clock = Ticks.now(), time.perf_counter(), time.time()
    with errors.open("wb") as stderr, Client(f"grpc://127.0.0.1:{ports.grpc}") as client:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            _wait_for_ready(child.stdout, errors)
            ready_s = time.perf_counter() - begin
            client.score(pixels)
            score_s = time.perf_counter() - begin
            company = Ticks.now()
        finally:
            end_child(child)
    stages, models = read_log(log.read_text("utf-8", errors="replace"), clock, ready_s, score_s)
    return {
        "first_score_s": score_s,
        "stages_s": stages,
        "models_s": models,
        "stolen_share_of_cpu": company.company_since(before)["stolen_share_of_cpu"],
    }


def read_log(
    text: str, clock: float, ready_s: float, score_s: float
) -> tuple[dict[str, float], dict[str, float]]:
    """The stages of a start, which add up to `score_s`, and each model's time, in seconds.

    `clock` is the command's start on the wall's clock; the log's time zone does not matter.
    Raises BenchError for a log that tells nothing of models.
    """
    lines = [(_since(clock, *match.groups()[:3]), match[4]) for match in LOG_LINE.finditer(text)]
    began = {m[1]: at for at, line in lines if (m := LOADING.match(line))}
    ended = {m[1]: at for at, line in lines if (m := LOADED.match(line))}
    if not began or set(began) != set(ended):
        raise BenchError("the server's log does not say when its models were loaded")
    marks = [0.0, lines[0][0], min(began.values()), max(ended.values()), ready_s, score_s]
    names = ("launcher", "Triton itself", "models", "canary", "client's score")
    stages = {
        name: after - before for name, before, after in zip(names, marks, marks[1:], strict=False)
    }
    return stages, {name: ended[name] - at for name, at in began.items()}


def _since(clock: float, hours: str, minutes: str, seconds: str) -> float:
    """Seconds from `clock` to a time of day of some time zone, less than a quarter of an hour."""
    start = datetime.datetime.fromtimestamp(clock, datetime.timezone.utc)
    started = start.minute * 60 + start.second + start.microsecond / 1e6
    return (int(minutes) * 60 + float(seconds) - started) % ZONE_S


def _wait_for_ready(said: IO[str] | None, errors: Path) -> None:
    assert said is not None
    for line in said:
        if line.startswith(READY):
            return
    lines = errors.read_text("utf-8", errors="replace").strip().splitlines()
    shown = "\n".join(lines[-LAST_LINES:])
    raise BenchError(f"aesthetic serve ended without being ready; its last lines:\n{shown}")


def _profiles(repository: Path) -> Iterator[str]:
    for name, profile in contract.CPU_PROFILES.items():
        if list((repository / TOWER).glob(f"*/{profile.artifact}")):
            yield name


def _files(repository: Path) -> Iterator[Path]:
    return (path for path in repository.rglob("*") if path.is_file())


def _read_all(repository: Path, profile: str) -> None:
    """Into the page cache: what the profile serves."""
    chosen = contract.CPU_PROFILES[profile]
    for path in (repository / TOWER).glob("*/*"):
        if path.name in (chosen.artifact, chosen.weights_file):
            with path.open("rb") as stream:
                while stream.read(1 << 24):
                    pass


def _drop_from_cache(repository: Path) -> None:
    for path in _files(repository):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())  # what was not written yet cannot be dropped
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _medians(starts: list[dict[str, Any]]) -> dict[str, Any]:
    def of(key: str) -> dict[str, float]:
        names: Mapping[str, float] = starts[0][key]
        return {name: statistics.median(start[key][name] for start in starts) for name in names}

    return {
        "first_score_s": statistics.median(start["first_score_s"] for start in starts),
        "slowest_s": max(start["first_score_s"] for start in starts),
        "stages_s": of("stages_s"),
        "models_s": of("models_s"),
    }
