"""A results file as tables, for a terminal and for a README. Computes nothing anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.table

Record = Mapping[str, Any]

README_MARKS = ("<!-- benchmark -->", "<!-- /benchmark -->")
QUIET_SHARE = 0.05  # of all processors' time, to others, above which a reader is warned
SWEEP_COLUMNS = ("model x items of a request", "in flight")
PERCENTILES = {"p50 ms": "p50_ms", "p95 ms": "p95_ms", "p99 ms": "p99_ms"}
STAGES = {
    "queue ms a request": "queue_ms_per_request",
    "input ms a batch": "compute_input_ms_per_execution",
    "compute ms a batch": "compute_infer_ms_per_execution",
    "output ms a batch": "compute_output_ms_per_execution",
}


@dataclass(frozen=True)
class Table:
    """A title, column names, and rows of text; the first column is words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(record: Record) -> list[Table]:
    """Every table of a results file."""
    return [
        _side_by_side(record),
        *_sweeps(record),
        *_time_of_an_image(record),
        _stages(record),
    ]


def introduction(record: Record) -> list[str]:
    """What the figures were measured on, in lines."""
    machine, versions = record["machine"], record["versions"]
    images = record["parameters"]["images"]
    lines = [
        f"{machine['cpu']}, {machine['usable_cores']} cores, {machine['memory_gib']} GiB; "
        f"Triton {versions['triton']}, ONNX Runtime {versions['onnxruntime']}, "
        f"torch {versions['torch']}, perf_analyzer {versions['perf_analyzer']}",
        f"{images['count']} images ({', '.join(images['formats'])}, "
        f"{images['mean_megapixels']:.1f} megapixels), {images['origin']}; "
        f"weights: {record['weights']['weights']}",
        f"{record['date_utc']}, commit {versions['git_commit'] or 'unknown'}"
        + (", a quick run: see the full one for claims" if record["parameters"]["quick"] else ""),
    ]
    lines += _warnings(record)
    if reason := record["torch_loop"].get("skipped"):
        lines.append(f"no torch loop: {reason}")
    return lines


def quiet_warning(runs: Sequence[Record]) -> list[str]:
    """A line where others took part of the machine while any of these loops ran."""
    company = max(run["other_processes_share_of_cpu"] + run["stolen_share_of_cpu"] for run in runs)
    if company <= QUIET_SHARE:
        return []
    return [
        f"NOT A QUIET MACHINE: others took up to {company:.0%} of its processors while the "
        "loops ran; these figures are no ground for claims"
    ]


def markdown(record: Record) -> str:
    """The whole file for a README."""
    return render_markdown(introduction(record), tables(record))


def readme_block(records: Sequence[Record]) -> str:
    """Runs of several profiles at saturation, as README shows them, marks and all: one table.

    The columns are the first one's; a ratio that another one lacks stays empty.
    """
    found = [_side_by_side(record) for record in records]
    columns = found[0].columns
    rows = []
    for record, table in zip(records, found, strict=True):
        for row in table.rows:
            by_column = dict(zip(table.columns, row, strict=True))
            cells = (by_column.get(column, "") for column in columns)
            rows.append((record["parameters"]["profile"], *cells))
    shown = Table(found[0].title, ("profile", *columns), tuple(rows))
    warnings = [
        f"{record['parameters']['profile']}: {line}"
        for record in records[1:]
        for line in _warnings(record)
    ]
    text = render_markdown([*introduction(records[0]), *warnings], [shown])
    return f"{README_MARKS[0]}\n{text}{README_MARKS[1]}"


def _warnings(record: Record) -> list[str]:
    return quiet_warning((*record["bare_engine"], *record["torch_loop"]["runs"]))


def with_readme_block(text: str, block: str, marks: tuple[str, str]) -> str | None:
    """A README whose marked part is `block`, marks and all; None where it has no such part."""
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    return f"{before}{block}{after}" if begin and end else None


def render_markdown(lines: Sequence[str], tables: Sequence[Table]) -> str:
    """Lines as a list, then the tables."""
    parts = ["\n".join(f"- {line}" for line in lines)]
    for table in tables:
        rendered = [
            f"**{table.title}**",
            "",
            _markdown_row(table.columns),
            "|---" + "|---:" * (len(table.columns) - 1) + "|",
            *(_markdown_row(row) for row in table.rows),
        ]
        parts.append("\n".join(rendered))
    return "\n\n".join(parts) + "\n"


