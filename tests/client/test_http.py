"""Connections over HTTP: few, of any thread, closed by either side, and never a forked parent's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from aesthetic_client import _wire
from aesthetic_client._address import parse_address
from aesthetic_client._http import JSON_BYTES, AsyncHttpTransport, HttpTransport
from aesthetic_client.client import Client
from aesthetic_client.contract import HEADS, Head
from aesthetic_client.errors import DeadlineError, UnavailableError

VECTORS = np.eye(768, dtype=np.float32)
HEAD: Head = HEADS[0]
ROWS = 5


class Server(ThreadingHTTPServer):
    """Speaks enough of the KServe protocol; counts connections and keeps their sockets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sockets: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.delay_s = 0.02

    def process_request(self, request: Any, client_address: Any) -> None:
        self.sockets.append(request)
        super().process_request(request, client_address)

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""

    def drop_connections(self) -> None:
        for connection in self.sockets:
            self.shutdown_request(connection)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        time.sleep(self.server.delay_s)
        if self.path == "/behind/v2":
            self.answer(200, json.dumps({"name": "stand-in", "version": "1"}).encode())
        elif self.path.endswith("/ready"):
            self.answer(200 if "aesthetic_heads" in self.path else 400, b"")
        elif "proxy" in self.path:
            self.answer(502, b"<html>bad gateway</html>")
        else:
            self.answer(404, json.dumps({"error": f"unknown model {self.path}"}).encode())

    def do_POST(self) -> None:
        """The sum of each embedding's first values, as the score of the one head asked for."""
        self.server.headers.append(dict(self.headers.items()))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        at = int(self.headers[JSON_BYTES])
        asked = json.loads(body[:at])
        vectors = np.frombuffer(body[at:], np.float32).reshape(asked["inputs"][0]["shape"])
        scores = (vectors @ np.arange(768, dtype=np.float32)[:, None]).astype(np.float32)
        output = {"name": asked["outputs"][0]["name"], "datatype": "FP32"}
        output |= {"shape": list(scores.shape), "parameters": {"binary_data_size": scores.nbytes}}
        head = json.dumps({"model_name": "aesthetic_heads", "outputs": [output]}).encode()
        time.sleep(self.server.delay_s)
        self.answer(200, head + scores.tobytes(), {JSON_BYTES: str(len(head))})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield opened
        opened.drop_connections()
        opened.shutdown()
        thread.join()


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/behind"


def transport_of(server: Server, **headers: str) -> HttpTransport:
    return HttpTransport(parse_address(url_of(server)), headers, 5)


def test_threads_that_come_and_go_leave_no_connection(server: Server) -> None:
    with Client(url_of(server), retry_s=0) as client:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with ThreadPoolExecutor(3) as pool:
                asked = [pool.submit(client.score_embeddings, VECTORS[:ROWS]) for _ in range(6)]
                assert all(one.result().tolist() == [0, 1, 2, 3, 4] for one in asked)
        assert len(server.sockets) <= 3
        # Both ends are in this process.
        assert len(os.listdir("/proc/self/fd")) - before <= 6


def test_a_connection_that_the_server_closed_is_opened_anew(server: Server) -> None:
    transport = transport_of(server)
    assert transport.metadata(5)["name"] == "stand-in"
    server.drop_connections()
    assert transport.metadata(5)["version"] == "1"
    assert len(server.sockets) == 2
    transport.close()


def test_a_late_answer_is_no_other_requests(server: Server) -> None:
    server.delay_s = 0.5
    with Client(url_of(server), timeout_s=0.1) as client:
        with pytest.raises(DeadlineError, match="within the deadline"):
            client.score_embeddings(VECTORS[:ROWS])
        server.delay_s = 0
        assert client.score_embeddings(VECTORS[7:8]).tolist() == [7]
    assert len(server.sockets) == 2


def test_closing_ends_what_is_on_its_way(server: Server) -> None:
    server.delay_s = 3
    client = Client(url_of(server))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.score_embeddings, VECTORS[:ROWS])
        while not server.headers:
            time.sleep(0.01)
        start = time.monotonic()
        client.close()
        with pytest.raises(UnavailableError):
            asked.result(timeout=2)
        assert time.monotonic() - start < 2


FORKING = """
import os, sys
import numpy as np
from aesthetic_client import Client
client, vectors = Client(sys.argv[1]), np.eye(768, dtype=np.float32)[:5]
def right():
    return client.score_embeddings(vectors).tolist() == [0, 1, 2, 3, 4]
before = right()
child = os.fork()
if child == 0:
    os._exit(0 if right() else 1)
in_child = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
sys.exit(0 if before and in_child and right() else 1)
"""


def test_a_forked_child_has_connections_of_its_own(server: Server) -> None:
    """In a process of its own: to fork this one, which has threads, would test them."""
    command = [sys.executable, "-c", FORKING, url_of(server)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(server.sockets) == 2


def test_refusals_are_the_librarys(server: Server) -> None:
    transport = transport_of(server)
    assert transport.ready("aesthetic_heads", 5) and not transport.ready("other", 5)
    for model, status, words in (("other", "404", "unknown model"), ("proxy", "502", "Bad Gate")):
        with pytest.raises(InferenceServerException, match=words) as caught:
            transport.config(model, 5)
        assert caught.value.status() == status
    assert len(server.sockets) == 1
    transport.close()


def test_each_request_states_its_own_length(server: Server) -> None:
    transport = transport_of(server, authorization="x")
    for rows in (1, 100):
        transport.infer(_wire.embedding_requests(VECTORS[:rows], [HEAD])[0], 5)
    first, second = server.headers
    assert first["authorization"] == second["authorization"] == "x"
    assert first[JSON_BYTES] != second[JSON_BYTES]
    assert transport._headers == {"authorization": "x"}
    transport.close()


def test_asyncio_http_requests_share_no_headers() -> None:
    """Tasks that wrote their lengths into one dictionary would send each other's."""
    import tritonclient.http.aio

    transport = AsyncHttpTransport(parse_address("http://127.0.0.1:9"), {"authorization": "x"})
    transport._module, transport._client = tritonclient.http.aio, Recorder()
    with pytest.raises(InterruptedError):
        request = _wire.embedding_requests(VECTORS[:1], [HEAD])[0]
        transport.infer(request, 5).send(None)
    assert transport._headers == {"authorization": "x"}


class Recorder:
    """In a client's place: adds to the headers what the library adds."""

    def infer(self, model: str, inputs: Any, *, outputs: Any, headers: dict[str, Any]) -> Any:
        headers[JSON_BYTES] = len(model)
        raise InterruptedError
