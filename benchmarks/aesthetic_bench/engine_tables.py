"""A results file of engines.py as tables. Computes nothing anew."""

from __future__ import annotations

from aesthetic_client import contract

from .tables import Record, Table, number, quiet_warning, render_markdown

SCORE = contract.DEFAULT_HEAD.output
KIND = "engines-cpu"
MARKS = ("<!-- engines -->", "<!-- /engines -->")
PLOT = "![Images a second, by engine](benchmarks/results/engines-cpu.svg)"
LOWER_BOUND = (
    "weights: {weights}: scores are meaningless, and their drift is a lower bound, since trained "
    "towers have outliers among their activations"
)


def introduction(record: Record) -> list[str]:
    """What the figures were measured on."""
    where, found, images = record["machine"], record["versions"], record["parameters"]["images"]
    weights = record["weights"]["weights"]
    seeded = LOWER_BOUND.format(weights=weights.partition(",")[0])
    names = ("onnxruntime", "openvino", "torch", "transformers", "triton")
    lines = [
        f"{where['cpu']}, {where['usable_cores']} cores, {where['memory_gib']} GiB; "
        + ", ".join(f"{name} {found[name]}" for name in names if found.get(name)),
        f"{images['count']} images, {images['origin']}; "
        + (seeded if weights.startswith("seeded") else f"weights: {weights}"),
        f"{record['date_utc']}, commit {found['git_commit'] or 'unknown'}; matrix limit: "
        + ", ".join(
            f"{precision} {number(limit['gflop_per_s'])} GFLOP/s = "
            f"{number(limit['images_per_s'])} images/s"
            for precision, limit in record["limits"].items()
        )
        + (", a quick run: see the full one for claims" if record["parameters"]["quick"] else ""),
    ]
    turns = [turn for row in record["rows"] if not row["served"] for turn in row["turns"]]
    skipped = [f"not measured: {name}: {reason}" for name, reason in record["skipped"].items()]
    return [*lines, *quiet_warning(turns), *skipped]


def tables(record: Record) -> list[Table]:
    """Every row once: its rates and ratios, its share of the limit, its price."""
    batches = sorted({one["batch"] for row in record["rows"] for one in row.get("batches", [])})
    columns = (
        "images/s (x torch eager fp32)",
        *(f"batch {batch}" for batch in batches),
        "saturated",
        "of matrix limit",
        "peak RAM, GiB",
        "load, s",
        "default head's drift, mean / largest",
    )
    rows = tuple(_row(row, batches) for row in record["rows"])
    return [Table("One tower, every engine", columns, rows)]


def markdown(record: Record) -> str:
    """The whole file."""
    return render_markdown(introduction(record), tables(record))


def readme_block(record: Record) -> str:
    """What stands in README, from its first mark to its last: the plot and the table.

    How a saturated server compares with its bare engine is serving.py's to say, which measures the
    engine right before and right after.
    """
    return f"{MARKS[0]}\n{PLOT}\n\n{markdown(record)}{MARKS[1]}"


def _row(row: Record, batches: list[int]) -> tuple[str, ...]:
    by_batch = {one["batch"]: one for one in row.get("batches", [])}
    claims = [*by_batch.values(), *([row["saturation"]] if row["served"] else [])]
    return (
        row["name"],
        *(_rate(by_batch.get(batch)) for batch in batches),
        _rate(row.get("saturation")),
        f"{max(claim['share_of_limit'] for claim in claims):.0%} {row['precision']}",
        f"{row['peak_rss_mib'] / 1024:.1f}",
        number(row["load_s"]),
        f"{_points(row['drift']['mean_by_head'][SCORE])} / "
        f"{_points(row['drift']['largest_by_head'][SCORE])}",
    )


def _rate(claim: Record | None) -> str:
    if claim is None:
        return ""
    return f"{number(claim['images_per_s'])} ({claim['over_reference']:.2f}x)"


def _points(value: float) -> str:
    """Two digits of what is no rounding of fp32."""
    return "0" if value == 0 else f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"
