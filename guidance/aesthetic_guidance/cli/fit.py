"""`aesthetic guide fit`: ratings or choices in, a head out."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.cli._server import add_server_arguments
from aesthetic_client.errors import InputError
from aesthetic_export.head_files import check_name
from aesthetic_guidance.charts import calibration_svg
from aesthetic_guidance.cli._images import (
    Vectors,
    check_output,
    embed_files,
    weights_note,
    write_text,
)
from aesthetic_guidance.fitting import FOLDS, FittedHead, fit_ridge
from aesthetic_guidance.mlp import fit_mlp
from aesthetic_guidance.preferences import fit_preferences

RATINGS, CHOICES = ("path", "rating"), ("winner", "loser")


@dataclass(frozen=True)
class Ratings:
    """A ratings file. `columns` are the images' paths: one a rating, or winner and loser."""

    columns: tuple[tuple[Path, ...], ...]
    ratings: tuple[float, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ratings",
        type=Path,
        metavar="FILE.csv",
        help="columns path,rating or winner,loser, in a file with this header; paths relative to "
        "the file's folder",
    )
    add_server_arguments(parser)
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="HEAD.safetensors",
        help="the head, for `aesthetic export --add-head`; HEAD.svg beside it is its calibration "
        "on held-out folds",
    )
    parser.add_argument(
        "--name", metavar="NAME", help="the head's name when served (default: the file's)"
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE.npy",
        help="for path,rating: embeddings (n, 768) that are stored already, a row a rating in the "
        "CSV's order; no server is asked",
    )
    parser.add_argument(
        "--method",
        choices=("ridge", "mlp"),
        default="ridge",
        help="for path,rating: ridge (the default), or the improved predictor's network, which "
        "wants thousands of ratings",
    )
    parser.add_argument(
        "--folds", type=int, default=FOLDS, metavar="N", help=f"held-out folds (default: {FOLDS})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of folds and training (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """0 when every image could be used, 1 when some could not be embedded."""
    check_output(arguments.output, (".safetensors",))
    if arguments.seed < 0:
        raise InputError("--seed takes a number from 0 up")
    name = arguments.name or arguments.output.stem
    check_name(name)
    table = read_ratings(arguments.ratings)
    if not table.ratings and (arguments.embeddings or arguments.method != "ridge"):
        raise InputError("--embeddings and --method are for path,rating, not for winner,loser")
    known: dict[str, Any] = {}
    if arguments.embeddings:
        if arguments.url or arguments.repository or arguments.profile:
            raise InputError(
                "--embeddings needs no server: leave out --url, --repository and --profile"
            )
        matrix = _stored(arguments.embeddings)
        columns, used = [matrix], np.ones(len(table.ratings), np.bool_)
    else:
        paths = list(dict.fromkeys(path for column in table.columns for path in column))
        vectors, known = embed_files(arguments, paths)
        columns, used = _gathered(table, vectors)
    head = _fit(arguments, name, table, columns, used, known)
    notes = [*head.report.summary(), *weights_note(known)]
    _write(arguments.output, head, notes)
    print("\n".join(notes))
    print(arguments.output)
    return 0 if used.all() else 1


def read_ratings(path: Path) -> Ratings:
    """A CSV of ratings or of choices. Raises InputError, naming the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            header = tuple(name.strip() for name in rows.fieldnames or ())
            rows.fieldnames = list(header)
            wanted = next(
                (names for names in (RATINGS, CHOICES) if set(names) <= set(header)), None
            )
            if wanted is None:
                raise InputError(
                    f"{path}: expected the columns path,rating or winner,loser; the first line is "
                    f"{','.join(header) or 'empty'}"
                )
            lines = [
                (rows.line_num, (row[wanted[0]] or "").strip(), (row[wanted[1]] or "").strip())
                for row in rows
            ]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from None
    for number, first, second in lines:
        if not first or not second:
            raise InputError(f"{path}, line {number}: {' or '.join(wanted)} is empty")
    firsts = tuple(path.parent / first for _, first, _ in lines)
    if wanted is CHOICES:
        return Ratings((firsts, tuple(path.parent / second for _, _, second in lines)))
    return Ratings((firsts,), tuple(_number(text, path, number) for number, _, text in lines))


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}, line {line}: the rating {text!r} is no number")
    return value


def _gathered(
    table: Ratings, vectors: Vectors
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """A matrix of embeddings for each column, of the rows whose images all have one."""
    rows = list(zip(*table.columns, strict=True))
    used = np.array([all(path in vectors for path in row) for row in rows], dtype=np.bool_)
    if not used.any():
        raise InputError("none of the images could be embedded")
    matrices = [
        np.stack([vectors[path] for path, kept in zip(column, used, strict=True) if kept])
        for column in table.columns
    ]
    return matrices, used


def _fit(
    arguments: argparse.Namespace,
    name: str,
    table: Ratings,
    columns: Sequence[NDArray[Any]],
    used: NDArray[np.bool_],
    known: dict[str, Any],
) -> FittedHead:
    folds, seed = arguments.folds, arguments.seed
    if not table.ratings:
        winners, losers = columns
        return fit_preferences(winners, losers, name=name, folds=folds, seed=seed, model=known)
    if len(columns[0]) != used.sum():
        raise InputError(
            f"{arguments.embeddings} has {len(columns[0])} rows, {arguments.ratings} "
            f"{len(table.ratings)} ratings"
        )
    ratings = np.array(table.ratings)[used]
    images = [path for path, kept in zip(table.columns[0], used, strict=True) if kept]
    fit = fit_mlp if arguments.method == "mlp" else fit_ridge
    return fit(columns[0], ratings, name=name, folds=folds, seed=seed, groups=images, model=known)


def _write(output: Path, head: FittedHead, notes: Sequence[str]) -> None:
    head.write(output)
    title = f"{head.name}: {head.report.method}, held-out folds"
    report = head.report
    picture = calibration_svg(report.predicted, report.actual, title, notes, report.labels)
    write_text(output.with_suffix(".svg"), picture)


def _stored(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is no .npy file of embeddings: {error}") from None
    return array
