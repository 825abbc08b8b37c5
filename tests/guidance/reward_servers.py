"""A reward server in this process, and plain requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from aesthetic_guidance.reward_service import Settings, reward_app

LIMIT = 1 << 20


@contextlib.contextmanager
def serving(url: str) -> Iterator[str]:
    """The service on a free port of this machine, in a thread; its address."""
    app = reward_app(Settings(url, in_flight=4, timeout_s=20, max_body_bytes=LIMIT))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
    assert not thread.is_alive()


def ask(address: str, body: Any, method: str = "POST", path: str = "/score") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with contextlib.closing(connection):
        connection.request(method, path, data)
        with connection.getresponse() as answer:
            return answer.status, json.loads(answer.read())
