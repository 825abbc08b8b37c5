"""Shards at URLs, of stores that list their files and of servers that do not."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from curate_datasets import img2dataset, photo
from curate_shards import OPTIONS, names

from aesthetic_curate.errors import NoSamplesError, UnreadableError
from aesthetic_curate.inputs import find_shards
from aesthetic_curate.opening import open_source
from aesthetic_curate.shards import Shard


def test_remote_tars_tables_and_folders(tmp_path: Path, memory: str) -> None:
    fs = fsspec.filesystem("memory")
    tars = img2dataset(tmp_path, shards=2, samples=4)
    for file in tmp_path.iterdir():
        fs.pipe_file(f"/bucket/data/{file.name}", file.read_bytes())
    fs.pipe_file("/bucket/photos/sub/a.jpg", photo(1))
    fs.pipe_file("/bucket/photos/sub/a.json", b'{"by": "me"}')
    shards = find_shards([f"{memory}/data/{{00000..00001}}.tar"], OPTIONS)
    assert [(s.name, s.kind, s.url) for s in shards] == [
        (f"0000{index}", "tar", f"{memory}/data/0000{index}.tar") for index in (0, 1)
    ]
    assert shards[0].metadata_url == f"{memory}/data/00000.parquet"
    assert [s.name for s in find_shards([f"{memory}/data"], OPTIONS)] == ["00000", "00001"]
    assert [s.name for s in find_shards([f"{memory}/data/*.tar"], OPTIONS)] == ["00000", "00001"]
    local = Shard("00000", "tar", str(tars[0]), metadata_url=str(tmp_path / "00000.parquet"))
    with open_source(shards[0], OPTIONS) as theirs, open_source(local, OPTIONS) as ours:
        for here, there in zip(ours.chunks(), theirs.chunks(), strict=True):
            assert here.samples == there.samples and here.metadata.equals(there.metadata)
        copies = [io.BytesIO(), io.BytesIO()]
        ours.append_to(1, copies[0])
        theirs.append_to(1, copies[1])
        assert copies[0].getvalue() == copies[1].getvalue() != b""
    (images,) = find_shards([f"{memory}/photos"], OPTIONS)
    assert (images.name, images.kind) == ("photos", "folder")
    with open_source(images, OPTIONS) as source:
        (chunk,) = source.chunks()
        assert [(s.key, s.image) for s in chunk.samples] == [("sub/a", photo(1))]
        assert chunk.metadata.to_pylist() == [{"by": "me"}]
    with pytest.raises(NoSamplesError, match="matches nothing"):
        names(f"{memory}/none/*.tar")
    # What is missing at a URL is known when it is opened: asking first would ask twice.
    (gone,) = find_shards([f"{memory}/data/00009.tar"], OPTIONS)
    with pytest.raises(UnreadableError, match=r"00009\.tar: there is no such file"):
        open_source(gone, OPTIONS).__enter__()


class Unlisted(SimpleHTTPRequestHandler):
    """Gives files, and refuses to list folders, as most servers do."""

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def list_directory(self, path: object) -> None:
        self.send_error(int(Path(self.directory, "refusal").read_text()))


@pytest.fixture
def unlisted(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Unlisted, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("refusal", ["403", "404"])
def test_a_server_that_lists_nothing(
    tmp_path: Path, unlisted: str, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesthetic_curate.locations.WAITS", (10.0,))
    (tmp_path / "refusal").write_text(refusal)
    img2dataset(tmp_path / "data", shards=2, samples=3)
    (tmp_path / "data" / "00001.parquet").unlink()
    urls = [f"{unlisted}/data/0000{index}.tar" for index in range(2)]
    started = time.monotonic()
    found = find_shards(urls, OPTIONS)
    assert time.monotonic() - started < 8  # what was refused is not tried again
    assert [shard.metadata_url for shard in found] == [f"{unlisted}/data/00000.parquet", None]
    with open_source(found[0], OPTIONS) as source:
        (chunk,) = source.chunks()
        assert chunk.metadata["caption"].to_pylist() == ["sample 0 of 0", "sample 1 of 0"]
