"""Seconds a gradient: served, beside torch's autograd through the same tower in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aesthetic_client import Client
from aesthetic_client.contract import AESTHETIC_GRADIENT, MAX_IMAGE_BATCH

from .company import Ticks
from .errors import BenchError
from .gradient_tables import KIND, LOCAL, SERVED
from .machine import versions
from .measurements import Rate
from .records import Begun
from .torch_loop import choose_tower, load_tower

if TYPE_CHECKING:
    import torch

Say = Callable[[str], None]
Way = Callable[["torch.Tensor"], tuple["torch.Tensor", "torch.Tensor"]]  # -> scores, gradients

BATCHES = (1, 4, MAX_IMAGE_BATCH)
HEAD_LENGTH = 18.0  # of the vector that stands for a head; the default head's folded weight's
SAME_GRADIENT = 1e-3  # of its length; above it the two are of other weights
TIMEOUT_S = 600.0
METHOD = (
    "A call is score and gradient of a batch of square float images: resize, tower, head, and all "
    "the way back. Served: RemoteAestheticScorer over gRPC, one request. Local: AestheticScorer, "
    "fp32, torch's autograd. Both within this program, in turns: in every round, every batch size "
    "goes served, then local, one call each for batches above one and three for one image; the "
    "other's processors idle meanwhile. The medians of the calls count. Each has been called once "
    "before, at every size. The server's memory is not counted."
)


@dataclass(frozen=True)
class Settings:
    """A run. `url` is a server of `repository`, None to start one; `weights` or `factory` name the
    served tower, None where provenance says how it was seeded. Images are `side` pixels wide.
    """

    repository: Path
    url: str | None = None
    weights: str | None = None
    factory: str | None = None
    side: int = 512
    rounds: int = 5


def run(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """The record of one run. Raises BenchError, InputError or a ServeError."""
    import torch

    begun = Begun()
    with ExitStack() as stack:
        url = settings.url or _start(settings, stack, say)
        client = stack.enter_context(Client(url, timeout_s=TIMEOUT_S))
        known = client.provenance([AESTHETIC_GRADIENT]).get(AESTHETIC_GRADIENT.name, {})
        ways = _ways(settings, client, known, say)
        generator = torch.Generator().manual_seed(0)
        shape = (BATCHES[-1], 3, settings.side, settings.side)
        images = torch.rand(shape, generator=generator) * 0.8 + 0.1
        differences = {}
        for batch in BATCHES:
            say(f"comparing batches of {batch}")
            differences[batch] = _compared(ways, images[:batch])
        times: dict[tuple[str, int], list[float]] = {(w, b): [] for b in BATCHES for w in ways}
        before = Ticks.now()
        for number in range(settings.rounds):
            say(f"round {number + 1} of {settings.rounds}")
            for (way, batch), measured in times.items():
                for _ in range(3 if batch == 1 else 1):
                    begin = time.perf_counter()
                    ways[way](images[:batch])
                    measured.append(time.perf_counter() - begin)
        company = Ticks.now().company_since(before)
        served = client.health().server
    return begun.record(
        KIND,
        METHOD,
        versions(served.removeprefix("triton "), "none"),
        weights=str(known.get("weights", "unknown")),
        parameters={
            "side": settings.side,
            "rounds": settings.rounds,
            "torch_threads": torch.get_num_threads(),
        },
        # The server's own work is in it: what is not is the machine's other company.
        **company,
        cases=[
            {"way": way, **Rate(batch, tuple(found)).as_dict(), **differences[batch]}
            for (way, batch), found in times.items()
        ],
    )


def _ways(settings: Settings, client: Client, known: dict[str, Any], say: Say) -> dict[str, Way]:
    from aesthetic_export.samples import unit_vectors
    from aesthetic_guidance.remote import RemoteAestheticScorer
    from aesthetic_guidance.scorer import AestheticScorer

    asked, why_not = choose_tower(known, settings.weights, settings.factory)
    if asked is None:
        raise BenchError(why_not)
    say("loading the tower")
    head = HEAD_LENGTH * unit_vectors(1)[0]
    served = RemoteAestheticScorer(client, head)
    local = AestheticScorer(load_tower(asked), head)
    return {SERVED: _way(served.score), LOCAL: _way(local.score)}


def _way(score: Callable[[torch.Tensor], torch.Tensor]) -> Way:
    def call(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = images.detach().requires_grad_()
        scores = score(images)
        scores.sum().backward()
        assert images.grad is not None
        return scores.detach(), images.grad

    return call


def _compared(ways: dict[str, Way], images: torch.Tensor) -> dict[str, float]:
    """That both do the same work. Raises BenchError. Also what warms each of them up."""
    (scores, gradients), (others, wanted) = ways[SERVED](images), ways[LOCAL](images)
    difference = float((gradients - wanted).norm() / wanted.norm())
    if not difference <= SAME_GRADIENT:
        raise BenchError(
            f"served and local gradients differ by {difference:.1e} of their length: they are not "
            "of the same weights; name the served tower's with --weights"
        )
    return {
        "score_difference": float((scores - others).abs().max()),
        "gradient_difference": difference,
    }


def _start(settings: Settings, stack: ExitStack, say: Say) -> str:
    from aesthetic_serve import EmbeddedServer

    say("starting Triton")
    # Not supervised: its canary images would take processor time.
    return stack.enter_context(EmbeddedServer(settings.repository, supervise=False)).grpc_url
