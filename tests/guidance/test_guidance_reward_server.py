"""The reward server over real sockets: what a trainer sends, and what it gets."""

from __future__ import annotations

import base64
import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from reward_servers import LIMIT, ask, serving

from aesthetic_client import Client
from aesthetic_client.cli import main
from aesthetic_client.contract import DEFAULT_HEAD, HEADS, SEEDED_WEIGHTS
from aesthetic_client.errors import InputError, UnavailableError
from aesthetic_guidance.cli import reward_server
from aesthetic_guidance.http_rewards import http_reward
from aesthetic_guidance.reward_images import png_bytes
from aesthetic_guidance.rewards import aesthetic_reward
from generated_images import texture

pytestmark = pytest.mark.triton
OTHER = HEADS[1].name
VECTOR = np.random.default_rng(5).standard_normal(768)


@pytest.fixture(scope="module")
def address(tiny_server):
    with serving(tiny_server.grpc_url) as address:
        yield address


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([texture(64, 48, 3, seed=k) for k in range(9)])


@pytest.fixture(scope="module")
def expected(tiny_server, images) -> dict[str, np.ndarray]:
    """From the Triton server itself."""
    with Client(tiny_server.grpc_url) as client:
        head = [(DEFAULT_HEAD.name, 1.0), (OTHER, 1.0), (VECTOR, 1.0)]
        return aesthetic_reward(client, head)(images)[1]["terms"]


def in_base64(image: Any) -> str:
    return base64.b64encode(png_bytes(image)).decode()


def test_scores_terms_and_health(address, images, expected):
    texts = [in_base64(image) for image in images]
    texts[1] = f"data:image/png;base64,{texts[1]}"
    body = {"images": texts, "prompts": ["a"] * 9, "metadata": {"any": [1]}}
    status, found = ask(address, body)
    assert (status, found["errors"], found["meaningless"]) == (200, {}, SEEDED_WEIGHTS)
    assert np.abs(np.array(found["scores"]) - expected[DEFAULT_HEAD.name]).max() < 1e-4
    head = {HEADS[0].output: 0.5, OTHER: -2}
    _, found = ask(address, {**body, "head": head, "like": VECTOR.tolist(), "like_weight": 3})
    total = 0.5 * expected[DEFAULT_HEAD.name] - 2 * expected[OTHER] + 3 * expected["like"]
    assert np.abs(np.array(found["scores"]) - total).max() < 1e-4
    assert list(found["terms"]) == [HEADS[0].output, OTHER, "like"]
    _, found = ask(address, {"images": texts[:2], "like": (VECTOR * 9).tolist()})
    assert np.abs(np.array(found["scores"]) - expected["like"][:2]).max() < 1e-4
    status, found = ask(address, None, "GET", "/health")
    assert (status, found["status"], found["meaningless"]) == (200, "ok", SEEDED_WEIGHTS)
    assert DEFAULT_HEAD.name in found["heads"] and found["models"]["aesthetic"] is True
    assert ask(address, {"images": []})[1]["scores"] == []


