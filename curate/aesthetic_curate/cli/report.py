"""`aesthetic curate report`: a scored data set as one HTML page."""

from __future__ import annotations

import argparse
import os

from aesthetic_client.cli._show import status
from aesthetic_client.errors import InputError
from aesthetic_curate.report import ReportOptions, make_report
from aesthetic_curate.report.gallery import PER_BUCKET
from aesthetic_curate.report.sampling import MOST_SHARDS
from aesthetic_curate.results import Results
from aesthetic_curate.storage import Folder

MOST_PER_BUCKET = 200  # 20 buckets of so many are a page of 50 MB; more would not open


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scored", metavar="SCORED", help="output folder of `aesthetic curate score`"
    )
    parser.add_argument(
        "--output",
        "-o",
        default="report.html",
        metavar="FILE.html",
        help="the page, at a path or an fsspec URL (default: report.html)",
    )
    parser.add_argument(
        "--head", metavar="NAME", help="head that orders the gallery (default: the first one)"
    )
    parser.add_argument(
        "--per-bucket",
        type=int,
        default=PER_BUCKET,
        metavar="N",
        help=f"images a score bucket (default: {PER_BUCKET}, a page of 2 to 4 MB)",
    )
    parser.add_argument(
        "--gallery-shards",
        type=int,
        default=MOST_SHARDS,
        metavar="N",
        help=f"shards opened for their images, at most (default: {MOST_SHARDS})",
    )
    parser.add_argument(
        "--no-gallery", action="store_true", help="no images; the sources are not opened"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the draw of the gallery's images (default: 0)"
    )


def run(arguments: argparse.Namespace) -> int:
    """0; the page's path is printed. Errors stop it before anything is written."""
    if not 1 <= arguments.per_bucket <= MOST_PER_BUCKET:
        raise InputError(
            f"--per-bucket takes a number from 1 to {MOST_PER_BUCKET}; "
            "--no-gallery leaves the images out"
        )
    if arguments.gallery_shards < 1:
        raise InputError("--gallery-shards takes a number above 0")
    if arguments.seed < 0:
        raise InputError("--seed takes a number from 0 up")
    folder, name = os.path.split(arguments.output)
    if not name.lower().endswith((".html", ".htm")):
        raise InputError(f"--output must end in .html, got {arguments.output}")
    options = ReportOptions(
        head=arguments.head,
        per_bucket=0 if arguments.no_gallery else arguments.per_bucket,
        gallery_shards=arguments.gallery_shards,
        seed=arguments.seed,
    )
    with status("reading scores"):
        page = make_report(Results.open(arguments.scored), options)
    with Folder(folder or ".").writing(name) as path:
        path.write_text(page, encoding="utf-8", newline="\n")
    print(arguments.output)
    return 0
