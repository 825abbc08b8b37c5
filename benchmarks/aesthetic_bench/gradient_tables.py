"""A results file of gradient.py as tables. Computes nothing anew but the ratio it shows."""

from __future__ import annotations

from .tables import Record, Table, number, render_markdown

KIND = "gradient-cpu"
SERVED, LOCAL = "served", "local torch autograd"


def introduction(record: Record) -> list[str]:
    """What the figures were measured on."""
    where, found, parameters = record["machine"], record["versions"], record["parameters"]
    return [
        f"{where['cpu']}, {where['usable_cores']} cores; Triton {found['triton']}, ONNX Runtime "
        f"{found['onnxruntime']}, torch {found['torch']} on {parameters['torch_threads']} threads, "
        f"Python {where['python']}; load average {where['load_average_1min_before']} before",
        f"{record['date_utc']}, commit {found['git_commit'] or 'unknown'}; images of "
        f"{parameters['side']}x{parameters['side']}, medians over {parameters['rounds']} rounds; "
        f"weights: {record['weights']}",
    ]


def tables(record: Record) -> list[Table]:
    """Milliseconds a call by batch size, side by side."""
    by_case = {(case["way"], case["batch"]): case for case in record["cases"]}
    batches = list(dict.fromkeys(case["batch"] for case in record["cases"]))
    rows = []
    for batch in batches:
        served, local = (by_case[way, batch]["execution_p50_ms"] for way in (SERVED, LOCAL))
        difference = by_case[SERVED, batch]["gradient_difference"]
        rows.append(
            (
                str(batch),
                number(served),
                number(local),
                number(served / local),
                f"{difference:.1e}",
            )
        )
    header = (
        "batch",
        "served, ms a call",
        "local torch autograd, ms",
        "served / local",
        "gradients differ by",
    )
    return [Table("Score and gradient to the pixels", header, tuple(rows))]


def markdown(record: Record) -> str:
    """The whole file for a README."""
    return render_markdown(introduction(record), tables(record))
