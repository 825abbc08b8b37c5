"""Parquets with images in them, or with paths and URLs of images."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_datasets import photo

from aesthetic_client.errors import InputError
from aesthetic_curate import downloads
from aesthetic_curate.ahead import ReadAhead
from aesthetic_curate.downloads import read_url
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.inputs import find_shards
from aesthetic_curate.opening import open_source
from aesthetic_curate.options import InputOptions
from aesthetic_curate.parquet_rows import ParquetRows
from aesthetic_curate.samples import Chunk, Sample
from aesthetic_curate.shards import Shard
from aesthetic_curate.tar_headers import BLOCK

OPTIONS = InputOptions()


def table(path: Path, start: int = 0, stop: int | None = None) -> Shard:
    return Shard(path.stem, "table", str(path), start, stop)


def write(path: Path, columns: dict[str, Any], row_group_size: int = 1000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def chunks(shard: Shard, options: InputOptions = OPTIONS) -> list[Chunk]:
    with open_source(shard, options) as source:
        found = list(source.chunks())
        assert sum(len(chunk.samples) for chunk in found) == len(source)
    return found


def samples(shard: Shard, options: InputOptions = OPTIONS) -> list[Sample]:
    return [sample for chunk in chunks(shard, options) for sample in chunk.samples]


def test_bytes_keys_and_metadata(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet",
        {
            "id": [7, None, 9],
            "image": [b"a", None, b""],
            "caption": ["x", "y", None],
            "raw": [b"r"] * 3,
        },
    )
    (chunk,) = chunks(table(path))
    empty = "the column image is empty here"
    assert list(chunk.samples) == [
        Sample("7", b"a"),
        Sample("000000001", status="no_image", error=empty),
        Sample("9", b""),
    ]
    assert chunk.metadata.to_pydict() == {"id": [7, None, 9], "caption": ["x", "y", None]}


def test_columns_that_are_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet", {"key": ["a"], "name": ["b"], "image": [b"i"], "thumb": [b"t"]}
    )
    named = InputOptions(key_column="name", image_column="thumb")
    assert samples(table(path), named) == [Sample("b", b"t")]
    assert samples(table(path)) == [Sample("a", b"i")]
    with pytest.raises(InputError, match=r"t\.parquet: has no column 'none'; it has key, name"):
        samples(table(path), InputOptions(key_column="none"))


def test_a_table_of_nothing_but_images(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"jpg": [photo(0), photo(1)]})
    (chunk,) = chunks(table(path))
    assert chunk.metadata is None
    assert [(s.key, s.image) for s in chunk.samples] == [
        ("000000000", photo(0)),
        ("000000001", photo(1)),
    ]


def test_hugging_face_structs(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.jpg").write_bytes(b"by path")
    images = [
        {"bytes": b"own", "path": "0.jpg"},
        {"bytes": None, "path": "files/1.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    path = write(tmp_path / "t.parquet", {"picture": images, "label": [1, 2, 3, 4]})
    found = samples(table(path))
    assert [(s.status, s.name, s.image) for s in found] == [
        ("ok", "0.jpg", b"own"),
        ("ok", "files/1.jpg", b"by path"),
        ("no_image", "", None),
        ("no_image", "", None),
    ]
    assert chunks(table(path))[0].metadata.column_names == ["label"]


def test_paths_are_looked_up_from_the_parquet(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"relative")
    outside = tmp_path / "b.jpg"
    outside.write_bytes(b"absolute")
    path = write(
        tmp_path / "sub" / "t.parquet",
        {"path": ["a.jpg", str(outside), f"file://{outside}", "../b.jpg", "c.jpg", ""]},
    )
    found = samples(table(path))
    assert [s.image for s in found] == [b"relative", *[b"absolute"] * 3, None, None]
    assert [s.status for s in found[4:]] == ["unreadable", "no_image"]
    assert found[4].error.endswith("sub/c.jpg: there is no such file")
    assert found[0].name == "a.jpg"


def test_a_path_with_a_zero_byte_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    path = write(tmp_path / "t.parquet", {"path": ["a\0.jpg", "a.jpg"]})
    found = samples(table(path))
    assert [(s.status, s.image) for s in found] == [("unreadable", None), ("ok", b"a")]
    assert found[0].error.endswith("embedded null byte")


def test_a_remote_table_of_paths(memory: str) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/images/0.jpg", b"zero")
    sink = io.BytesIO()
    names = ["images/0.jpg", "memory://bucket/images/0.jpg", "images/1.jpg"]
    pq.write_table(pa.table({"file_name": names}), sink)
    fs.pipe_file("/bucket/t.parquet", sink.getvalue())
    (shard,) = find_shards([memory + "/t.parquet"], OPTIONS)
    found = samples(shard)
    assert [(s.status, s.image) for s in found] == [
        ("ok", b"zero"),
        ("ok", b"zero"),
        ("unreadable", None),
    ]
    assert found[2].error == "memory://bucket/images/1.jpg: there is no such file"


@pytest.mark.parametrize("row_group_size", [1, 7, 100, 1000])
def test_slices_may_cut_row_groups(tmp_path: Path, row_group_size: int) -> None:
    count = 300
    path = write(
        tmp_path / "t.parquet",
        {
            "image": [str(index).encode() for index in range(count)],
            "number": list(range(count)),
        },
        row_group_size,
    )
    whole = samples(table(path))
    assert [s.image for s in whole] == [str(index).encode() for index in range(count)]
    assert whole[42].key == "000000042"
    pieces: list[Sample] = []
    for shard in find_shards([str(path)], InputOptions(rows_per_shard=37)):
        for chunk in chunks(shard):
            pieces += chunk.samples
            assert [s.image for s in chunk.samples] == [
                str(number).encode() for number in chunk.metadata["number"].to_pylist()
            ]
    assert pieces == whole
    for start, stop in ((0, 0), (5, 5), (299, 400), (400, 500), (0, 1)):
        assert samples(table(path, start, stop)) == whole[start:stop]
    with open_source(table(path, 100, 200), OPTIONS) as source:
        assert source.members(42)[0].data == b"142"
        assert json.loads(source.members(99)[1].data) == {"number": 199}


def test_rows_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aesthetic_curate.parquet_rows.CACHE_BYTES", 0)
    path = write(tmp_path / "t.parquet", {"n": list(range(50)), "m": ["x"] * 50}, 8)
    rows = ParquetRows(str(path))
    wanted = [49, -1, 0, 8, 7, 49, -1, 30]
    taken = rows.take(np.array(wanted), ["n"])
    assert taken.to_pydict() == {"n": [None if row < 0 else row for row in wanted]}
    assert rows.take(np.array([-1, -1])).to_pydict() == {"n": [None] * 2, "m": [None] * 2}
    assert rows.take(np.zeros(0, np.int64)).num_rows == 0
    rows.close()


def test_chunks_of_large_images_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).bytes
    columns = {"image": [noise(10_000) for _ in range(40)], "n": list(range(40))}
    path = write(tmp_path / "t.parquet", columns)
    for module in ("tables", "grouped_source"):
        monkeypatch.setattr(f"aesthetic_curate.{module}.CHUNK_BYTES", 35_000)
    found = chunks(table(path))
    assert all(len(chunk.samples) <= 4 for chunk in found)
    assert [n for chunk in found for n in chunk.metadata["n"].to_pylist()] == list(range(40))
    assert [s.image for chunk in found for s in chunk.samples] == columns["image"]


def test_rows_of_a_large_row_group_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).bytes
    images = [noise(10_000) for _ in range(2000)]
    columns = {"image": images, "n": list(range(2000)), "raw": [noise(10_000)] * 2000}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=1500, write_batch_size=32)
    begun: list[int] = []
    batches = ParquetRows.batches

    def counted(self: ParquetRows, start: int, *rest: Any) -> Any:
        begun.append(start)
        return batches(self, start, *rest)

    monkeypatch.setattr(ParquetRows, "batches", counted)
    with open_source(table(path, 10), OPTIONS) as source:
        before, most = pa.total_allocated_bytes(), 0
        for row in (0, 3, 3, 300, 1200, 1489, 1490, 1989, 700, 701, 1980):
            image, record = source.members(row)
            assert image.data == images[row + 10]
            assert json.loads(record.data) == {"n": row + 10}
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 12 * 2**20  # the first row group has 15 MB of images, and as much of the rest
    assert begun == [10, 710, 1990]  # again for a row before, and past the rest of a row group


def test_entries_of_a_row(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet",
        {"key": ["a.b", "/c"], "image": [photo(0), b"\x89PNG..."], "caption": ["é", None]},
    )
    target = io.BytesIO()
    with open_source(table(path), OPTIONS) as source:
        for row in (1, 0):
            source.append_to(row, target)
    target.write(bytes(1024))
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert list(found) == ["c.png", "c.json", "a_b.jpg", "a_b.json"]
    assert found["a_b.jpg"] == photo(0)
    assert json.loads(found["a_b.json"]) == {"key": "a.b", "caption": "é"}


def test_broken_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UnreadableError, match=r"t\.parquet: cannot be read as a parquet"):
        samples(table(path))
    with pytest.raises(UnreadableError, match=r"none\.parquet: there is no such file"):
        samples(table(tmp_path / "none.parquet"))
    write(path, {"image": [photo(seed) for seed in range(50)]})
    blocks = bytearray(path.read_bytes())
    blocks[100:2000] = bytes(1900)
    path.write_bytes(blocks)
    with pytest.raises(UnreadableError, match=r"t\.parquet: cannot be read as a parquet"):
        samples(table(path))
    write(path, {"a": [1], "b": ["x"]})
    with pytest.raises(InputError, match="no column of images was found among a, b"):
        samples(table(path))


# --- URLs --------------------------------------------------------------------------------------


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
