"""`aesthetic score`: photographs in, a ranked table out."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from aesthetic_client._wire import resolve_heads
from aesthetic_client.cli._files import find_images
from aesthetic_client.cli._likes import Direction, read_direction, warn_of_origins
from aesthetic_client.cli._server import add_server_arguments, connected
from aesthetic_client.cli._show import opened, print_table, progress
from aesthetic_client.client import Client
from aesthetic_client.contract import DEFAULT_HEAD
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
    parser.add_argument(
        "--like",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="add the column like:FILE, each image's cosine with an aesthetic embedding "
        "(.safetensors, .npy, or .pt); without --heads it ranks; may be given more than once",
    )
    parser.add_argument("--top", type=int, metavar="N", help="only the N highest scores")
    parser.add_argument("--bottom", type=int, metavar="N", help="only the N lowest scores")


def run(arguments: argparse.Namespace) -> int:
    """0 when every image has a score, 1 when some could not be scored."""
    for option in ("top", "bottom"):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            raise InputError(f"--{option} takes a number above 0")
    files = find_images(arguments.paths)
    likes = _likes(arguments.like)
    with connected(arguments) as client, opened(arguments.output) as file:
        warn_of_origins(likes, client)
        heads = _head_names(arguments.heads, client)
        results: Iterable[ScoreResult] = client.score_many(
            files, heads=heads, embedding=bool(likes), in_flight=arguments.in_flight
        )
        names = [*heads, *likes] if arguments.heads else [*likes, *heads]
        results = _with_likeness(results, likes) if likes else results
        failed = _write(arguments, names, progress(results, len(files), "scoring"), file)
    for result in failed:
        print(f"not scored: {result.source}: {_reason(result)}", file=sys.stderr)
    return 1 if failed else 0


def _head_names(asked: str | None, client: Client) -> list[str]:
    """Head names of --heads, in its order. Raises InputError for one that is not served."""
    if asked is None:
        return [DEFAULT_HEAD.name]
    names = asked if asked == "all" else [name.strip() for name in asked.split(",")]
    return [head.name for head in resolve_heads(names, client.heads())]


def _likes(paths: Sequence[Path]) -> dict[str, Direction]:
    """By column name. Raises InputError, EmbeddingError for a file that holds none."""
    found: dict[str, Direction] = {}
    for path in paths:
        name = f"like:{path.stem}"
        if name in found:
            raise InputError(f"--like: two files would share the column {name}; rename one")
        found[name] = read_direction(path)
    return found


def _with_likeness(
    results: Iterable[ScoreResult], likes: Mapping[str, Direction]
) -> Iterator[ScoreResult]:
    """The same results, each with its embedding's cosines as further scores."""
    for result in results:
        if (embedding := result.embedding) is not None:
            cosines = {name: float(embedding @ like.vector) for name, like in likes.items()}
            result = replace(result, scores={**result.scores, **cosines})
        yield result


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
    """Write results in the asked order and format; those without a score."""
    failed: list[ScoreResult] = []
    recorded = _recording_failures(results, failed)
    if arguments.top is not None or arguments.bottom is not None:
        ranked = _ranked([result for result in recorded if result.ok], names)
        recorded = iter(_cut(ranked, arguments.top or 0, arguments.bottom or 0))
    elif arguments.format in ("table", "json"):
        recorded = iter(_ranked(recorded, names))
    WRITERS[arguments.format](recorded, names, file)
    return failed


def _recording_failures(
    results: Iterable[ScoreResult], failed: list[ScoreResult]
) -> Iterator[ScoreResult]:
    for result in results:
        if not result.ok:
            failed.append(result)
        yield result


def _ranked(results: Iterable[ScoreResult], names: Sequence[str]) -> list[ScoreResult]:
    return sorted(results, key=lambda result: -result.scores.get(names[0], float("-inf")))


def _cut(ranked: list[ScoreResult], top: int, bottom: int) -> list[ScoreResult]:
    if len(ranked) <= top + bottom:
        return ranked
    return ranked[:top] + ranked[len(ranked) - bottom :]


def _write_table(results: Iterable[ScoreResult], names: Sequence[str], file: TextIO) -> None:
    rows = [
        [str(rank), *(f"{result.scores[name]:.3f}" for name in names), str(result.source)]
        for rank, result in enumerate((result for result in results if result.ok), 1)
    ]
    titles = ["score"] if len(names) == 1 else list(names)
    print_table(["#", *titles, "image"], rows, file)


def _row(result: ScoreResult, names: Sequence[str]) -> dict[str, object]:
    path = str(result.source)
    if not result.ok:
        return {"path": path, "error": _reason(result)}
    return {"path": path, "score": result.scores[names[0]], "scores": dict(result.scores)}


def _write_json(results: Iterable[ScoreResult], names: Sequence[str], file: TextIO) -> None:
    json.dump([_row(result, names) for result in results], file, indent=1)
    file.write("\n")


def _write_jsonl(results: Iterable[ScoreResult], names: Sequence[str], file: TextIO) -> None:
    for result in results:
        file.write(json.dumps(_row(result, names)) + "\n")
        file.flush()


def _write_csv(results: Iterable[ScoreResult], names: Sequence[str], file: TextIO) -> None:
    writer = csv.writer(file)
    writer.writerow(["path", *names, "error"])
    for result in results:
        scores = [repr(result.scores[name]) if result.ok else "" for name in names]
        writer.writerow([str(result.source), *scores, "" if result.ok else _reason(result)])
        file.flush()


WRITERS = {
    "table": _write_table,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}
