"""What goes wrong while images are on their way: nothing hangs, no good image lacks its score."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aesthetic_client import Client, ImageError
from aesthetic_serve import EmbeddedServer
from callers import CALLERS
from generated_images import encoded, texture

pytestmark = [pytest.mark.triton, pytest.mark.timeout(240)]

GOOD = [encoded(Image.fromarray(texture(64 + k, 80, 3, k)), "JPEG") for k in range(8)]
BAD = [(b"not an image", "unknown_format"), (GOOD[0][:-200], "corrupt"), (b"", "empty")]


@pytest.fixture
def server(tiny_repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tiny_repository) as server:
        yield server


def around(act: Callable[[], None]) -> Iterator[bytes]:
    """Good images: 40 before something happens, more while it does, and 60 after it."""
    happening = threading.Thread(target=act)
    for index in range(100_000):
        if index == 40:
            happening.start()
        if index >= 40 and not happening.is_alive():
            break
        time.sleep(0.01)
        yield GOOD[index % len(GOOD)]
    for more in range(index, index + 60):
        time.sleep(0.01)
        yield GOOD[more % len(GOOD)]


def assert_all_scored(results: list[Any], expected: list[float]) -> None:
    assert len(results) >= 100
    assert [result.index for result in results] == list(range(len(results)))
    failed = [str(result.error) for result in results if not result.ok]
    assert not failed
    for result in results:
        assert result.score == pytest.approx(expected[result.index % len(GOOD)], abs=1e-3)


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_two_hundred_mixed_images(tiny_server: EmbeddedServer, kind: str, protocol: str) -> None:
    mixed = [
        BAD[index // 3 % len(BAD)][0] if index % 3 == 0 else GOOD[index % len(GOOD)]
        for index in range(200)
    ]
    with CALLERS[kind](getattr(tiny_server, f"{protocol}_url"), timeout_s=60) as client:
        expected = [client.score(image).score for image in GOOD]
        results = list(client.score_many(mixed, in_flight=50))
    for index, result in enumerate(results):
        if index % 3 == 0:
            assert isinstance(result.error, ImageError)
            assert result.error.code == BAD[index // 3 % len(BAD)][1]
        else:
            assert result.score == pytest.approx(expected[index % len(GOOD)], abs=1e-3)


def test_bad_images_share_batches_with_good_ones(tiny_server: EmbeddedServer) -> None:
    """The test above means something only if the server did batch them."""
    import tritonclient.grpc as grpc

    with (
        grpc.InferenceServerClient(tiny_server.grpc_url.removeprefix("grpc://")) as triton,
        Client(tiny_server.grpc_url) as client,
    ):

        def counts() -> tuple[int, int]:
            (stats,) = triton.get_inference_statistics("preprocess").model_stats
            # Failed requests count as executions only: compare what was asked with what ran.
            return stats.inference_count, stats.execution_count

        before = counts()
        list(client.score_many([GOOD[0], b"bad"] * 100, in_flight=64))
        after = counts()
    assert after[1] - before[1] < 150


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("model", ["clip_image", "preprocess", "aesthetic_heads"])
def test_a_killed_stub(server: EmbeddedServer, kind: str, model: str) -> None:
    with CALLERS[kind](server.grpc_url, timeout_s=60, retry_s=60) as client:
        expected = [client.score(image).score for image in GOOD]

        def kill() -> None:
            os.kill(stub_of(server, model), signal.SIGKILL)

        results = list(client.score_many(around(kill), in_flight=8))
    assert_all_scored(results, expected)
    assert server.restarts >= 1


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_killed_server(server: EmbeddedServer, kind: str, protocol: str) -> None:
    with CALLERS[kind](getattr(server, f"{protocol}_url"), timeout_s=60, retry_s=60) as client:
        expected = [client.score(image).score for image in GOOD]
        pid = server.pid
        assert pid is not None
        images = around(lambda: os.kill(pid, signal.SIGKILL))
        results = list(client.score_many(images, in_flight=8))
    assert_all_scored(results, expected)
    assert server.restarts >= 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_is_replaced(tiny_repository: Path, protocol: str) -> None:
    """Stopped properly, requests in flight, and started again on its ports a while later."""
    first = EmbeddedServer(tiny_repository).start()
    second = EmbeddedServer(tiny_repository, grpc_port=first.ports.grpc, http_port=first.ports.http)

    def replace() -> None:
        first.stop()
        time.sleep(1)
        second.start()

    try:
        with Client(getattr(first, f"{protocol}_url"), timeout_s=60, retry_s=60) as client:
            expected = [client.score(image).score for image in GOOD]
            results = list(client.score_many(around(replace), in_flight=8))
        assert_all_scored(results, expected)
    finally:
        first.stop()
        second.stop()


def test_patience_has_an_end(tiny_repository: Path) -> None:
    """A server that goes and stays away: errors for the rest, within the patience, no hang."""
    server = EmbeddedServer(tiny_repository).start()
    try:
        with Client(server.grpc_url, timeout_s=20, retry_s=2) as client:
            images = around(server.stop)
            start = time.monotonic()
            results = list(client.score_many(images, in_flight=8))
    finally:
        server.stop()
    assert len(results) >= 100 and time.monotonic() - start < 100
    assert results[0].ok and not results[-1].ok
    assert "is not available" in str(results[-1].error) or "no connection" in str(results[-1].error)


def stub_of(server: EmbeddedServer, model: str) -> int:
    """The process of a model's Python instance: the model's path is in its arguments."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().decode().split("\0")
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == server.pid and any(f"/{model}/" in word for word in arguments):
            return int(process.name)
    pytest.fail(f"no stub of {model} below {server.pid}")
