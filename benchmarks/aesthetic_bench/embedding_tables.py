"""A results file of embeddings.py as tables. Computes nothing anew."""

from __future__ import annotations

from .tables import Record, Table, number, render_markdown

KIND = "embeddings-cpu"
MILLION = 1e6


def introduction(record: Record) -> list[str]:
    """What the figures were measured on."""
    where, found, parameters = record["machine"], record["versions"], record["parameters"]
    return [
        f"{where['cpu']}, {where['usable_cores']} cores; Triton {found['triton']}, numpy "
        f"{found['numpy']}, pyarrow {found['pyarrow']}, torch {found['torch']}, Python "
        f"{where['python']}; load average {where['load_average_1min_before']} before, "
        f"{where['load_average_1min_after']} after",
        f"{record['date_utc']}, commit {found['git_commit'] or 'unknown'}; {parameters['rows']} "
        f"vectors a file, median of {parameters['rounds']} rounds of {parameters['seconds']:g} s; "
        f"weights: {record['weights']}",
    ]


def tables(record: Record) -> list[Table]:
    """Ways by files: millions of vectors a minute, and what a vector costs."""
    storages = list(dict.fromkeys(case["storage"] for case in record["cases"]))
    ways = list(dict.fromkeys(case["way"] for case in record["cases"]))
    by_place = {(case["way"], case["storage"]): case for case in record["cases"]}

    def table(title: str, key: str, unit: float) -> Table:
        rows = tuple(
            (way, *(number(by_place[way, storage][key] / unit) for storage in storages))
            for way in ways
        )
        return Table(title, ("", *storages), rows)

    return [
        table("Millions of stored embeddings a minute", "vectors_per_minute", MILLION),
        table("Processor time of the client a vector, ns", "ns_per_vector", 1),
        table(
            "Share of the processors that others took, the server among them",
            "other_processes_share_of_cpu",
            1,
        ),
    ]


def markdown(record: Record) -> str:
    """The whole file for a README."""
    return render_markdown(introduction(record), tables(record))
