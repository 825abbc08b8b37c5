"""`aesthetic curate score`: a data set in, a scored parquet a shard out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from aesthetic_client._wire import resolve_heads
from aesthetic_client.cli._server import (
    add_started_arguments,
    check_started_arguments,
    served_url,
)
from aesthetic_client.contract import DEFAULT_HEAD, Head
from aesthetic_client.errors import InputError
from aesthetic_client.paths import default_repository
from aesthetic_curate.cli._messages import say_plan, say_summary
from aesthetic_curate.cli._progress import Bar
from aesthetic_curate.config import (
    DEFAULT_IN_FLIGHT,
    DEFAULT_PATIENCE_S,
    DEFAULT_TIMEOUT_S,
    Job,
    ScoreConfig,
)
from aesthetic_curate.errors import NoSamplesError
from aesthetic_curate.inputs import find_shards
from aesthetic_curate.likeness import Like, read_likes, with_likes
from aesthetic_curate.local_heads import LocalHeads, heads_file
from aesthetic_curate.options import InputOptions
from aesthetic_curate.places import check_inputs, check_shards
from aesthetic_curate.runs import Summary, begin, plan
from aesthetic_curate.runs import run as run_shards
from aesthetic_curate.scoring import Unread
from aesthetic_curate.servers import Servers
from aesthetic_curate.shards import Shard

FIRST_PATIENCE_S = 30.0
DEFAULT_WORKERS = 2  # while one reads the end of its shard, the other keeps the servers busy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        nargs="+",
        help="tars, parquets, .npy files or folders of them or of images; globs, {00000..00099} "
        "and fsspec URLs (s3://...) too",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder or URL")
    _add_server_arguments(parser)
    _add_input_arguments(parser)
    parser.add_argument(
        "--heads",
        metavar="NAME[,NAME]",
        help=f"heads to score with, or all (default: {DEFAULT_HEAD.name})",
    )
    parser.add_argument(
        "--like",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="add the column like_FILE, the cosine with an aesthetic embedding (.safetensors, .npy "
        "or .pt); may be given more than once",
    )
    parser.add_argument(
        "--embedding",
        choices=("float16", "float32"),
        help="keep embeddings, in a column; float16 moves scores by 2e-4 at most",
    )
    parser.add_argument(
        "--tar-min",
        type=float,
        metavar="SCORE",
        help="write NAME.tar too: samples with at least this score, byte for byte",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N shards")
    parser.add_argument("--shard-index", type=int, default=0, metavar="I", help="of --shard-count")
    parser.add_argument(
        "--shard-count",
        type=int,
        default=1,
        metavar="N",
        help="machines that share the work: each takes every Nth shard, from its --shard-index",
    )


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="URL[,URL]",
        help="running servers, grpc://host:8001 or http://host:8000; else one is started",
    )
    add_started_arguments(parser, "the started server, or for --local")
    parser.add_argument(
        "--local",
        action="store_true",
        help="score stored embeddings here, with the heads of --repository, without a server",
    )
    parser.add_argument(
        "--decode",
        choices=("server", "client"),
        default="server",
        help="where files are decoded: client spares the servers' cores (default: server)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=DEFAULT_WORKERS,
        metavar="N",
        help=f"processes, a shard each at a time (default: {DEFAULT_WORKERS})",
    )
    parser.add_argument(
        "--in-flight",
        type=int,
        default=DEFAULT_IN_FLIGHT,
        metavar="N",
        help=f"images a worker has on their way to each server (default: {DEFAULT_IN_FLIGHT})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="S",
        help=f"seconds for one request, the queue included (default: {DEFAULT_TIMEOUT_S:g})",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=DEFAULT_PATIENCE_S,
        metavar="S",
        help="seconds that servers may all be away before the run stops "
        f"(default: {DEFAULT_PATIENCE_S:g})",
    )


def _add_input_arguments(parser: argparse.ArgumentParser) -> None:
    default = InputOptions()
    parser.add_argument(
        "--rows-per-shard",
        type=int,
        metavar="N",
        default=default.rows_per_shard,
        help="of a parquet, an array or a folder of images",
    )
    parser.add_argument("--key-column", metavar="NAME", help="else key, id, ...")
    parser.add_argument("--image-column", metavar="NAME", help="bytes, paths or URLs; else found")
    parser.add_argument("--embedding-column", metavar="NAME", help="else found by its name")
    parser.add_argument(
        "--image-extensions",
        metavar="EXT[,EXT]",
        help=f"files that are images, preferred first (default: "
        f"{','.join(default.image_extensions)})",
    )
    parser.add_argument(
        "--normalize", action="store_true", help="stored embeddings may have any length"
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when every shard is done, 1 when some could not be read.

    Samples without a score are rows with the reason.
    """
    _check(arguments)
    options = _options(arguments)
    likes = read_likes(arguments.like)
    check_inputs(arguments.input, arguments.output)
    shards = find_shards(arguments.input, options)
    check_shards(shards, arguments.output)
    _check_kinds(arguments, shards)
    mine = shards[arguments.shard_index :: arguments.shard_count][: arguments.limit]
    if not mine:
        raise NoSamplesError(
            f"--shard-index {arguments.shard_index} of {arguments.shard_count}: there are only "
            f"{len(shards)} shards"
        )
    with _job(arguments, options, mine, likes) as job:
        begin(shards, job.out)
        todo = plan(mine, job)
        say_plan(todo, job)
        summary = Summary()
        for stats in todo.done:
            summary.add(stats)
        unread: list[Unread] = []
        with Bar(len(mine), len(todo.done)) as bar:
            for result in run_shards(todo.todo, job, arguments.workers, bar.show):
                if isinstance(result, Unread):
                    unread.append(result)
                else:
                    summary.add(result)
    say_summary(summary, arguments.output)
    for one in unread:
        print(f"not read: {one.shard}: {one.reason}", file=sys.stderr)
    return 1 if unread else 0


