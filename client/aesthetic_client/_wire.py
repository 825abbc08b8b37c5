"""Requests and answers as values. No I/O: the clients, sync and async, add the waiting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import contract
from aesthetic_client.contract import Head, Tensor
from aesthetic_client.errors import EmbeddingError, InputError, ServerError
from aesthetic_client.images import Encoded, Prepared
from aesthetic_client.results import ScoreResult

Arrays = Mapping[str, NDArray[Any]]
UNIT_TOLERANCE = 1e-3  # of a norm; rounding a unit vector to fp16 moves it by less than 5e-4


@dataclass(frozen=True)
class Rows:
    """One input of a request: a row an item, `bytes` or an array of `tensor.dims`."""

    tensor: Tensor
    items: Sequence[bytes] | Sequence[NDArray[Any]] | NDArray[Any]

    def __len__(self) -> int:
        return len(self.items)

    def content(self) -> list[Any]:
        """The tensor as Triton's binary form has it, in buffers; nothing is copied but views."""
        if self.tensor.dtype == "BYTES":  # each element after its length
            return [p for item in self.items for p in (len(item).to_bytes(4, "little"), item)]
        blocks = [self.items] if isinstance(self.items, np.ndarray) else self.items
        return [np.ascontiguousarray(block) for block in blocks]

    def array(self) -> NDArray[Any]:
        """The tensor as one array."""
        if self.tensor.dtype != "BYTES":
            return np.asarray(self.items)
        elements = np.empty((len(self.items), 1), dtype=np.object_)
        elements[:, 0] = self.items
        return elements


@dataclass(frozen=True)
class Request:
    """One inference. Its inputs have equally many rows."""

    model: str
    inputs: tuple[Rows, ...]
    outputs: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs[0])


def score_request(items: Sequence[Encoded | Prepared], heads: Sequence[Head]) -> Request:
    """One request for `items`, which are all encoded or all prepared."""
    # Asked for even when the caller does not want it: Triton would drop the tower from the ensemble
    # (issue 7482 of its server). It is 3 KB.
    outputs = (*(head.output for head in heads), contract.EMBEDDING.name)
    if isinstance(items[0], Encoded):
        files = [item.data for item in items if isinstance(item, Encoded)]
        return Request(contract.AESTHETIC.name, (Rows(contract.IMAGE, files),), outputs)
    pixels = [item.pixels for item in items if isinstance(item, Prepared)]
    return Request(contract.AESTHETIC_PIXELS.name, (Rows(contract.PIXELS, pixels),), outputs)


def score_results(answer: Arrays, heads: Sequence[Head], embedding: bool) -> list[ScoreResult]:
    """One result an image from the arrays of an answer."""
    columns = {head.name: answer[head.output].reshape(-1) for head in heads}
    return [
        ScoreResult(
            {name: float(column[row]) for name, column in columns.items()},
            vector if embedding else None,
        )
        for row, vector in enumerate(answer[contract.EMBEDDING.name])
    ]


def embedding_requests(embeddings: NDArray[np.float32], heads: Sequence[Head]) -> list[Request]:
    """Requests for (n, 768) embeddings, as few as the served maximum batch allows."""
    outputs = tuple(head.output for head in heads)
    size = contract.MAX_EMBEDDING_BATCH
    return [
        Request(
            contract.AESTHETIC_HEADS.name,
            (Rows(contract.EMBEDDING, embeddings[start : start + size]),),
            outputs,
        )
        for start in range(0, len(embeddings), size)
    ]


def embedding_scores(
    answers: Sequence[Arrays], heads: Sequence[Head]
) -> dict[str, NDArray[np.float32]]:
    """Scores (n,) by head name, of the answers to `embedding_requests`."""
    empty = np.empty(0, np.float32)
    return {
        head.name: np.concatenate([empty, *(answer[head.output].reshape(-1) for answer in answers)])
        for head in heads
    }


def unit_embeddings(values: object, *, normalize: bool) -> NDArray[np.float32]:
    """(n, 768) float32 unit vectors from an array-like. Raises EmbeddingError, naming the row."""
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] != contract.EMBEDDING_DIM:
        raise EmbeddingError(
            f"expected shape (n, {contract.EMBEDDING_DIM}) of CLIP ViT-L/14, got {array.shape}"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise EmbeddingError(f"expected floating point embeddings, got {array.dtype}")
    # Half precision overflows when it is squared: widen before the norm.
    norms = np.linalg.norm(array.astype(np.float64), axis=1)
    _refuse(norms, ~np.isfinite(norms), "holds NaN or infinity")
    if normalize:
        _refuse(norms, norms == 0, "is all zero and has no direction")
        return np.ascontiguousarray(array.astype(np.float64) / norms[:, None], dtype=np.float32)
    _refuse(
        norms,
        np.abs(norms - 1) > UNIT_TOLERANCE,
        "has norm {norm:.4g}, expected 1: pass normalize=True for raw CLIP features",
    )
    return np.ascontiguousarray(array, dtype=np.float32)


def resolve_heads(asked: str | Iterable[str] | None, served: Sequence[Head]) -> tuple[Head, ...]:
    """Heads by their names or output names; None is the default head, "all" every served one."""
    if asked is None:
        return (contract.DEFAULT_HEAD,)
    if asked == "all":
        return tuple(served)
    by_name = {name: head for head in served for name in (head.output, head.name)}
    names = [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in by_name:
            known = ", ".join(head.name for head in served)
            raise InputError(f"no head named {name!r} is served; these are: {known}")
    return tuple(dict.fromkeys(by_name[name] for name in names))


def heads_from_config(config: Mapping[str, Any]) -> tuple[Head, ...]:
    """The heads of a served `aesthetic_heads`, from its model config."""
    names = {head.output: head.name for head in contract.HEADS}
    for row in provenance_from_config(config).get("heads", ()):
        names[row["output"]] = row["name"]
    return tuple(
        Head(names.get(output["name"], output["name"]), output["name"])
        for output in config.get("output", ())
    )


def provenance_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance fields of a served model, from its config's parameters; {} where it has none."""
    fields: dict[str, Any] = {}
    for key, value in config.get("parameters", {}).items():
        if key.startswith(contract.PROVENANCE_PREFIX):
            fields[key[len(contract.PROVENANCE_PREFIX) :]] = _parsed(value["string_value"])
    return fields


def check_answer(request: Request, answer: Arrays) -> None:
    """Raises ServerError where an answer lacks a row or an output of its request."""
    rows = len(request)
    for name in request.outputs:
        if name not in answer or len(answer[name]) != rows:
            raise ServerError(f"{request.model} answered without {rows} rows of {name}")


def _parsed(text: str) -> Any:
    if text[:1] in "{[":
        try:
            return json.loads(text)
        except ValueError:
            pass
    return text


def _refuse(norms: NDArray[np.float64], bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
        raise EmbeddingError(why.format(norm=norms[row]) + more, position=f"embeddings[{row}]")
