"""What a run does: its parameters, and its steps in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aesthetic_client import contract

SCHEMA = 1  # of the results file

BARE, TORCH, START, STOP = "bare engine", "torch loop", "start server", "stop server"
AESTHETIC = contract.AESTHETIC.name
PIXELS = contract.AESTHETIC_PIXELS.name
HEADS = contract.AESTHETIC_HEADS.name

# The engine runs right before and right after each ensemble it is compared with, and the two loops
# begin and end the run: a machine that drifts shows it, and drifts for all alike.
FULL_STEPS = (BARE, TORCH, START, AESTHETIC, BARE, PIXELS, BARE, HEADS, STOP, TORCH)
QUICK_STEPS = (BARE, TORCH, START, AESTHETIC, PIXELS, BARE, HEADS, STOP)

FULL_SECONDS, QUICK_SECONDS = 20.0, 6.0
FULL_CONCURRENCY, QUICK_CONCURRENCY = (1, 2, 4, 8, 16), (1, 16)

# (items a request, requests in flight) for stored embeddings: one, a page of them, a message full.
HEADS_CASES = ((1, 1), (1, 16), (256, 4), (contract.MAX_EMBEDDING_BATCH, 2))
BARE_BATCHES, QUICK_BARE_BATCHES = (1, 4, 8), (1, 8)
TORCH_BATCHES = (1, 8)
MAX_REQUESTS = 256  # of a case whose requests are timed one by one


@dataclass(frozen=True)
class Settings:
    """A run. `seconds` is what each served case aims at; the loops follow it."""

    repository: Path
    images: Path | None = None  # None: made up
    perf_analyzer: Path | None = None  # None: the installed one
    concurrency: tuple[int, ...] = FULL_CONCURRENCY
    seconds: float = FULL_SECONDS
    quick: bool = False
    weights: str | None = None  # of the torch loop, as `aesthetic export --weights` takes them
    tower: str | None = None  # the same as MODULE:FUNCTION, for towers that nobody published
    profile: contract.Profile = contract.DEFAULT_PROFILE

    @property
    def steps(self) -> tuple[str, ...]:
        return QUICK_STEPS if self.quick else FULL_STEPS

    @property
    def bare_batches(self) -> tuple[int, ...]:
        return QUICK_BARE_BATCHES if self.quick else BARE_BATCHES

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; no paths."""
        return {
            "quick": self.quick,
            "profile": self.profile.name or self.profile.precision,
            "aimed_seconds_per_case": self.seconds,
            "concurrency": list(self.concurrency),
            "heads_batch_and_concurrency": [list(case) for case in HEADS_CASES],
            "bare_engine_batches": list(self.bare_batches),
            "torch_loop_batches": list(TORCH_BATCHES),
            "protocol": "gRPC on 127.0.0.1, no shared memory",
        }


def parse_concurrency(text: str) -> tuple[int, ...]:
    """`1:16` doubles from 1 up to 16, which is always the last; `1,4,16` and `8` are as they say.

    Raises ValueError for anything else.
    """
    if ":" in text:
        first, last = (int(part) for part in text.split(":"))
        doubled = [first * 2**i for i in range(16)]
        values = [value for value in doubled if value < last] + [last] * (first <= last)
    else:
        values = [int(part) for part in text.split(",")]
    if not values or values[0] < 1 or sorted(set(values)) != values:
        raise ValueError(f"{text!r} is no rising list of requests in flight, such as 1:16 or 1,4,8")
    return tuple(values)


def requests_for(concurrency: int, images_per_s: float, seconds: float, *, quick: bool) -> int:
    """How many requests keep a case going for about `seconds`.

    A multiple of the concurrency, and so many rounds of it that the ends of the job, where fewer
    are in flight, weigh little.
    """
    rounds = (2 if quick else 3) if concurrency > contract.MAX_IMAGE_BATCH else 2
    wanted = max(rounds * concurrency, 4 if quick else 8, round(images_per_s * seconds))
    # perf_analyzer keeps every request's input in memory and writes it out: 150 MB of pixels.
    return -(-min(wanted, max(MAX_REQUESTS, concurrency)) // concurrency) * concurrency
