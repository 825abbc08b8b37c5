"""Stored embeddings to unit vectors in float32: block by block, each row judged for itself.

The rule is the client's (`unit_embeddings`): a norm within UNIT_TOLERANCE of 1 in float64, or any
but zero where vectors are to be normalised. Norms are taken in float32 first; only rows that this
cannot decide are looked at in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client._wire import UNIT_TOLERANCE
from aesthetic_client.contract import EMBEDDING_DIM, MAX_EMBEDDING_BATCH, Head
from aesthetic_client.errors import EmbeddingError

Floats = NDArray[np.floating[Any]]
Units = NDArray[np.float32]  # (n, 768) of length 1
# Scores (n,) by output name of unit vectors (n, 768).
ScoreUnits = Callable[[Units, Sequence[Head]], Mapping[str, NDArray[np.float32]]]

NOT_FINITE = "holds NaN or infinity"
ZERO = "is all zero and has no direction"
NOT_UNIT = "has norm {norm:.4g}, expected 1: pass --normalize for raw CLIP features"

GROUPS = 8  # partial sums of a long fp32 sum; one over all 768 would lose a digit

# A half's bits, shifted to where a float has them, are the number times 2**-112: its exponent is
# biased by 15, not 127. Infinities become 65536 and more, which no finite half is.
_HALF_SHIFT = 13
_HALF_MASK = np.int32(np.uint32(0x8FFFE000).astype(np.int32))  # without the copies of the sign
_HALF_SCALE = np.float32(2.0**112)
_HALF_INFINITY = 65536.0

_UNDECIDED = 1e-5  # of a norm: what float32 sums may be off, with room
_TINIEST_SQUARE = 1e-20  # below it squares of float32 lose bits


@dataclass(frozen=True)
class Blocks:
    """How rows are cut: `rows` at a time, `threads` blocks side by side."""

    rows: int
    threads: int


SERVED_BLOCKS = Blocks(MAX_EMBEDDING_BATCH, 2)  # one is on its way while the next is prepared


@dataclass(frozen=True)
class RowScores:
    """Scores (n,) by output name, NaN for rows that are no unit vectors; `problems` says why.

    `units` (n, 768) are the vectors that were scored, NaN for those rows, if they were kept.
    """

    scores: dict[str, NDArray[np.float32]]
    problems: dict[int, str]
    units: Units | None


def score_rows(
    embeddings: Floats,
    score: ScoreUnits,
    heads: Sequence[Head],
    *,
    normalize: bool = False,
    keep_units: bool = False,
    blocks: Blocks = SERVED_BLOCKS,
) -> RowScores:
    """Score (n, 768) rows of any float type; bad rows are told of, and the others are scored.

    Raises EmbeddingError for an array of another shape or type, and whatever `score` raises.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != EMBEDDING_DIM:
        raise EmbeddingError(
            f"expected shape (n, {EMBEDDING_DIM}) of CLIP ViT-L/14, got {embeddings.shape}"
        )
    if not np.issubdtype(embeddings.dtype, np.floating):
        raise EmbeddingError(f"expected floating point embeddings, got {embeddings.dtype}")
    total = len(embeddings)
    scores = {head.output: np.empty(total, np.float32) for head in heads}
    kept = np.empty((total, EMBEDDING_DIM), np.float32) if keep_units else None
    problems: dict[int, str] = {}

    def work(starts: range) -> None:
        buffer = np.empty((min(blocks.rows, total), EMBEDDING_DIM), np.float32)
        for start in starts:
            rows = slice(start, min(start + blocks.rows, total))
            units, bad = unit_block(embeddings[rows], buffer, normalize=normalize)
            for output, values in score(units, heads).items():
                scores[output][rows] = values
            if kept is not None:
                kept[rows] = units
            for row, problem in bad.items():
                problems[start + row] = problem
                for values in (*scores.values(), *([] if kept is None else [kept])):
                    values[start + row] = np.nan

    threads = max(1, min(blocks.threads, -(-total // blocks.rows)))
    shares = [range(at * blocks.rows, total, threads * blocks.rows) for at in range(threads)]
    if threads == 1:
        work(shares[0])
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="curate-vectors") as pool:
            list(pool.map(work, shares))
    return RowScores(scores, dict(sorted(problems.items())), kept)


def unit_block(block: Floats, buffer: Units, *, normalize: bool) -> tuple[Units, dict[int, str]]:
    """The unit vectors of (n, 768) rows, and what is wrong with those that are none: zeros then.

    `buffer` is overwritten, and is what the result lies in unless `block` can be used as it is.
    """
    units = _widened(block, buffer)
    squares = squared_lengths(units)
    if normalize:
        sure = (squares > _TINIEST_SQUARE) & (squares < _HALF_INFINITY**2)
    else:
        sure = np.abs(np.sqrt(squares) - 1) < UNIT_TOLERANCE - _UNDECIDED
    rest = np.flatnonzero(~sure)  # NaN is not sure either
    if normalize or len(rest):
        scale = np.ones(len(block), np.float32)
        if normalize:
            scale[sure] = 1 / np.sqrt(squares[sure])
        scale[rest] = 0
        with np.errstate(invalid="ignore"):  # infinity times 0
            units = np.multiply(units, scale[:, None], out=buffer[: len(block)])
    problems = {}
    for row in rest:
        vector, problem = _judged(block[row].astype(np.float64), normalize)
        units[row] = vector
        if problem:
            problems[int(row)] = problem
    return units, problems


def squared_lengths(vectors: Units) -> NDArray[np.float64]:
    """(n, 768) -> (n,), good to seven digits."""
    groups = vectors.reshape(-1, GROUPS, EMBEDDING_DIM // GROUPS)
    with np.errstate(over="ignore", invalid="ignore"):
        sums: NDArray[np.float64] = np.einsum("ngk,ngk->ng", groups, groups).sum(
            axis=1, dtype=np.float64
        )
    return sums


def grouped_dot(vectors: Units, weight: Units) -> NDArray[np.float64]:
    """(n, 768) times (768,) -> (n,), good to seven digits."""
    groups = vectors.reshape(-1, GROUPS, EMBEDDING_DIM // GROUPS)
    # einsum, not BLAS: as fast for one vector of weights, and it starts no threads of its own.
    sums: NDArray[np.float64] = np.einsum("ngk,gk->ng", groups, weight.reshape(GROUPS, -1)).sum(
        axis=1, dtype=np.float64
    )
    return sums


def _judged(vector: NDArray[np.float64], normalize: bool) -> tuple[Any, str]:
    """A row by the rule itself: what to score, and what is wrong with it."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm):
        return 0, NOT_FINITE
    if normalize:
        return (vector / norm, "") if norm else (0, ZERO)
    if abs(norm - 1) > UNIT_TOLERANCE:
        return 0, NOT_UNIT.format(norm=norm)
    return vector, ""


def _widened(block: Floats, buffer: Units) -> Units:
    """The block in float32, in order: itself where it is that, else in `buffer`."""
    if block.dtype == np.float32 and block.dtype.isnative and block.flags.c_contiguous:
        return block
    out = buffer[: len(block)]
    if block.dtype == np.float16 and block.dtype.isnative:
        # Four passes that the compiler vectorises are four times as fast as numpy's own cast.
        bits = out.view(np.int32)
        np.copyto(bits, block.view(np.int16))
        np.left_shift(bits, _HALF_SHIFT, out=bits)
        np.bitwise_and(bits, _HALF_MASK, out=bits)
        np.multiply(out, _HALF_SCALE, out=out)
    else:
        with np.errstate(over="ignore"):  # becomes infinity, and is judged in float64
            np.copyto(out, block, casting="same_kind")
    return out
