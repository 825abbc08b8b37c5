"""From the turns of a run to its claims: rates, ratios, shares of the machine's limit, drift.

Pure functions over the plain values of a results file. A ratio is taken within each round, where
both sides met the same machine, and the median of the rounds counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .engine_rows import BATCHES, REFERENCE, Row
from .figures import rate_of
from .work import Shape, gflop_per_image

Found = Mapping[str, Any]
Scores = Mapping[str, Any]
Rates = Mapping[str, Mapping[str, float]]  # GFLOP/s by precision and library

SATURATED = max(BATCHES)  # what a saturated server is compared with


def drift(scores: Scores, reference: Scores) -> dict[str, Any]:
    """Points of score: over all heads and images, and of each head."""
    by_head = {
        head: np.abs(scores[head] - reference[head]).astype(np.float64) for head in reference
    }
    everything = np.concatenate(list(by_head.values()))
    return {
        "mean": float(everything.mean()),
        "largest": float(everything.max()),
        "mean_by_head": {head: float(values.mean()) for head, values in by_head.items()},
        "largest_by_head": {head: float(values.max()) for head, values in by_head.items()},
    }


def best_library(rates: Rates, precision: str) -> tuple[str, float]:
    """The library that multiplies fastest in a precision, and its GFLOP/s."""
    return max(rates[precision].items(), key=lambda pair: pair[1])


def limits(rounds: Sequence[Rates], shape: Shape) -> dict[str, Any]:
    """By precision: the machine's matrix rate, and the images/s that it would give."""
    gflop = gflop_per_image(shape)
    found = {}
    for precision in rounds[0]:
        rate = statistics.median(best_library(one, precision)[1] for one in rounds)
        found[precision] = {
            "gflop_per_s": rate,
            "images_per_s": rate / gflop,
            "by_library": {
                library: statistics.median(one[precision][library] for one in rounds)
                for library in rounds[0][precision]
            },
        }
    return found


def rows_of(
    rows: Mapping[str, Row],
    found: Mapping[str, Found],
    gflop_per_s: Sequence[Rates],
    drifts: Mapping[str, Any],
    shape: Shape,
) -> list[dict[str, Any]]:
    """Every row of the results file: what is known of it, its claims, and its turns."""
    reference = found[REFERENCE.name]["turns"]

    def composed(name: str, one: Found) -> dict[str, Any]:
        row = rows[one.get("bare_engine", name)]
        gflop = gflop_per_image(shape, class_token_only=row.class_token_only)
        beside = Beside(reference, gflop_per_s, gflop, row.precision)
        return {
            "name": name,
            "precision": row.precision,
            "profile": None if row.profile is None else row.name.removeprefix("profile "),
            "served": one.get("served"),
            "gflop_per_image": gflop,
            "load_s": _median(one["loads_s"]),
            "peak_rss_mib": one["peak_rss_mib"],
            "drift": drifts[name],
            **(
                {"saturation": beside.saturation(one["turns"], found[row.name]["turns"])}
                if "served" in one
                else {"batches": [beside.batch(one["turns"], batch) for batch in row.batches]}
            ),
            "turns": one["turns"],
        }

    order = list(rows)  # a profile's servers follow its engine
    return sorted(
        (composed(name, one) for name, one in found.items()),
        key=lambda made: order.index(found[made["name"]].get("bare_engine", made["name"])),
    )


class Beside:
    """A row's rates beside the reference's and the limit of the same rounds."""

    def __init__(
        self, reference: Sequence[Found], gflop_per_s: Sequence[Rates], gflop: float, precision: str
    ) -> None:
        self._reference = {turn["round"]: turn for turn in reference}
        self._limits = [best_library(one, precision)[1] / gflop for one in gflop_per_s]

    def batch(self, turns: Sequence[Found], batch: int) -> dict[str, float | int]:
        """One batch size of a loop."""
        rates = {turn["round"]: _rate(turn, batch) for turn in turns}
        return {"batch": batch, **self._claims(rates, batch)}

    def saturation(self, turns: Sequence[Found], bare: Sequence[Found]) -> dict[str, float]:
        """A saturated server, also beside the same profile's engine at its best batch size."""
        rates = {turn["round"]: turn["images_per_s"] for turn in turns}
        engine = {
            turn["round"]: max(rate["images_per_s"] for rate in turn["rates"]) for turn in bare
        }
        return {
            **self._claims(rates, SATURATED),
            "over_bare_engine": _median(rates[number] / engine[number] for number in rates),
            "mean_batch": _median(turn["mean_batch"] for turn in turns),
        }

    def _claims(self, rates: Mapping[int, float], batch: int) -> dict[str, float]:
        return {
            "images_per_s": _median(rates.values()),
            "over_reference": _median(
                rate / _rate(self._reference[number], batch) for number, rate in rates.items()
            ),
            "share_of_limit": _median(
                rate / self._limits[number] for number, rate in rates.items()
            ),
        }


def _rate(turn: Found, batch: int) -> float:
    rate = rate_of(turn, batch)
    assert rate is not None
    return rate


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))