def test_a_bad_image_fails_alone(address, images, expected):
    texts = [in_base64(image) for image in images[:4]]
    bad = {1: base64.b64encode(b"not a picture").decode(), 2: "###", 4: ""}
    for at, text in bad.items():
        texts[at:at] = [text]
    status, found = ask(address, {"images": texts})
    assert status == 200 and sorted(found["errors"]) == ["1", "2", "4"]
    assert [score is None for score in found["scores"]] == [at in bad for at in range(7)]
    assert "no base64" in found["errors"]["2"] and "[empty]" in found["errors"]["4"]
    good = [score for score in found["scores"] if score is not None]
    assert np.abs(np.array(good) - expected[DEFAULT_HEAD.name][:4]).max() < 1e-4


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b"{", "", "no JSON"),
        (b"[" * 100_000, "", "no JSON: is nested too deeply"),
        (b"\xff", "", "no JSON"),
        ([], "", "no JSON object"),
        ({"image": []}, "image", "no such field"),
        ({}, "images", "is missing"),
        ({"images": "AAAA"}, "images", "expected a list, got a string"),
        ({"images": ["AAAA", 3]}, "images[1]", "expected a string, got a number"),
        ({"images": [""] * 1025}, "images", "the limit is 1024"),
        ({"images": ["", ""], "prompts": ["a"]}, "prompts", "1 texts for 2 images"),
        ({"images": [""], "prompts": [None]}, "prompts[0]", "got null"),
        ({"images": [""], "head": 3}, "head", "got a number"),
        ({"images": [""], "head": "nonsense"}, "head", "'nonsense' is served; these are"),
        ({"images": [""], "head": {OTHER: "x"}}, "head", "weight"),
        ({"images": [""], "head": {}}, "head", "at least one"),
        ({"images": [""], "like": [1, 2]}, "like", "got (2,)"),
        ({"images": [""], "like": [0] * 768}, "like", "all zero"),
        ({"images": [""], "like": [float("nan")] * 768}, "like", "NaN"),
        ({"images": [""], "like": ["a"] * 768}, "like", "expected"),
        ({"images": [""], "like": [1] * 768, "like_weight": True}, "like_weight", "finite"),
        ({"images": [""], "like_weight": 2}, "like_weight", "`like`, which is missing"),
        ({"images": [""], "like": [10**400] * 768}, "like", "beyond 1e308"),
        ({"images": [""], "like": [1] * 768, "like_weight": 10**400}, "like_weight", "1e308"),
        ({"images": [""], "head": {OTHER: 10**400}}, "head", "beyond 1e308"),
        ({"\ud800": 1}, "\\ud800", "no such field"),
        ({"images": [""], "head": "\ud800"}, "head", "is served; these are"),
        ({"images": [""], "head": "like", "like": [1] * 768}, "head", "names a head and the"),
    ],
)
def test_requests_that_cannot_be_used_are_told_why(address, body, field, words):
    status, found = ask(address, body)
    assert status == 400 and list(found) == ["error"]
    assert found["error"]["field"] == field and words in found["error"]["message"]


