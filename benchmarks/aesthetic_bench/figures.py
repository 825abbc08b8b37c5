"""From measurements to claims: what saturation costs beside the bare engine, stage by stage.

Pure functions over the plain values of a results file, so that its claims can be computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aesthetic_client import contract

from .errors import BenchError

Record = Mapping[str, Any]

IMAGE_MODELS = (contract.AESTHETIC.name, contract.AESTHETIC_PIXELS.name)
TOWER = contract.CLIP_IMAGE.name


def rate_of(run: Record, batch: int) -> float | None:
    """A loop's images/s at a batch size, None where that was not run."""
    return next((r["images_per_s"] for r in run["rates"] if r["batch"] == batch), None)


def mean_rate(runs: Sequence[Record], batch: int) -> float:
    """Mean images/s of several runs of the same loop. Raises BenchError where none ran."""
    rates = [rate for run in runs if (rate := rate_of(run, batch)) is not None]
    if not rates:
        raise BenchError(f"nothing ran at batch {batch}")
    return sum(rates) / len(rates)


def best_rate(runs: Sequence[Record]) -> tuple[int, float]:
    """The batch size with the most images/s, and that rate: means over the runs."""
    batches = {rate["batch"] for run in runs for rate in run["rates"]}
    return max(((batch, mean_rate(runs, batch)) for batch in batches), key=lambda pair: pair[1])


def neighbours(runs: Sequence[Record], steps: Sequence[int]) -> list[Record]:
    """The run right before the first of `steps` and the one right after the last of them."""
    before = [run for run in runs if run["step"] < min(steps)][-1:]
    after = [run for run in runs if run["step"] > max(steps)][:1]
    return before + after


def saturation_case(served: Sequence[Record], model: str) -> Record | None:
    """The case with the most requests in flight, chosen before anything is known of its speed."""
    cases = [case for case in served if case["model"] == model]
    return max(cases, key=lambda case: case["concurrency"]) if cases else None


def saturation(
    served: Sequence[Record], bare: Sequence[Record], model: str, instances: int
) -> dict[str, Any] | None:
    """One ensemble at saturation against the bare engine at its best batch, in ms of an image.

    The parts of `time_per_image_ms` add up to it: the bare engine, what the tower takes longer
    inside the server, handing its tensors in and out, and the tower's waiting for work.
    """
    case = saturation_case(served, model)
    if case is None:
        return None
    steps = [other["step"] for other in served if other["model"] == model]
    beside = neighbours(bare, steps)
    batch, engine_rate = best_rate(beside)
    total_ms, engine_ms = 1e3 / case["images_per_s"], 1e3 / engine_rate
    tower = case["models"][TOWER]
    # Each of several instances is busy by itself.
    infer_ms = tower["compute_infer_ms_per_item"] / instances
    busy_ms = tower["busy_ms_per_item"] / instances
    others = {name: work for name, work in case["models"].items() if name not in (TOWER, model)}
    return {
        "concurrency": case["concurrency"],
        "images_per_s": case["images_per_s"],
        "mean_batch": tower["mean_batch"],
        "bare_engine_images_per_s": engine_rate,
        "bare_engine_batch": batch,
        "bare_engine_steps": [run["step"] for run in beside],
        "share_of_time_outside_engine": 1 - case["images_per_s"] / engine_rate,
        "time_per_image_ms": {
            "total": total_ms,
            "bare_engine": engine_ms,
            "tower_slower_than_bare": infer_ms - engine_ms,
            "tower_input_and_output": busy_ms - infer_ms,
            "tower_waiting": total_ms - busy_ms,
        },
        # On the same cores, while the tower computes; part of `tower_slower_than_bare`.
        "beside_the_tower_ms_per_image": {
            name: work["busy_ms_per_item"] for name, work in others.items()
        },
    }


def ratios(
    served: Sequence[Record],
    bare: Sequence[Record],
    torch_runs: Sequence[Record],
    instances: int,
) -> dict[str, Any]:
    """The claims, without units: what other machines of the kind should find again."""
    found: dict[str, Any] = {"served_over_bare_engine": {}}
    for model in IMAGE_MODELS:
        point = saturation(served, bare, model, instances)
        if point is None:
            continue
        ratio = point["images_per_s"] / point["bare_engine_images_per_s"]
        found["served_over_bare_engine"][model] = ratio
        for batch in _batches(torch_runs):
            key = f"served_over_torch_loop_batch_{batch}"
            rate = mean_rate(torch_runs, batch)
            found.setdefault(key, {})[model] = point["images_per_s"] / rate
    batch, rate = best_rate(bare)
    for loop_batch in _batches(torch_runs):
        key = f"bare_engine_over_torch_loop_batch_{loop_batch}"
        found[key] = rate / mean_rate(torch_runs, loop_batch)
    # How far the machine itself moved during the run: no ratio above is better than this.
    found["last_over_first_bare_engine"] = mean_rate(bare[-1:], batch) / mean_rate(bare[:1], batch)
    return found


def _batches(runs: Sequence[Record]) -> list[int]:
    return sorted({rate["batch"] for run in runs for rate in run["rates"]})
