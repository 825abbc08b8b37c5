"""Vectors a minute: stored embeddings by the heads in numpy, by a server, and by a torch loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aesthetic_client import Client, contract
from aesthetic_curate.embeddings import open_embeddings, score_embedding_chunk
from aesthetic_curate.local_heads import LocalHeads, heads_file
from aesthetic_curate.options import InputOptions
from aesthetic_curate.samples import EMBEDDING_CHUNK_ROWS, EmbeddingChunk
from aesthetic_curate.shards import Shard
from aesthetic_curate.vectors import Blocks

from .company import Ticks
from .embedding_tables import KIND
from .errors import BenchError
from .machine import versions
from .measurements import medians
from .records import Begun
from .torch_loop import head_module

Say = Callable[[str], None]
Scores = np.ndarray[Any, Any]
Way = Callable[[EmbeddingChunk], Scores]  # a chunk to the default head's scores

LOCAL, LOCAL_ALL = "local heads, the default", "local heads, all five"
LOCAL_ONE = "local heads, the default, on one thread"
SERVED, SERVED_ALL = "server, the default head", "server, all five"
TORCH = "torch loop: the default head's five layers"
LOOP_BATCH = 4096
SAME = 2e-5  # points of a score
METHOD = (
    "Each way reads the file through from its start, chunk by chunk, and scores it, again and "
    "again for the seconds of a case; the ways follow one another in every round, and the medians "
    "of the rounds count. Local heads and server check every vector's length, the torch loop "
    "checks nothing. ns_per_vector: processor time of this process; the server's is not in it, "
    "though it shares the machine. The files are in the page cache. The parquet is as pyarrow "
    "writes a column of fixed-size lists by default."
)


@dataclass(frozen=True)
class Settings:
    """A run. `repository` holds the heads; `url` is a server of the same, None to start one."""

    repository: Path
    url: str | None = None
    rows: int = 100_000
    seconds: float = 3.0
    rounds: int = 3


def run(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """The record of one run. Raises BenchError, InputError or a ServeError."""
    begun = Begun()
    local = LocalHeads.read(heads_file(settings.repository))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="aesthetic-bench-")))
        say(f"writing {settings.rows} vectors")
        files = write_files(scratch, settings.rows)
        client = stack.enter_context(Client(_url(settings, stack, say)))
        ways = _ways(local, client)
        known = local.provenance[contract.AESTHETIC_HEADS.name]
        cases = [_Case(storage, way) for storage in files for way in ways]
        for case in cases:
            chunk = next(_chunks(files[case.storage]))
            case.check(ways[case.way](chunk), local, chunk, strict=_same_weights(case.way, known))
        for number in range(settings.rounds):
            for case in cases:
                say(f"round {number + 1}: {case.storage}, {case.way}")
                case.measure(files[case.storage], ways[case.way], settings.seconds)
        served = client.health().server
    return begun.record(
        KIND,
        METHOD,
        {**versions(served.removeprefix("triton "), "none"), "pyarrow": pa.__version__},
        weights=str(known["weights"]),
        parameters={
            "rows": settings.rows,
            "seconds": settings.seconds,
            "rounds": settings.rounds,
            "chunk_rows": EMBEDDING_CHUNK_ROWS,
            "local_blocks": asdict(local.blocks),
            "torch_batch": LOOP_BATCH,
            "torch_threads": _torch_threads(),
        },
        cases=[case.as_dict() for case in cases],
    )


class _Case:
    """One way over one file, round by round."""

    def __init__(self, storage: str, way: str) -> None:
        self.storage, self.way = storage, way
        self._difference: float | None = None
        self._rounds: list[dict[str, float]] = []

    def check(
        self, found: Scores, local: LocalHeads, chunk: EmbeddingChunk, *, strict: bool
    ) -> None:
        """That the ways do the same work. Raises BenchError. Also what warms each of them up."""
        head = contract.DEFAULT_HEAD
        expected = local.score(chunk.embeddings, [head])[head.output]
        if strict:
            self._difference = float(np.max(np.abs(found - expected)))
            if not self._difference <= SAME:
                raise BenchError(
                    f"{self.way} differs from the local heads by {self._difference:.1e}: they are "
                    "not of the same weights; name the server's repository with --repository"
                )

    def measure(self, file: Path, way: Way, seconds: float) -> None:
        rows, ticks = 0, Ticks.now()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            for chunk in _chunks(file):
                rows += len(way(chunk))
                if time.perf_counter() - begin >= seconds:
                    break
        took, cpu_s = time.perf_counter() - begin, time.process_time() - begin_cpu
        self._rounds.append(
            {
                "vectors_per_minute": 60 * rows / took,
                "ns_per_vector": 1e9 * cpu_s / rows,
                **Ticks.now().company_since(ticks),
            }
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "storage": self.storage,
            "way": self.way,
            **medians(self._rounds),
            "largest_difference_from_local": self._difference,
            "rounds": self._rounds,
        }


def write_files(folder: Path, rows: int) -> dict[str, Path]:
    """The same unit vectors by kind of storage."""
    random = np.random.default_rng(0)
    units = random.standard_normal((rows, contract.EMBEDDING_DIM), dtype=np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    files = {
        "npy, float16": folder / "half.npy",
        "npy, float32": folder / "single.npy",
        "parquet, float32": folder / "single.parquet",
    }
    np.save(files["npy, float16"], units.astype(np.float16))
    np.save(files["npy, float32"], units)
    column = pa.FixedSizeListArray.from_arrays(units.ravel(), contract.EMBEDDING_DIM)
    pq.write_table(pa.table({"embedding": column}), files["parquet, float32"])
    return files


def _chunks(file: Path) -> Iterator[EmbeddingChunk]:
    with open_embeddings(Shard("bench", "embeddings", str(file)), InputOptions()) as source:
        yield from source.chunks()


def _ways(local: LocalHeads, client: Client) -> dict[str, Way]:
    default = contract.DEFAULT_HEAD

    def here(heads: tuple[contract.Head, ...], blocks: Blocks = local.blocks) -> Way:
        def score(chunk: EmbeddingChunk) -> Scores:
            scored = score_embedding_chunk(chunk, local.score_units, heads, blocks=blocks)
            return scored.scores[default.output]

        return score

    return {
        LOCAL: here((default,)),
        LOCAL_ONE: here((default,), Blocks(local.blocks.rows, 1)),
        LOCAL_ALL: here(local.heads),
        SERVED: lambda chunk: client.score_embeddings(chunk.embeddings),
        SERVED_ALL: lambda chunk: client.score_embeddings_by_head(chunk.embeddings)[default.name],
        TORCH: _torch_loop(local),
    }


def _torch_loop(local: LocalHeads) -> Way:
    """The published example's head, layer by layer, over batches."""
    import torch

    head = head_module(int(local.provenance[contract.AESTHETIC_HEADS.name].get("seed", 0)))

    def score(chunk: EmbeddingChunk) -> Scores:
        found = []
        with torch.no_grad():
            for start in range(0, len(chunk.keys), LOOP_BATCH):
                batch = np.array(chunk.embeddings[start : start + LOOP_BATCH])
                found.append(head(torch.from_numpy(batch).float())[:, 0].numpy())
        return np.concatenate(found)

    return score


def _same_weights(way: str, known: dict[str, Any]) -> bool:
    # The torch loop's layers are seeded ones: published heads are kept folded.
    return way != TORCH or known["weights"] == contract.SEEDED_WEIGHTS


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _url(settings: Settings, stack: ExitStack, say: Say) -> str:
    if settings.url is not None:
        return settings.url
    from aesthetic_serve import EmbeddedServer

    say("starting Triton")
    # Not supervised: its canary images would take processor time.
    return stack.enter_context(EmbeddedServer(settings.repository, supervise=False)).grpc_url