def _check(arguments: argparse.Namespace) -> None:
    for option in ("workers", "in_flight", "rows_per_shard", "shard_count", "limit"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise InputError(f"--{option.replace('_', '-')} takes a number above 0, got {value}")
    if not 0 <= arguments.shard_index < arguments.shard_count:
        raise InputError(
            f"--shard-index counts from 0 to --shard-count - 1, got {arguments.shard_index} of "
            f"{arguments.shard_count}"
        )
    if arguments.local and (arguments.url or arguments.profile):
        raise InputError("--local scores without a server; leave --url and --profile away")
    check_started_arguments(arguments)


def _check_kinds(arguments: argparse.Namespace, shards: Sequence[Shard]) -> None:
    """Raises InputError for an option of images where all machines' shards hold none."""
    if any(shard.kind != "embeddings" for shard in shards):
        return
    if arguments.tar_min is not None:
        raise InputError("--tar-min writes tars of images; these are stored embeddings alone")
    if arguments.profile:
        raise InputError(
            f"--profile {arguments.profile} is for the image tower; {' '.join(arguments.input)} "
            "holds stored embeddings alone, which only the heads score: leave --profile away"
        )


def _options(arguments: argparse.Namespace) -> InputOptions:
    options = InputOptions(
        rows_per_shard=arguments.rows_per_shard,
        key_column=arguments.key_column,
        image_column=arguments.image_column,
        embedding_column=arguments.embedding_column,
    )
    if arguments.image_extensions is None:
        return options
    names = [name.strip().lower().lstrip(".") for name in arguments.image_extensions.split(",")]
    return replace(options, image_extensions=tuple(name for name in names if name))


@contextmanager
def _job(
    arguments: argparse.Namespace,
    options: InputOptions,
    shards: Sequence[Shard],
    likes: tuple[Like, ...],
) -> Iterator[Job]:
    """The job, with a server started for it where one is wanted."""
    draft = Job(
        out=arguments.output,
        urls=(),
        config=ScoreConfig((), arguments.embedding, arguments.normalize, arguments.tar_min, likes),
        options=options,
        decode=arguments.decode,
        in_flight=arguments.in_flight,
        timeout_s=arguments.timeout,
        patience_s=arguments.patience,
    )
    if arguments.local:
        if any(shard.kind != "embeddings" for shard in shards):
            raise InputError("--local scores stored embeddings; images need the tower of a server")
        file = heads_file(arguments.repository or default_repository())
        local = LocalHeads.read(file)
        yield _known(draft, arguments, local.heads, local.provenance, heads_file=str(file))
        return
    urls = tuple(one.strip() for url in arguments.url for one in url.split(",") if one.strip())
    if urls:
        yield _asked(replace(draft, urls=urls), arguments)
        return
    with served_url(arguments) as url:
        yield _asked(replace(draft, urls=(url,)), arguments)


def _asked(draft: Job, arguments: argparse.Namespace) -> Job:
    # A wrong address is to be told of soon; a server that is away later is waited for.
    servers = Servers(replace(draft, patience_s=min(FIRST_PATIENCE_S, draft.patience_s)))
    try:
        return _known(draft, arguments, servers.heads(), servers.provenance())
    finally:
        servers.close()


def _known(
    draft: Job,
    arguments: argparse.Namespace,
    heads: tuple[Head, ...],
    provenance: object,
    **known: object,
) -> Job:
    asked = arguments.heads
    names = asked if asked in (None, "all") else [name.strip() for name in asked.split(",")]
    with_likes(heads, draft.config.likes)  # also of heads that are not asked for
    config = replace(draft.config, heads=resolve_heads(names, heads))
    return replace(draft, config=config, provenance=provenance, **known)  # type: ignore[arg-type]
