"""`aesthetic score`: photographs in, a ranked table out."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from aesthetic_client.cli._files import find_images
from aesthetic_client.cli._server import add_server_arguments, connected
from aesthetic_client.cli._show import opened, print_table, progress
from aesthetic_client.contract import DEFAULT_HEAD, Head
from aesthetic_client.errors import ImageError, InputError
from aesthetic_client.results import ScoreResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, or folders of them")
    add_server_arguments(parser)
    parser.add_argument(
        "--format",
        choices=("table", "json", "jsonl", "csv"),
        default="table",
        help="table and json are ranked; jsonl and csv are written in input order as scores come",
    )
    parser.add_argument("--output", metavar="FILE", help="write there instead of to stdout")
    parser.add_argument(
        "--heads",
        metavar="NAME[,NAME]",
        help=f"heads to score with, or all (default: {DEFAULT_HEAD.name}); the first one ranks",
    )
    parser.add_argument("--top", type=int, metavar="N", help="only the N highest scores")
    parser.add_argument("--bottom", type=int, metavar="N", help="only the N lowest scores")


def run(arguments: argparse.Namespace) -> int:
    """0 when every image has a score, 1 when some could not be scored."""
    for option in ("top", "bottom"):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            raise InputError(f"--{option} takes a number above 0")
    files = find_images(arguments.paths)
    with connected(arguments) as client, opened(arguments.output) as file:
        heads = _heads(arguments.heads, client.heads() if arguments.heads else ())
        results = client.score_many(
            files, heads=[head.name for head in heads] or None, in_flight=arguments.in_flight
        )
        names = [head.name for head in heads] or [DEFAULT_HEAD.name]
        failed = _write(arguments, names, progress(results, len(files), "scoring"), file)
    for result in failed:
        print(f"not scored: {result.source}: {_reason(result)}", file=sys.stderr)
    return 1 if failed else 0


def _heads(asked: str | None, served: Sequence[Head]) -> list[Head]:
    from aesthetic_client._wire import resolve_heads

    if asked is None:
        return []
    names = asked if asked == "all" else [name.strip() for name in asked.split(",")]
    return list(resolve_heads(names, served))


def _reason(result: ScoreResult) -> str:
    error = result.error
    assert error is not None
    code = f" [{error.code}]" if isinstance(error, ImageError) else ""
    return error.message + code


def _write(
    arguments: argparse.Namespace,
    names: Sequence[str],
    results: Iterable[ScoreResult],
    file: TextIO,
) -> list[ScoreResult]:
    """Write the scored ones; the failed ones."""
    failed: list[ScoreResult] = []
    scored = (result for result in results if result.ok or failed.append(result))
    if arguments.top is not None or arguments.bottom is not None:
        scored = iter(_cut(_ranked(scored, names), arguments.top, arguments.bottom))
    elif arguments.format in ("table", "json"):
        scored = iter(_ranked(scored, names))
    WRITERS[arguments.format](scored, names, file)
    return failed


def _ranked(results: Iterable[ScoreResult], names: Sequence[str]) -> list[ScoreResult]:
    return sorted(results, key=lambda result: -result.scores[names[0]])


def _cut(ranked: list[ScoreResult], top: int | None, bottom: int | None) -> list[ScoreResult]:
    if len(ranked) <= (top or 0) + (bottom or 0):
        return ranked
    return ranked[: top or 0] + (ranked[-bottom:] if bottom else [])


def _write_table(results: Iterable[ScoreResult], names: Sequence[str], file: TextIO) -> None:
    rows = [
        [str(rank), *(f"{result.scores[name]:.3f}" for name in names), str(result.source)]
        for rank, result in enumerate(results, 1)
    ]
    titles = ["score"] if len(names) == 1 else list(names)
    print_table(["#", *titles, "image"], rows, file)


def _row(result: ScoreResult) -> dict[str, object]:
    return {"path": str(result.source), "score": result.score, "scores": dict(result.scores)}


def _write_json(results: Iterable[ScoreResult], _: Sequence[str], file: TextIO) -> None:
    json.dump([_row(result) for result in results], file, indent=1)
    file.write("\n")


def _write_jsonl(results: Iterable[ScoreResult], _: Sequence[str], file: TextIO) -> None:
    for result in results:
        file.write(json.dumps(_row(result)) + "\n")
        file.flush()


def _write_csv(results: Iterable[ScoreResult], names: Sequence[str], file: TextIO) -> None:
    writer = csv.writer(file)
    writer.writerow(["path", *names])
    for result in results:
        writer.writerow([str(result.source), *(repr(result.scores[name]) for name in names)])
        file.flush()


WRITERS = {
    "table": _write_table,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}
