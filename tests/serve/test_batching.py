"""Many requests, one run, errors where they belong; without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aesthetic_serve.backends.batching import Failure, Request, Result, Run
from aesthetic_serve.backends.batching import answer as answer_of
from aesthetic_serve.backends.onnxruntime.translation import explain


def answer(run: Run, requests: Sequence[Request], *, batching: bool) -> list[Result]:
    return answer_of(run, requests, batching=batching, explain=explain)


class Doubler:
    """y = 2 x, n = -x; refuses negative values. Remembers the rows of every run."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.feeds: list[dict[str, Any]] = []

    def __call__(self, outputs: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        self.rows.append(len(feed["x"]))
        self.feeds.append(feed)
        if (feed["x"] < 0).any():
            raise RuntimeError(
                "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : at /onnxruntime_src/core/op.cc:42 "
                "node <Op at 0x7f00dead>: negative\nsecond line"
            )
        return [{"y": feed["x"] * 2, "n": -feed["x"]}[name] for name in outputs]


def request(values: list[float], *outputs: str) -> Request:
    return Request({"x": np.array(values, np.float32).reshape(-1, 1)}, outputs or ("y",))


def test_requests_share_one_run_and_get_their_own_rows() -> None:
    run = Doubler()
    results = answer(run, [request([1]), request([2, 3]), request([4])], batching=True)
    assert run.rows == [4]
    assert [result["y"].ravel().tolist() for result in results] == [[2], [4, 6], [8]]


def test_a_lone_request_is_not_copied() -> None:
    run, lone = Doubler(), request([1, 2])
    answer(run, [lone], batching=True)
    assert run.feeds[0]["x"] is lone.inputs["x"]


def test_each_request_gets_the_outputs_it_asked_for_and_no_other() -> None:
    results = answer(
        Doubler(), [request([1], "n"), request([2], "y"), request([3], "n", "y")], batching=True
    )
    assert [sorted(result) for result in results] == [["n"], ["y"], ["n", "y"]]
    assert results[0]["n"].item() == -1
    assert results[1]["y"].item() == 4


def test_the_bad_request_alone_fails() -> None:
    run = Doubler()
    good, bad, other = answer(run, [request([1]), request([-1]), request([3])], batching=True)
    assert run.rows == [3, 1, 1, 1]
    assert good["y"].item() == 2
    assert other["y"].item() == 6
    assert isinstance(bad, Failure)


def test_a_failure_says_what_and_not_where() -> None:
    (bad,) = answer(Doubler(), [request([-1])], batching=True)
    assert bad == Failure("onnxruntime: at ... node <Op at ...>: negative", callers_fault=True)


def test_other_failures_are_not_the_callers_fault() -> None:
    def broken(outputs: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        raise MemoryError

    assert answer(broken, [request([1])], batching=True) == [
        Failure("onnxruntime: MemoryError", callers_fault=False)
    ]


def test_sizes_that_do_not_fit_together_are_run_apart() -> None:
    run = Doubler()
    wide = Request({"x": np.ones((1, 5), np.float32)}, ("y",))
    results = answer(run, [request([1]), wide, request([2])], batching=True)
    assert sorted(run.rows) == [1, 2]
    assert [result["y"].shape for result in results] == [(1, 1), (1, 5), (1, 1)]


def test_without_batching_nothing_is_concatenated() -> None:
    run = Doubler()
    answer(run, [request([1]), request([2])], batching=False)
    assert run.rows == [1, 1]


def test_a_model_that_loses_the_batch_axis_is_run_one_by_one() -> None:
    def mean(outputs: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        return [feed["x"].mean(axis=0, keepdims=True)]

    results = answer(mean, [request([1]), request([5])], batching=True)
    assert [result["y"].item() for result in results] == [1, 5]


@pytest.mark.parametrize("count", [1, 2])
def test_strings_go_in_as_text_and_come_out_as_bytes(count: int) -> None:
    def upper(outputs: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        return [np.array([[text.upper()] for text in feed["x"].ravel()], np.object_)]

    words = [Request({"x": np.array([["é".encode()]], np.object_)}, ("y",))] * count
    assert [r["y"].tolist() for r in answer(upper, words, batching=True)] == [
        [["É".encode()]]
    ] * count


def test_bytes_that_are_no_text_are_the_callers_fault() -> None:
    words = Request({"x": np.array([[b"\xff"]], np.object_)}, ("y",))
    (bad,) = answer(Doubler(), [words], batching=True)
    assert isinstance(bad, Failure)
    assert bad.callers_fault
    assert "utf-8" in bad.message
