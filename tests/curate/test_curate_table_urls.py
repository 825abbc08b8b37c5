"""Parquets with URLs of images: downloads, their limits, and reading ahead."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from curate_tables import OPTIONS, chunks, samples, table, write

from aesthetic_curate import downloads
from aesthetic_curate.ahead import ReadAhead
from aesthetic_curate.downloads import read_url
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.tar_headers import BLOCK


class Site(ThreadingHTTPServer):
    """A web site on this machine with every kind of trouble, and a count of what was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.asked: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.dead = False
        self.lock = threading.Lock()
        self.released = threading.Event()

    def handle_error(self, *_: object) -> None:
        """A client that hung up is what some tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Page(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        site, path = self.server, self.path
        with site.lock:
            site.asked[path] += 1
            site.at_once += 1
            site.most_at_once = max(site.most_at_once, site.at_once)
        try:
            self._answer(path)
        finally:
            with site.lock:
                site.at_once -= 1

    def _answer(self, path: str) -> None:
        data = path.encode()
        if path == "/gone" or self.server.dead:
            return self.send_error(404)
        if path == "/down" or (path == "/shaky" and self.server.asked[path] < 3):
            return self.send_error(503)
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/target")
            return self.end_headers()
        if path == "/slow":
            time.sleep(0.05)
        if path == "/stuck":
            self.server.released.wait(20)
        if path == "/drip":
            self.send_response(200)
            self.end_headers()
            while not self.server.released.wait(0.02):
                self.wfile.write(b"x")
            return None
        if path == "/large":
            data = b"x" * 5000
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) + (10 if path == "/cut" else 0)))
        self.end_headers()
        self.wfile.write(data)
        return None


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(downloads, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(downloads, "CONNECT_SECONDS", 2.0)
    server = Site()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_good_and_dead(tmp_path: Path, site: Site) -> None:
    pages = ["/0.jpg", "/gone", "/down", "/shaky", "/moved", "/cut", "/é x.jpg?a=%20b"]
    urls = [site.url + page for page in pages]
    path = write(tmp_path / "t.parquet", {"url": [*urls, None, "http://127.0.0.1:9/x"]})
    found = samples(table(path))
    assert [(s.status, s.image) for s in found] == [
        ("ok", b"/0.jpg"),
        ("unreadable", None),
        ("unreadable", None),
        ("ok", b"/shaky"),
        ("ok", b"/target"),
        ("unreadable", None),
        ("ok", b"/%C3%A9%20x.jpg?a=%20b"),
        ("no_image", None),
        ("unreadable", None),
    ]
    assert found[1].error == f"{site.url}/gone: HTTP 404"
    assert found[2].error == f"{site.url}/down: HTTP 503"
    assert found[5].error == f"{site.url}/cut: the connection closed before the end"
    assert "Connection refused" in found[8].error
    assert found[0].name == urls[0]
    # What may pass is tried three times, what will not once.
    asked = [site.asked[page] for page in ("/0.jpg", "/gone", "/down", "/shaky", "/cut")]
    assert asked == [1, 1, 3, 3, 3]


def test_many_urls_wait_at_once_and_keep_their_order(tmp_path: Path, site: Site) -> None:
    urls = [f"{site.url}/{'slow' if index % 2 else index}" for index in range(200)]
    path = write(tmp_path / "t.parquet", {"url": urls, "n": list(range(200))}, 30)
    options = InputOptions(url_threads=16)
    started = time.monotonic()
    found = chunks(table(path), options)
    assert time.monotonic() - started < 100 * 0.05  # one by one they would take 5 s
    assert [s.name for chunk in found for s in chunk.samples] == urls
    assert [n for chunk in found for n in chunk.metadata["n"].to_pylist()] == list(range(200))
    # The site counts a request until its handler ends, which may be after its answer arrived.
    assert 2 <= site.most_at_once <= 2 * 16


def test_what_was_downloaded_is_what_is_kept(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesthetic_curate.tables.GIVEN_ROWS", 300)
    urls = [f"{site.url}/{index}.jpg" for index in range(600)]
    path = write(tmp_path / "t.parquet", {"url": ["", *urls]})
    with open_source(table(path, 1), OPTIONS) as source:
        assert [len(chunk.samples) for chunk in source.chunks()] == [256, 256, 88]
        site.dead = True
        target = io.BytesIO()
        source.append_to(300, target)
        assert target.getvalue()[BLOCK:][:8] == b"/300.jpg"
        assert source.members(599)[0].data == b"/599.jpg"
        assert site.asked.total() == 600
        # What is no longer at hand is read again.
        with pytest.raises(UnreadableError, match=r"/299\.jpg: HTTP 404"):
            source.members(299)
        site.dead = False
        assert source.members(299)[0].data == b"/299.jpg"


def test_the_bytes_that_are_kept_have_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesthetic_curate.tables.GIVEN_BYTES", 20)
    names = [f"{index}.jpg" for index in range(5)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 2)  # 10 bytes
    path = write(tmp_path / "t.parquet", {"path": names})
    with open_source(table(path), OPTIONS) as source:
        for _ in range(2):  # what is given out again counts once
            list(source.chunks())
        for name in names:
            (tmp_path / name).write_bytes(b"other")
        found = [source.members(row)[0].data for row in range(5)]
        assert found == [b"other"] * 3 + [b"3.jpg3.jpg", b"4.jpg4.jpg"]


def test_a_url_that_never_answers_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CONNECT_SECONDS", 0.1)
    with pytest.raises(UnreadableError, match="/stuck: no answer in time"):
        read_url(f"{site.url}/stuck")
    assert site.asked["/stuck"] == 3


def test_a_url_that_drips_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TOTAL_SECONDS", 0.2)
    with pytest.raises(UnreadableError, match="/drip: no answer in time"):
        read_url(f"{site.url}/drip")
    assert site.asked["/drip"] == 3


def test_a_url_is_read_to_a_limit(site: Site) -> None:
    assert len(read_url(f"{site.url}/large", 5000)) == 5000
    with pytest.raises(UnreadableError, match="/large: has more than"):
        read_url(f"{site.url}/large", 4999)
    assert site.asked["/large"] == 2
    with pytest.raises(UnreadableError, match="http://"):
        read_url("http://")


def test_closing_ends_what_waits(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "WAITS", (60.0, 60.0))
    path = write(tmp_path / "t.parquet", {"url": [f"{site.url}/down"] * 50})
    started = time.monotonic()
    with open_source(table(path), InputOptions(url_threads=4)) as source:

        def read() -> None:
            with pytest.raises(RuntimeError, match="after shutdown"):
                list(source.chunks())

        reader = threading.Thread(target=read)
        reader.start()
        while site.asked["/down"] < 4:
            time.sleep(0.01)
    reader.join(10)
    assert not reader.is_alive() and time.monotonic() - started < 10


def test_reading_ahead_is_bounded() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for index in range(100):
            taken.append(index)
            yield index

    ahead = ReadAhead(2)
    results = ahead.map(lambda item: item * 2, items())
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(taken) <= 5 + 4
    ahead.close()
