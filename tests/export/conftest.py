"""A web server on this machine, for downloads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest


class FileServer(NamedTuple):
    url: str
    folder: Path
    requests: list[tuple[str, str | None]]  # path, Range header


class _Handler(SimpleHTTPRequestHandler):
    """Sends files and ranges of them. Under /cut/ a whole file breaks off half-way."""

    def __init__(self, *args: object, log: list[tuple[str, str | None]], **kwargs: object) -> None:
        self.requests = log
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        if self.path == "/busy":
            return self.send_error(503)
        path = Path(self.translate_path(self.path.removeprefix("/cut")))
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = len(data) // 2 if self.path.startswith("/cut/") and not wanted else len(data)
        self.wfile.write(data[start:stop])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[FileServer]:
    """A web server on this machine, over an empty folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    log: list[tuple[str, str | None]] = []
    handler = partial(_Handler, directory=str(folder), log=log)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield FileServer(f"http://127.0.0.1:{server.server_port}", folder, log)
        server.shutdown()
        thread.join()
