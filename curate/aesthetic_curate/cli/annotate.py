"""`aesthetic curate annotate`: the scores, written into the data set's own parquets."""

from __future__ import annotations

import argparse
import sys

from aesthetic_client.cli._show import progress
from aesthetic_client.contract import SEEDED_WEIGHTS
from aesthetic_client.errors import InputError
from aesthetic_curate.columns import EMBEDDING
from aesthetic_curate.results import Results
from aesthetic_curate.save_metadata import IMAGE_EMBEDDING, annotate, find_targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scored", metavar="SCORED", help="output of `aesthetic curate score`")
    parser.add_argument(
        "--dataset",
        metavar="DIR",
        help="folder or URL of the data set's NNNNN.parquet (default: beside the scored tars)",
    )
    parser.add_argument(
        "--id-column", metavar="NAME", help="column with the samples' keys (default: key, id, ...)"
    )
    parser.add_argument(
        "--columns",
        metavar="NAME[,NAME]",
        help="score columns or heads, and the embedding column (default: all that were scored)",
    )
    parser.add_argument(
        "--embedding-column",
        default=IMAGE_EMBEDDING,
        metavar="NAME",
        help="where embeddings go, if they were kept (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="write copies there (default: replace the parquets)"
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when every parquet has its scores."""
    results = Results.open(arguments.scored)
    if results.seeded:
        print(f"WARNING: the model has weights: {SEEDED_WEIGHTS}", file=sys.stderr)
    if results.unfinished:
        print(
            f"WARNING: {len(results.unfinished)} shards are not done, and left out", file=sys.stderr
        )
    outputs, embedding_column = _columns(arguments, results)
    targets = find_targets(results, arguments.dataset, arguments.output)
    rows = matched = left_over = 0
    for target in progress(targets, len(targets), "parquets"):
        done = annotate(
            results,
            target,
            outputs=outputs,
            id_column=arguments.id_column,
            embedding_column=embedding_column,
        )
        rows, matched = rows + done.rows, matched + done.matched
        left_over += done.left_over
    columns = ", ".join([*outputs, *([embedding_column] if embedding_column else [])])
    print(f"{columns}: {matched} of {rows} rows in {len(targets)} parquets")
    if left_over:
        print(f"  {left_over} scored samples have no row there")
    return 0


def _columns(arguments: argparse.Namespace, results: Results) -> tuple[list[str], str | None]:
    """The score columns to write, and the name for the embeddings. Raises InputError."""
    stored = EMBEDDING in results.schema(results.shards[0]).names
    embedding = arguments.embedding_column if stored else None
    if arguments.columns is None:
        return list(results.heads), embedding
    asked = [name.strip() for name in arguments.columns.split(",") if name.strip()]
    wanted = [name for name in asked if name in (EMBEDDING, arguments.embedding_column)]
    if wanted and not stored:
        raise InputError(
            f"{results.folder.url} has no embeddings: score with --embedding float32 to keep them"
        )
    outputs = [results.output(name) for name in asked if name not in wanted]
    if not asked:
        raise InputError("--columns takes names, and got none")
    return list(dict.fromkeys(outputs)), embedding if wanted else None
