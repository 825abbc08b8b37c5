"""Many requests, one run of the engine, and every error with the request that caused it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[Sequence[str], dict[str, Array]], Sequence[Array]]  # outputs' names, inputs


@dataclass(frozen=True)
class Request:
    """One request's arrays by input name, and the outputs it asked for."""

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """Why one request has no answer. `callers_fault`: another try would fail alike."""

    message: str
    callers_fault: bool


Result = dict[str, Array] | Failure
Explain = Callable[[Exception], Failure]


def answer(
    run: Run, requests: Sequence[Request], *, batching: bool, explain: Explain
) -> list[Result]:
    """One result a request, in order.

    Requests that can share a batch are concatenated along axis 0 and run at once. Where that run
    fails each of them runs by itself, so that only the one at fault gets the error, in the words of
    `explain`.
    """
    results: list[Result | None] = [None] * len(requests)
    for members in _groups(requests, batching=batching):
        group = [requests[i] for i in members]
        for i, result in zip(members, _answer_group(run, group, explain), strict=True):
            results[i] = result
    return [result for result in results if result is not None]


def _groups(requests: Sequence[Request], *, batching: bool) -> list[list[int]]:
    """Positions of requests that may share a run: equal inputs, types and sizes but the batch's."""
    groups: dict[object, list[int]] = {}
    for i, request in enumerate(requests):
        signature = tuple(sorted((k, a.dtype.str, a.shape[1:]) for k, a in request.inputs.items()))
        groups.setdefault(signature if batching else i, []).append(i)
    return list(groups.values())


def _answer_group(run: Run, group: Sequence[Request], explain: Explain) -> Sequence[Result]:
    if len(group) == 1:
        return [_answer_one(run, group[0], explain)]
    try:
        return _answer_together(run, group)
    except Exception:
        return [_answer_one(run, request, explain) for request in group]


def _answer_one(run: Run, request: Request, explain: Explain) -> Result:
    try:
        feed = {name: _for_engine(array) for name, array in request.inputs.items()}
        arrays = run(request.outputs, feed)
    except Exception as error:
        return explain(error)
    return {name: _for_triton(array) for name, array in zip(request.outputs, arrays, strict=True)}


def _answer_together(run: Run, group: Sequence[Request]) -> list[Result]:
    feed = {
        name: _for_engine(np.concatenate([request.inputs[name] for request in group]))
        for name in group[0].inputs
    }
    names = list(dict.fromkeys(name for request in group for name in request.outputs))
    arrays = dict(zip(names, map(_for_triton, run(names, feed)), strict=True))
    rows = [next(iter(request.inputs.values())).shape[0] for request in group]
    ends = np.cumsum(rows)
    if any(array.shape[:1] != (ends[-1],) for array in arrays.values()):
        raise ValueError("the model does not keep the batch axis")
    # Slices along axis 0 are views: nothing is copied here.
    return [
        {name: arrays[name][end - count : end] for name in request.outputs}
        for request, count, end in zip(group, rows, ends, strict=True)
    ]


def _for_engine(array: Array) -> Array:
    """Triton's BYTES are objects of `bytes`; engines' strings are `str`. Others pass unchanged."""
    if array.dtype != np.object_:
        return array
    text = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    return np.array(text, dtype=np.object_).reshape(array.shape)


def _for_triton(array: Array) -> Array:
    if array.dtype != np.object_:
        # A scalar output has no axes; Triton wants one.
        return array.reshape(1) if array.ndim == 0 else array
    data = [item.encode() if isinstance(item, str) else item for item in array.ravel()]
    return np.array(data, dtype=np.object_).reshape(array.shape or (1,))
