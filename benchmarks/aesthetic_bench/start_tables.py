"""A results file of start.py as tables. Computes nothing anew."""

from __future__ import annotations

from collections.abc import Iterable

from .tables import Record, Table, render_markdown

KIND = "start-cpu"


def introduction(record: Record) -> list[str]:
    """What the figures were measured on, and whether the target was met."""
    where, versions, parameters = record["machine"], record["versions"], record["parameters"]
    target = parameters["target_s"]
    return [
        f"{where['cpu']}, {where['usable_cores']} cores; ONNX Runtime {versions['onnxruntime']}, "
        f"OpenVINO {versions['openvino'] or 'not installed'}, Python {where['python']}; load "
        f"average {where['load_average_1min_before']} before, "
        f"{where['load_average_1min_after']} after",
        f"{record['date_utc']}, commit {versions['git_commit'] or 'unknown'}; median of "
        f"{parameters['rounds']} starts; weights: {record['weights']['weights']}",
        *(
            f"{name}: first score after {start['first_score_s']:.1f} s (slowest "
            f"{start['slowest_s']:.1f} s), "
            f"{'within' if start['slowest_s'] <= target else 'ABOVE'} {target:g} s"
            for name, start in record["starts"].items()
        ),
    ]


def tables(record: Record) -> list[Table]:
    """The stages one after another, and the models, which load at the same time."""
    starts = record["starts"]
    return [
        _table("From `aesthetic serve` to the first score, s", "stages_s", starts, total=True),
        _table("Of which each model, side by side, s", "models_s", starts, total=False),
    ]


def markdown(record: Record) -> str:
    """The whole file for a page."""
    return render_markdown(introduction(record), tables(record))


def _table(title: str, key: str, starts: Record, *, total: bool) -> Table:
    names: Iterable[str] = dict.fromkeys(name for start in starts.values() for name in start[key])
    rows = [(n, *(_s(start[key].get(n)) for start in starts.values())) for n in names]
    if total:
        rows.append(("first score", *(_s(start["first_score_s"]) for start in starts.values())))
    return Table(title, ("", *starts), tuple(rows))


def _s(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"
