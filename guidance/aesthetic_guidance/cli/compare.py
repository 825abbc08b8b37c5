"""`aesthetic guide compare`: do the images of one folder score higher than those of another?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aesthetic_client import Client
from aesthetic_client.cli._files import find_images
from aesthetic_client.cli._server import add_server_arguments, connected
from aesthetic_client.cli._show import progress
from aesthetic_client.contract import AESTHETIC_HEADS, CLIP_IMAGE, DEFAULT_HEAD
from aesthetic_client.errors import InputError
from aesthetic_guidance.charts import distributions_svg
from aesthetic_guidance.cli._images import check_output, weights_note, write_text
from aesthetic_guidance.statistics import Comparison, PairedComparison, compare, compare_pairs

Scores = dict[Path, float]
Pair = tuple[Path, Path, Path]  # of A, of B, and the subfolder that both lie in


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a folder of images")
    parser.add_argument("b", metavar="B", help="another one; positive differences: B is higher")
    add_server_arguments(parser)
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=Path("comparison.svg"),
        metavar="FILE.svg",
        help="the two distributions as a picture (default: comparison.svg)",
    )
    parser.add_argument(
        "--head",
        default=DEFAULT_HEAD.name,
        metavar="NAME",
        help=f"the head that scores (default: {DEFAULT_HEAD.name})",
    )
    parser.add_argument(
        "--paired",
        action="store_true",
        help="images of one name in A and B belong together, as those of one prompt and seed; "
        "pairs in one subfolder, as those of one prompt, are resampled together",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap's draws (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """0 when every image has a score, 1 when some could not be scored."""
    check_output(arguments.output, (".svg",))
    if arguments.seed < 0:
        raise InputError("--seed takes a number from 0 up")
    files = [find_images([arguments.a]), find_images([arguments.b])]
    pairs = _pairs(arguments, files) if arguments.paired else []
    with connected(arguments) as client:
        known = client.provenance()
        weights = [known.get(name, {}) for name in (CLIP_IMAGE.name, AESTHETIC_HEADS.name)]
        scored = [_scores(client, arguments, found) for found in files]
    a, b = (np.array(list(one.values()), dtype=np.float64) for one in scored)
    for folder, scores in ((arguments.a, a), (arguments.b, b)):
        if len(scores) < 2:
            raise InputError(f"{folder} has {len(scores)} images with a score; 2 are needed")
    found = compare(a, b, seed=arguments.seed)
    notes = describe(found)
    if arguments.paired:
        notes += describe_pairs(_compared_pairs(pairs, *scored, seed=arguments.seed))
    notes += dict.fromkeys(note for w in weights for note in weights_note(w))
    folders = [arguments.a, arguments.b]
    picture = distributions_svg((a, b), folders, "Aesthetic scores", notes, arguments.head)
    write_text(arguments.output, picture)
    for name, folder, mean, deviation, count in zip(
        "AB", folders, found.means, found.deviations, found.counts, strict=True
    ):
        print(
            f"{name}: {folder}: mean {mean:.4f}, standard deviation {deviation:.4f}, {count} images"
        )
    print("\n".join(notes))
    print(arguments.output)
    return 0 if len(a) + len(b) == sum(map(len, files)) else 1


def describe(found: Comparison) -> list[str]:
    """The comparison in lines for people."""
    return [
        f"difference of means B - A: {found.difference:+.4f} "
        f"(95% bootstrap interval {found.low:+.4f} to {found.high:+.4f})",
        f"Cohen's d {found.cohens_d:+.3f}, Cliff's delta {found.cliffs_delta:+.3f}; "
        f"a random image of B scores above one of A with chance {found.auc:.3f}",
    ]


def describe_pairs(found: PairedComparison) -> list[str]:
    """The comparison within pairs in lines for people."""
    grouped = f" in {found.groups} subfolders" if found.groups < found.pairs else ""
    return [
        f"within {found.pairs} pairs{grouped}: mean difference {found.difference:+.4f} "
        f"(95% bootstrap interval {found.low:+.4f} to {found.high:+.4f})",
        f"Cohen's d of the differences {found.cohens_dz:+.3f}; "
        f"B scores above A in {100 * found.share_above:.1f}% of the pairs",
    ]


def _pairs(arguments: argparse.Namespace, files: Sequence[Sequence[Path]]) -> list[Pair]:
    """Files of one name below both folders, and their subfolder. Raises InputError without one."""
    folders = [Path(arguments.a), Path(arguments.b)]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--paired compares folders; {folder} is none")
    named = [_by_name(folder, found) for folder, found in zip(folders, files, strict=True)]
    for at, other in ((0, 1), (1, 0)):
        for name, path in named[at].items():
            if name not in named[other]:
                raise InputError(f"--paired: {path} has no partner in {folders[other]}")
    return [(path, named[1][name], name.parent) for name, path in named[0].items()]


def _by_name(folder: Path, files: Sequence[Path]) -> dict[Path, Path]:
    """Files by their path below the folder, without suffix. Raises InputError for two of one."""
    found: dict[Path, Path] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("")
        if name in found:
            raise InputError(f"--paired: {found[name]} and {path} have one name; rename one")
        found[name] = path
    return found


def _compared_pairs(pairs: Sequence[Pair], a: Scores, b: Scores, *, seed: int) -> PairedComparison:
    """The pairs of which both have a score. Raises InputError for fewer than two."""
    whole = [pair for pair in pairs if pair[0] in a and pair[1] in b]
    subfolders = [subfolder for _, _, subfolder in whole]
    if len(whole) < 2:
        raise InputError(f"--paired: {len(whole)} pairs have scores on both sides; 2 are needed")
    return compare_pairs(
        np.array([a[one] for one, _, _ in whole], dtype=np.float64),
        np.array([b[other] for _, other, _ in whole], dtype=np.float64),
        subfolders if len(set(subfolders)) > 1 else None,
        seed=seed,
    )


def _scores(client: Client, arguments: argparse.Namespace, files: Sequence[Path]) -> Scores:
    """The scores of those files that have one; the others are named on stderr."""
    scores: Scores = {}
    results = client.score_many(files, heads=[arguments.head], in_flight=arguments.in_flight)
    for result in progress(results, len(files), "scoring"):
        if result.error is not None:
            print(f"not scored: {result.source}: {result.error.message}", file=sys.stderr)
        else:
            scores[result.source] = next(iter(result.scores.values()))
    return scores