def test_bodies_beyond_the_limit_and_other_paths(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as announced:
        size = str(LIMIT + 1).encode()
        announced.sendall(
            b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: " + size + b"\r\n\r\n"
        )
        answer = announced.makefile("rb").read()  # to the end: the connection is closed
        assert answer.startswith(b"HTTP/1.1 413") and str(LIMIT).encode() in answer
    with socket.create_connection((host, int(port)), timeout=20) as chunked:
        chunked.sendall(b"POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):  # the answer may come, and end it, before the end
            for _ in range(20):
                chunked.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        with contextlib.suppress(ConnectionResetError):  # what it had not read yet resets it
            assert chunked.recv(64).startswith(b"HTTP/1.1 413")
    assert ask(address, None, "GET", "/score")[0] == 405
    status, found = ask(address, {}, path="/other")
    assert status == 404 and found["error"]["message"] == "Not Found"


def test_many_requests_at_once_keep_their_own_scores(address, images, expected):
    def one(at: int) -> list[float]:
        found = ask(address, {"images": [in_base64(images[at % 9]), in_base64(images[0])]})
        assert found[0] == 200
        return list(found[1]["scores"])

    with ThreadPoolExecutor(24) as pool:
        scores = np.array(list(pool.map(one, range(48))))
    wanted = expected[DEFAULT_HEAD.name]
    assert np.abs(scores[:, 0] - wanted[np.arange(48) % 9]).max() < 1e-4
    assert np.abs(scores[:, 1] - wanted[0]).max() < 1e-4


def test_the_client_function_is_the_same_reward(address, images, expected):
    with http_reward(address, [(OTHER, 2), (VECTOR, 0.5)]) as reward:
        rewards, info = reward(images, ["a"] * 9, None)
    total = 2 * expected[OTHER] + 0.5 * expected["like"]
    assert rewards.dtype == np.float32 and np.abs(rewards - total).max() < 1e-4
    assert np.abs(info["terms"]["like"] - expected["like"]).max() < 1e-4
    assert info["meaningless"] == SEEDED_WEIGHTS
    batch = [*images[:3], b"not a picture", np.full((3, 3, 3), np.nan, np.float32)]
    rewards, info = http_reward(address, on_error="nan")(batch)
    assert np.flatnonzero(np.isnan(rewards)).tolist() == [3, 4] == sorted(info["errors"])
    with pytest.raises(InputError, match=r"images\[3\]: "):
        http_reward(address)(batch[:4])
    with pytest.raises(InputError, match="'nonsense' is served"):
        http_reward(address, "nonsense")(images)
    with pytest.raises(InputError, match="one vector"):
        http_reward(address, [(VECTOR, 1), (VECTOR, 2)])
    with pytest.raises(InputError, match="expected http://host:port"):
        http_reward("ftp://host")


def test_a_triton_that_is_away_is_a_503(images):
    with serving("127.0.0.1:1") as away:
        assert ask(away, None, "GET", "/health") == (
            503,
            {"status": "unavailable", "server": "", "models": {m: False for m in MODEL_NAMES}},
        )
        status, found = ask(away, {"images": [in_base64(images[0])]})
        assert status == 503 and "127.0.0.1:1" in found["error"]["message"]
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
            http_reward(away, retry_s=0)(images[:1])
    with pytest.raises(UnavailableError, match="refused"):
        http_reward(away, retry_s=0)(images[:1])


MODEL_NAMES = ("preprocess", "clip_image", "aesthetic_heads", "aesthetic", "aesthetic_pixels")


def test_the_command_serves_until_it_is_told_to_stop(tiny_server, images, expected):
    command = (sys.executable, "-m", "aesthetic_client.cli", "guide", "reward-server")
    with subprocess.Popen(
        [*command, "--url", tiny_server.grpc_url, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline()
        found = re.search(r"rewards at (http://127\.0\.0\.1:\d+)/score", line)
        assert found is not None, process.stderr.read()
        rewards, _ = http_reward(found[1])(images[:2])
        assert np.abs(rewards - expected[DEFAULT_HEAD.name][:2]).max() < 1e-4
        taken = subprocess.run(
            [*command, "--url", "localhost:1", "--port", found[1].rpartition(":")[2]],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert taken.returncode == 2 and "cannot listen on 127.0.0.1" in taken.stderr
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and time.monotonic() - started < 10
        said = process.stderr.read()
    assert "WARNING: clip_image has weights: seeded" in said and "Traceback" not in said


@pytest.mark.parametrize("decode", ["client", "server"])
def test_kernels_are_compiled_before_requests_come(decode, monkeypatch, capsys):
    monkeypatch.setattr(reward_server, "warm_up", lambda: "ImportError: no numba")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that it ends after that
        port = str(taken.getsockname()[1])
        arguments = ["--url", "localhost:1", "--port", port, "--decode", decode]
        assert main(["guide", "reward-server", *arguments]) == 2
    said = capsys.readouterr().err
    assert ("ImportError: no numba" in said) is (decode == "client")
    assert "cannot listen" in said


@pytest.mark.parametrize("command", ["reward-server", "embed", "compare"])
def test_the_started_server_is_of_the_asked_profile(
    command, tiny_repository, tmp_path, images, capsys
):
    """Asked for one that was not exported, it refuses to start."""
    (tmp_path / "a.png").write_bytes(png_bytes(images[0]))
    photos, output = str(tmp_path), str(tmp_path / "out")
    arguments = {
        "reward-server": ["--port", "0"],
        "embed": [photos, "-o", f"{output}.safetensors"],
        "compare": [photos, photos, "-o", f"{output}.svg"],
    }[command]
    chosen = ["--repository", str(tiny_repository), "--profile", "int8"]
    assert main(["guide", command, *arguments, *chosen]) == 2
    assert "--model clip_image --precision int8" in capsys.readouterr().err
    assert main(["guide", command, *arguments, "--url", "localhost:1", "--profile", "int8"]) == 2
    assert "--profile is for a started server" in capsys.readouterr().err