def rich_tables(tables: Sequence[Table]) -> Iterator[rich.table.Table]:
    """The same for a terminal."""
    import rich.table
    from rich.text import Text

    for table in tables:
        shown = rich.table.Table(title=table.title, title_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(Text(column), justify="right" if index else "left", no_wrap=not index)
        for row in table.rows:
            shown.add_row(*map(Text, row))
        yield shown


def _side_by_side(record: Record) -> Table:
    ratios = record["ratios"]
    loops = sorted(key for key in ratios if key.startswith("served_over_torch_loop_batch_"))
    rows = []
    for model, point in record["saturation"].items():
        if point is None:
            continue
        rows.append(
            (
                model,
                number(point["images_per_s"]),
                number(point["bare_engine_images_per_s"]),
                f"{ratios['served_over_bare_engine'][model]:.3f}",
                *(f"{ratios[loop][model]:.2f}x" for loop in loops),
            )
        )
    names = (f"served / torch loop, batch {loop.rpartition('_')[2]}" for loop in loops)
    columns = ("at saturation", "images/s", "bare engine images/s", "served / bare", *names)
    return Table("Served, beside the bare engine and the loop it replaces", columns, tuple(rows))


def _sweeps(record: Record) -> Iterator[Table]:
    for item, unit in (("images", "images_per_s"), ("embeddings", "embeddings_per_s")):
        rows = tuple(
            (
                f"{case['model']} x {case['items_per_request']}",
                str(case["concurrency"]),
                number(case[unit]),
                *(_ms(case[name]) for name in PERCENTILES.values()),
                ", ".join(number(work["mean_batch"]) for _, work in _composing(case)),
            )
            for case in record["served"]
            if unit in case
        )
        if rows:
            steps = {name: None for c in record["served"] if unit in c for name, _ in _composing(c)}
            yield Table(
                f"perf_analyzer, {item}",
                (*SWEEP_COLUMNS, f"{item}/s", *PERCENTILES, f"mean batch: {', '.join(steps)}"),
                rows,
            )


def _time_of_an_image(record: Record) -> Iterator[Table]:
    points = {model: point for model, point in record["saturation"].items() if point}
    if not points:
        return
    parts = {
        "bare_engine": "bare engine",
        "tower_slower_than_bare": "+ tower slower than bare, inside the server",
        "tower_input_and_output": "+ tensors into and out of the tower",
        "tower_waiting": "+ tower waiting",
        "total": "= one image",
    }
    rows = tuple(
        (words, *(_ms(point["time_per_image_ms"][part]) for point in points.values()))
        for part, words in parts.items()
    )
    share = (
        "share of time outside the engine",
        *(f"{point['share_of_time_outside_engine']:.1%}" for point in points.values()),
    )
    yield Table("Where an image's time goes at saturation, ms", ("", *points), (*rows, share))


def _stages(record: Record) -> Table:
    """Triton's statistics of the saturated cases."""
    rows = []
    for model, point in record["saturation"].items():
        for case in record["served"]:
            if point and case["model"] == model and case["concurrency"] == point["concurrency"]:
                for name, work in _composing(case):
                    rows.append(_stage_row(f"{model}: {name}", work))
    return Table(
        "Stages at saturation",
        ("model", "executions", "mean batch", *STAGES),
        tuple(rows),
    )


def _stage_row(name: str, work: Record) -> tuple[str, ...]:
    times = (_ms(work[stage]) for stage in STAGES.values())
    return (name, str(work["executions"]), f"{work['mean_batch']:.2f}", *times)


def _composing(case: Record) -> Sequence[tuple[str, Record]]:
    """The models that computed, in the order of the data; not the ensemble around them."""
    order = ("preprocess", "clip_image", "aesthetic_heads")
    return [(name, case["models"][name]) for name in order if name in case["models"]]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three digits, or a whole number of more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ms(value: float) -> str:
    return (
        f"{value:,.0f}"
        if abs(value) >= 100
        else f"{value:.1f}"
        if abs(value) >= 1
        else f"{value:.2f}"
    )
