"""The parameters of a run of engines.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engine_kinds import LOADERS
from .engine_rows import BATCHES

IN_FLIGHT = 16  # requests that saturate the server: two batches


@dataclass(frozen=True)
class EngineSettings:
    """A run. A round gives every row one turn, and some rounds every server."""

    repository: Path
    images: Path | None = None  # None: made up
    perf_analyzer: Path | None = None  # None: the installed one
    weights: str | None = None  # of the torch rows, as `aesthetic export --weights` takes them
    tower: str | None = None  # the same as MODULE:FUNCTION, for towers that nobody published
    kinds: frozenset[str] = frozenset(LOADERS)  # of rows; the reference's is always measured
    quick: bool = False
    served: bool = True
    rounds: int = 3
    served_rounds: int = 2  # the last ones of the rounds
    turn_s: float = 1.0  # each batch size runs once, and again until this has passed
    matrix_s: float = 0.5  # of each number type and library
    served_s: float = 10.0  # what each served case aims at

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; no paths."""
        return {
            "quick": self.quick,
            "kinds": sorted(self.kinds),
            "rounds": self.rounds,
            "served_rounds": self.served_rounds if self.served else 0,
            "turn_s": self.turn_s,
            "matrix_s": self.matrix_s,
            "served_s": self.served_s,
            "batches": list(BATCHES),
            "served_in_flight": IN_FLIGHT,
        }


QUICK: dict[str, Any] = {
    "quick": True,
    "rounds": 1,
    "served_rounds": 1,
    "turn_s": 0.5,
    "matrix_s": 0.1,
    "served_s": 5.0,
}
