"""The exported heads in numpy: stored embeddings are scored here, without a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client._wire import provenance_from_config
from aesthetic_client.contract import AESTHETIC_HEADS, HEADS_DATA, HEADS_DATA_FORMAT, Head
from aesthetic_client.errors import InputError
from aesthetic_client.paths import default_repository
from aesthetic_curate.vectors import Blocks, Floats, Units, grouped_dot, score_rows, squared_lengths

ANEW = f"`aesthetic export --model {AESTHETIC_HEADS.name}`"
# 1.5 MB in float32: a block stays in cache from its widening to its scores, and calls weigh little.
BLOCK_ROWS = 512

Tensors = Mapping[str, NDArray[Any]]
Evaluator = Callable[[Units], NDArray[np.float32]]  # (n, 768) -> (n,)


class LocalHeads:
    """Heads as `aesthetic export` wrote them. Thread-safe.

    Scores equal the server's to 2e-5: sums are in float32, in groups as in the served graph.
    """

    def __init__(self, tensors: Tensors, provenance: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError where the tensors are not the provenance's."""
        rows = provenance["heads"]
        self.heads = tuple(Head(row["name"], row["output"]) for row in rows)
        # As a server's `Client.provenance()`: by model.
        self.provenance = {AESTHETIC_HEADS.name: dict(provenance)}
        self.blocks = Blocks(BLOCK_ROWS, _cores())
        self._evaluators = {
            row["output"]: _evaluator(row["kind"], row["output"], tensors) for row in rows
        }

    @classmethod
    def read(cls, path: Path | None = None) -> LocalHeads:
        """The heads of a file, by default the one in the repository that is served by default.

        Raises InputError, with the command that writes the file.
        """
        from safetensors import SafetensorError, safe_open
        from safetensors.numpy import load_file

        path = path or heads_file(default_repository())
        if not path.is_file():
            raise InputError(f"{path}: there is no such file of heads; {ANEW} writes it")
        try:
            with safe_open(path, "numpy") as file:
                metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != HEADS_DATA_FORMAT:
                found = metadata.get("format", "none")
                raise ValueError(f"its format is {found}, expected {HEADS_DATA_FORMAT}")
            parameters = {key: {"string_value": value} for key, value in metadata.items()}
            return cls(load_file(path), provenance_from_config({"parameters": parameters}))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is no file of heads that this version reads ({error}); write it anew: "
                f"{ANEW}"
            ) from error

    def score(
        self,
        embeddings: Floats,
        heads: Sequence[Head] | None = None,
        *,
        normalize: bool = False,
    ) -> dict[str, NDArray[np.float32]]:
        """Scores (n,) by output name of (n, 768) of any float type; by default every head's.

        A row that is no unit vector within the client's tolerance has NaN; `normalize` takes rows
        of any length but zero. Raises EmbeddingError for another shape, InputError for a head that
        the file lacks.
        """
        asked = self.heads if heads is None else heads
        return score_rows(
            embeddings, self.score_units, asked, normalize=normalize, blocks=self.blocks
        ).scores

    def score_units(self, units: Units, heads: Sequence[Head]) -> dict[str, NDArray[np.float32]]:
        """Scores (n,) by output name of float32 unit vectors (n, 768), which are not checked."""
        for head in heads:
            if head.output not in self._evaluators:
                known = ", ".join(one.name for one in self.heads)
                raise InputError(f"no head named {head.name!r} is in the file; these are: {known}")
        return {head.output: self._evaluators[head.output](units) for head in heads}


def heads_file(repository: Path) -> Path:
    """Where `aesthetic export` writes the heads as data."""
    return repository / AESTHETIC_HEADS.name / "1" / HEADS_DATA


def _evaluator(kind: str, output: str, tensors: Tensors) -> Evaluator:
    if kind == "relu_mlp":
        return _relu_mlp(output, tensors)
    if kind not in ("affine", "scaled_affine"):
        raise ValueError(f"{output} is of the unknown kind {kind!r}")
    weight = tensors[f"{output}.weight"].astype(np.float32)
    bias = float(tensors[f"{output}.bias"].item())

    def affine(units: Units) -> NDArray[np.float32]:
        sums = grouped_dot(units, weight)
        if kind == "scaled_affine":
            sums /= np.maximum(np.sqrt(squared_lengths(units)), 1e-12)
        scores: NDArray[np.float32] = (sums + bias).astype(np.float32)
        return scores

    return affine


def _relu_mlp(output: str, tensors: Tensors) -> Evaluator:
    prefix = f"{output}.layers."
    count = sum(name.startswith(prefix) for name in tensors) // 2
    layers = [
        (np.ascontiguousarray(tensors[f"{prefix}{at}.weight"].T), tensors[f"{prefix}{at}.bias"])
        for at in range(count)
    ]
    if not layers:
        raise ValueError(f"{output} has no layers")

    def relu_mlp(units: Units) -> NDArray[np.float32]:
        value: NDArray[np.float32] = units
        for weight, bias in layers[:-1]:
            value = value @ weight
            value += bias
            np.maximum(value, 0, out=value)
        weight, bias = layers[-1]
        scores: NDArray[np.float32] = (value @ weight + bias)[:, 0]
        return scores

    return relu_mlp


def _cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
