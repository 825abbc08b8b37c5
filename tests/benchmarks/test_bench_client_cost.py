"""The instant server answers as Triton does, and the client's cost is measured against it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import client_cost
import numpy as np
import pytest
import report
from aesthetic_bench import client_cases, client_loops, client_tables
from aesthetic_bench.instant_server import EMBEDDING, SCORE, InstantServer

from aesthetic_client import HEADS, Client, DeadlineError, contract

PIXELS = np.zeros((8, 224, 224, 3), np.uint8)


@pytest.fixture(scope="module")
def server() -> Iterator[InstantServer]:
    with InstantServer() as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def client(server: InstantServer, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(server.urls[request.param], timeout_s=30) as client:
        yield client


def test_it_says_what_it_serves(client: Client) -> None:
    assert client.heads() == HEADS
    health = client.health()
    assert health.ready and health.models == {model.name: True for model in contract.MODELS}
    assert client.provenance() == {}


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_it_scores_as_many_images_as_it_is_sent(client: Client, rows: int) -> None:
    """Requests of one shape and different outputs, one after another, get their own answers."""
    for images in (PIXELS[:rows], [b"file" * 50_000] * rows):
        for heads in (None, "all"):
            results = client.score_batch(list(images), heads=heads, embedding=True)
            assert len(results) == rows
            for result in results:
                assert len(result.scores) == (len(HEADS) if heads else 1)
                assert set(result.scores.values()) == {SCORE}
                assert np.array_equal(result.embedding, EMBEDDING)


def test_it_scores_embeddings(client: Client) -> None:
    scores = client.score_embeddings(np.tile(EMBEDDING, (5000, 1)))
    assert scores.shape == (5000,) and set(scores.tolist()) == {SCORE}


def test_it_ends_with_its_block() -> None:
    with InstantServer() as server:
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_request_holds_its_images_in_turn() -> None:
    payload = client_loops.Payload("numbers", list(range(10)), 4)
    assert [payload.batch(number) for number in (0, 2)] == [[0, 1, 2, 3], [8, 9, 0, 1]]


def test_each_thread_sends_requests_of_its_own_and_failures_come_out() -> None:
    sent: list[int] = []

    def send(number: int) -> None:
        sent.append(number)
        if len(sent) > 50:
            raise DeadlineError("late")

    with pytest.raises(DeadlineError, match="late"):
        client_loops.run_threads(send, 3, 30)
    assert len(set(sent)) == len(sent) >= 51


def test_usage_is_counted_by_image() -> None:
    ticks = client_cases.Ticks(0, 0, 0, 0)
    before = client_cases.Usage(10.0, 1.0, 2.0, ticks)
    after = client_cases.Usage(12.0, 2.0, 2.5, client_cases.Ticks(4, 3, 0, 1))
    assert after.since(before, 100, 8) == {
        "requests_per_s": 50.0,
        "images_per_s": 400.0,
        "client_us_per_image": 1250.0,
        "client_cores": 0.5,
        "server_us_per_image": 625.0,
        "server_cores": 0.25,
        "others_cores": 0.75,
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bench") / "new" / "client.json"
    options = ["--seconds", "0.1", "--rounds", "1", "--in-flight", "2"]
    assert client_cost.main([*options, "--output", str(output)]) == 0
    return output


def test_every_way_and_stage_is_measured(results: Path) -> None:
    record = json.loads(results.read_text())
    cases = {(case["payload"], case["way"]): case for case in record["cases"]}
    payloads = {"pixels": 1, "batches of pixels": 8, "files": 1}
    assert list(cases) == [(name, way) for name in payloads for way in client_cases.WAYS]
    for (name, _), case in cases.items():
        assert case["images_per_request"] == payloads[name]
        assert case["images_per_s"] == pytest.approx(case["requests_per_s"] * payloads[name])
        assert case["requests_per_s"] > 0 and case["client_us_per_image"] > 0
        assert [round["images_per_s"] for round in case["rounds"]] == [case["images_per_s"]]
    for name in payloads:
        assert list(record["stages"][name]) == list(client_cases.STAGES)
        times: list[Any] = [t for stage in record["stages"][name].values() for t in stage.values()]
        assert all(math.isfinite(time) and time > 0 for time in times)
    assert set(record["targets"]) == set(client_cases.TARGETS)
    assert record["versions"]["tritonclient"] and record["machine"]["usable_cores"] >= 1


def test_results_are_shown_as_tables(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(results)]) == 0
    shown = capsys.readouterr().out
    assert "| batches of pixels: Client.score_many | " in shown
    assert "| send and wait | " in shown and "images/s by Client.score_" in shown


def test_company_and_missed_targets_are_said(results: Path) -> None:
    record = json.loads(results.read_text())
    record["machine"]["usable_cores"] = 4
    for case in record["cases"]:
        case["others_cores"] = 0.1
    record["targets"]["pixels"] |= {"images_per_s": 900.0, "reached": False}
    shown = client_tables.markdown(record)
    assert "QUIET" not in shown and "- pixels: 900 images/s by Client." in shown
    assert "MISSES 1,000" in shown
    record["cases"][3]["others_cores"] = 1.0
    assert "NOT A QUIET MACHINE: others took up to 25% of" in client_tables.markdown(record)


def test_arguments_that_measure_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--seconds", "--rounds", "--in-flight"):
        with pytest.raises(SystemExit):
            client_cost.main([option, "0"])
        assert "must be above 0" in capsys.readouterr().err


def test_a_run_that_fails_ends_with_its_reason_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(*_: object) -> None:
        raise DeadlineError("no answer within 1 s")

    monkeypatch.setattr(client_cases, "run_threads", late)
    output = tmp_path / "found.json"
    assert client_cost.main(["--seconds", "0.1", "--output", str(output)]) == 1
    assert "error: no answer within 1 s" in capsys.readouterr().err
    assert not output.exists()
