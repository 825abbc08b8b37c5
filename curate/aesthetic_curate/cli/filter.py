"""`aesthetic curate filter`: scored shards in, a smaller data set out."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from aesthetic_client.cli._show import print_table
from aesthetic_client.contract import DEFAULT_HEAD, SEEDED_WEIGHTS
from aesthetic_client.errors import InputError
from aesthetic_curate.cli._progress import Bar
from aesthetic_curate.filter_jobs import Settings
from aesthetic_curate.filter_runs import run as write_shards
from aesthetic_curate.likeness import PREFIX
from aesthetic_curate.resharding import plan, prepare
from aesthetic_curate.results import Results
from aesthetic_curate.runs import Progress
from aesthetic_curate.selection import (
    Criteria,
    Selection,
    count_kept,
    parse_condition,
    parse_share,
    select,
)

DEFAULT_WORKERS = 2  # while one waits for its disk, the other copies
NOTES = {
    "duplicate_keys": "samples share their key with another one of their shard",
    "broken_json": "JSON files are no objects and keep their bytes",
    "added_json": "samples got a JSON of their own",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Settings()
    parser.add_argument("scored", metavar="SCORED", help="output of `aesthetic curate score`")
    parser.add_argument("-o", "--output", metavar="OUT", help="folder or URL")
    _add_criteria_arguments(parser)
    parser.add_argument(
        "--samples-per-shard",
        type=int,
        default=default.samples_per_shard,
        metavar="N",
        help=f"samples in a tar (default: {default.samples_per_shard})",
    )
    parser.add_argument(
        "--keep-keys",
        action="store_true",
        help="copy samples byte for byte; else each gets a key of its shard and place",
    )
    parser.add_argument(
        "--old-key-column",
        default=default.old_key_column,
        metavar="NAME",
        help="where parquet and JSON keep the former key (default: %(default)s)",
    )
    parser.add_argument(
        "--add-json", action="store_true", help="give samples without a JSON one with their scores"
    )
    parser.add_argument(
        "--metadata-only", action="store_true", help="write parquets alone; needs no source"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=DEFAULT_WORKERS,
        metavar="N",
        help=f"processes that write, a shard each at a time (default: {DEFAULT_WORKERS})",
    )
    parser.add_argument(
        "--partial", action="store_true", help="filter what is done of an unfinished score run"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what another filter wrote to OUT"
    )


def _add_criteria_arguments(parser: argparse.ArgumentParser) -> None:
    for side, text in (("min", "at least"), ("max", "at most")):
        parser.add_argument(
            f"--{side}",
            action="append",
            default=[],
            metavar="[HEAD=]SCORE",
            help=f"keep samples that score {text} this; several must all hold",
        )
    parser.add_argument(
        "--top-percent", metavar="P", help="keep the best P percent of the scored samples"
    )
    parser.add_argument(
        "--head",
        metavar="NAME",
        help="whose score counts where none is named: a head or its column (default: "
        f"{DEFAULT_HEAD.output}, or the only one that was scored)",
    )
    parser.add_argument(
        "--count", action="store_true", help="only print how many samples thresholds keep"
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when every output shard is done."""
    results = Results.open(arguments.scored)
    if results.seeded:
        print(f"WARNING: the model has weights: {SEEDED_WEIGHTS}", file=sys.stderr)
    _check_complete(results, arguments.partial)
    head = results.output(arguments.head or _default_head(results))
    criteria = _criteria(arguments, results, head)
    if arguments.count:
        _print_counts(results, head, criteria)
        return 0
    if not arguments.output:
        raise InputError("-o/--output is missing: where shall the data set go?")
    if arguments.workers < 1:
        raise InputError(f"--workers takes a number above 0, got {arguments.workers}")
    settings = Settings(
        samples_per_shard=arguments.samples_per_shard,
        keep_keys=arguments.keep_keys,
        old_key_column=arguments.old_key_column,
        add_json=arguments.add_json,
        metadata_only=arguments.metadata_only,
    )
    selection = select(results, criteria)
    of = f"{results.samples} samples ({results.statuses['ok']} scored)"
    print(f"{selection.count} of {of} are kept", file=sys.stderr)
    _write(arguments, results, criteria, settings, selection)
    return 0


def _write(
    arguments: argparse.Namespace,
    results: Results,
    criteria: Criteria,
    settings: Settings,
    selection: Selection,
) -> None:
    planned = plan(results, criteria, selection, arguments.output, settings)
    todo = prepare(planned, overwrite=arguments.overwrite)
    if todo.removed:
        print(f"{todo.removed} files of another filter were removed", file=sys.stderr)
    if todo.done:
        print(f"{todo.done} shards are done already", file=sys.stderr)
    notes: Counter[str] = Counter()
    with Bar(len(planned.shards), todo.done) as bar:

        def progress(shards: int, samples: int) -> None:
            bar.show(Progress(shards, samples, 0))

        for stats in write_shards(planned.job, todo.shards, arguments.workers, progress):
            notes.update(stats["notes"])
    shards = len(planned.shards)
    print(f"{shards} shards, {selection.count} samples: {arguments.output}")
    for name, text in NOTES.items():
        if notes[name]:
            print(f"  {notes[name]} {text}")


def _default_head(results: Results) -> str:
    return next(iter(results.heads)) if len(results.heads) == 1 else DEFAULT_HEAD.output


def _criteria(arguments: argparse.Namespace, results: Results, head: str) -> Criteria:
    conditions = tuple(
        parse_condition(results, text, side, head)
        for side in ("min", "max")
        for text in getattr(arguments, side)
    )
    top = None
    if arguments.top_percent is not None:
        top = parse_share(results, arguments.top_percent, head)
    if not conditions and top is None and not arguments.count:
        raise InputError(
            "say what to keep: --min, --max or --top-percent (--count helps to choose)"
        )
    return Criteria(conditions, top)


def _check_complete(results: Results, partial: bool) -> None:
    """Raises InputError for an unfinished run, unless its done shards are all that is wanted."""
    if not results.unfinished:
        return
    names = ", ".join(results.unfinished[:3]) + (" ..." if len(results.unfinished) > 3 else "")
    text = f"{len(results.unfinished)} shards of {results.folder.url} are not done ({names})"
    if not partial:
        raise InputError(
            f"{text}: run the score command again to finish them, or pass --partial to filter the "
            f"{len(results.shards)} that are"
        )
    print(f"WARNING: {text}; their samples are left out", file=sys.stderr)


def _print_counts(results: Results, output: str, criteria: Criteria) -> None:
    """A table of thresholds, and what the criteria keep where there are some."""
    scored = results.score_stats[output].count
    digits = 2 if output.startswith(PREFIX) else 1
    rows = [
        [f"{threshold:.{digits}f}", str(kept), f"{100 * kept / scored:.2f} %"]
        for threshold, kept in count_kept(results, output)
    ]
    print_table([f"min {output}", "samples", "of the scored"], rows, sys.stdout)
    if criteria.conditions or criteria.top:
        print(f"the conditions keep {select(results, criteria).count} of {results.samples} samples")
