"""A results file of latency.py as tables. Computes nothing anew."""

from __future__ import annotations

from collections.abc import Sequence

from .tables import Record, Table, quiet_warning, render_markdown

KIND = "latency-cpu"


def introduction(record: Record) -> list[str]:
    """What the figures were measured on, and whether the target was met."""
    where, versions, parameters = record["machine"], record["versions"], record["parameters"]
    images = parameters["images"]
    lines = [
        f"{where['cpu']}, {where['usable_cores']} cores; Triton {versions['triton']}, "
        f"Python {where['python']}; load average {where['load_average_1min_before']} before, "
        f"{where['load_average_1min_after']} after",
        f"profile {parameters['profile']}, queue delay {parameters['max_queue_delay_us']} us; "
        f"{images['count']} images of {images['mean_megapixels']:.1f} megapixels, "
        f"{images['origin']}; weights: {record['weights']['weights']}",
        f"{record['date_utc']}, commit {versions['git_commit'] or 'unknown'}; median of "
        f"{parameters['turns']} turns",
    ]
    for name, tower in record["towers"].items():
        lines += [
            f"{name}, {way}: {found['overhead_ms']:.1f} ms beside engine"
            f"{' and decoding' if 'preprocess: engine' in found['stages_ms'] else ''}, "
            f"{'within' if found['overhead_ms'] <= parameters['target_ms'] else 'ABOVE'} "
            f"{parameters['target_ms']:g} ms"
            for way, found in tower["ways"].items()
        ]
    return lines + quiet_warning([tower["company"] for tower in record["towers"].values()])


def tables(record: Record) -> list[Table]:
    """A table a tower: where a request's time goes."""
    return [_stages(name, tower) for name, tower in record["towers"].items()]


def markdown(record: Record) -> str:
    """The whole file for a page."""
    return render_markdown(introduction(record), tables(record))


def _stages(name: str, tower: Record) -> Table:
    ways = tower["ways"]
    stages = list(dict.fromkeys(stage for way in ways.values() for stage in way["stages_ms"]))
    ends = ["total", "overhead"]
    order = [stage for stage in stages if stage not in ends] + ends
    rows: list[tuple[str, ...]] = [
        (stage, *_cells([way["stages_ms"].get(stage) for way in ways.values()])) for stage in order
    ]
    rows += [(key, *_cells([way[f"{key}_ms"] for way in ways.values()])) for key in ("p50", "p90")]
    return Table(f"A single image, {name}, ms", ("stage", *ways), tuple(rows))


def _cells(values: Sequence[float | None]) -> list[str]:
    return ["" if value is None else f"{value:,.2f}" for value in values]
