"""The reward server, and clients that stall or go; Triton's client is a slow stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from reward_servers import ask, serving

from aesthetic_client.contract import DEFAULT_HEAD, SEEDED_WEIGHTS
from aesthetic_client.errors import UnavailableError
from aesthetic_client.results import ScoreResult
from aesthetic_guidance import reward_bodies, reward_service, served_weights
from aesthetic_guidance.reward_bodies import Room

IMAGE = "AAAA"


class SlowClient:
    """Takes `seconds` an image; counts those begun, and those that were cancelled."""

    seconds, weights, away = 0.0, "openai", False
    begun, cancelled = 0, 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    async def score(self, *_: Any, **__: Any) -> ScoreResult:
        SlowClient.begun += 1
        if SlowClient.away:
            raise UnavailableError("away")
        try:
            await asyncio.sleep(SlowClient.seconds)
        except asyncio.CancelledError:
            SlowClient.cancelled += 1
            raise
        return ScoreResult({DEFAULT_HEAD.name: 1.0})

    async def provenance(self) -> dict[str, dict[str, str]]:
        return {"clip_image": {"weights": SlowClient.weights}}

    async def close(self) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(reward_service, "AsyncClient", SlowClient)
    for name in ("seconds", "weights", "away", "begun", "cancelled"):
        monkeypatch.setattr(SlowClient, name, getattr(SlowClient, name))
    with serving("localhost:1") as address:
        yield address


def sent(address: str, data: bytes, size: int) -> socket.socket:
    """A connection on which `data` of a body of `size` bytes has been sent."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def within(seconds: float, done: Any) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.02)
    return False


def test_connections_that_stall_hold_nobody_up(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_bodies, "IDLE_S", 1.5)
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(sent(address, b"{", 1000)) for _ in range(12)]
        started = time.monotonic()
        assert ask(address, {"images": [IMAGE]}) == (
            200,
            {"scores": [1.0], "errors": {}, "terms": {DEFAULT_HEAD.name: [1.0]}},
        )
        assert time.monotonic() - started < 1.4
        for connection in stalled:
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 408")


def test_clients_that_have_gone_are_not_scored_for(address: str) -> None:
    SlowClient.seconds = 60
    body = json.dumps({"images": [IMAGE] * 200}).encode()
    for _ in range(9):  # one more than are worked on at once: it waits for its turn
        with sent(address, body, len(body)):
            pass
    with sent(address, body, len(body)):
        assert within(5, lambda: SlowClient.begun >= 4)
    assert within(5, lambda: SlowClient.cancelled == SlowClient.begun)
    SlowClient.seconds = 0
    assert ask(address, {"images": [IMAGE]})[0] == 200


def test_whether_weights_are_random_is_asked_again(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_weights, "RECHECK_S", 0.3)
    assert "meaningless" not in ask(address, {"images": [IMAGE]})[1]
    SlowClient.weights = SEEDED_WEIGHTS
    time.sleep(0.4)
    assert ask(address, {"images": [IMAGE]})[1]["meaningless"] == SEEDED_WEIGHTS
    monkeypatch.setattr(served_weights, "RECHECK_S", 600)
    time.sleep(0.4)
    assert ask(address, {"images": [IMAGE]})[1]["meaningless"] == SEEDED_WEIGHTS
    SlowClient.weights, SlowClient.away = "openai", True
    assert ask(address, {"images": [IMAGE]})[0] == 503
    SlowClient.away = False
    assert "meaningless" not in ask(address, {"images": [IMAGE]})[1]


def test_room_is_waited_for_and_one_may_go_beyond() -> None:
    async def run() -> None:
        room = Room(10)
        await room.take("a", 6)
        await room.take("b", 6)  # beyond, as nobody else is
        third = asyncio.ensure_future(room.take("c", 3))
        await room.take("b", 100)  # who is beyond gets on
        await asyncio.sleep(0.01)
        assert not third.done()
        await room.give_back("b", 106)
        await asyncio.wait_for(third, 1)
        waiting = asyncio.ensure_future(room.take("d", 1))
        await asyncio.wait_for(waiting, 1)  # 6 + 3 + 1 fill it
        await room.take("e", 1)
        cancelled = asyncio.ensure_future(room.take("f", 1))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        for holder, count in (("a", 6), ("c", 3), ("d", 1), ("e", 1)):
            await room.give_back(holder, count)
        await asyncio.wait_for(room.take("g", 10), 1)

    asyncio.run(run())
