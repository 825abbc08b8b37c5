"""Files are found, downloaded and resumed; a wrong hash is refused whatever way it came."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from aesthetic_client.errors import InputError
from aesthetic_export.files import FileStore, PinnedFile, UnreachableError, WrongFileError

DATA = bytes(range(256)) * 40_000  # 10 MB: many blocks
SHA256 = hashlib.sha256(DATA).hexdigest()


def pinned(url: str, sha256: str = SHA256, size_bytes: int | None = len(DATA)) -> PinnedFile:
    return PinnedFile("weights.bin", url, sha256, size_bytes)


def test_a_downloaded_file_is_kept_and_not_fetched_again(file_server, tmp_path):
    (file_server.folder / "w").write_bytes(DATA)
    seen: list[tuple[str, int, int]] = []
    store = FileStore(tmp_path / "cache", progress=lambda *step: seen.append(step))
    path = store.obtain(pinned(f"{file_server.url}/w"))
    assert path.read_bytes() == DATA
    assert seen[-1] == ("weights.bin", len(DATA), len(DATA))
    assert store.obtain(pinned(f"{file_server.url}/w")) == path
    assert len(file_server.requests) == 1


def test_a_broken_download_goes_on_where_it_stopped(file_server, tmp_path):
    (file_server.folder / "w").write_bytes(DATA)
    path = FileStore(tmp_path).obtain(pinned(f"{file_server.url}/cut/w"))
    assert path.read_bytes() == DATA
    assert file_server.requests == [("/cut/w", None), ("/cut/w", f"bytes={len(DATA) // 2}-")]


def test_a_damaged_cached_file_is_fetched_again(file_server, tmp_path):
    (file_server.folder / "w").write_bytes(DATA)
    store = FileStore(tmp_path)
    path = store.obtain(pinned(f"{file_server.url}/w"))
    path.write_bytes(DATA[:-1] + b"!")
    assert store.obtain(pinned(f"{file_server.url}/w")).read_bytes() == DATA


@pytest.mark.parametrize("size_bytes", [len(DATA), None])
@pytest.mark.parametrize("served", [DATA[:-1] + b"!", DATA + b"!", DATA[:100]])
def test_a_wrong_download_is_refused_with_both_hashes_and_not_kept(
    file_server, tmp_path, served, size_bytes
):
    (file_server.folder / "w").write_bytes(served)
    file = pinned(f"{file_server.url}/w", size_bytes=size_bytes)
    with pytest.raises(WrongFileError, match=SHA256) as caught:
        FileStore(tmp_path / "cache").obtain(file)
    assert "weights.bin" in str(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_given_by_the_user_is_never_passed_over(file_server, tmp_path):
    (file_server.folder / "w").write_bytes(DATA)
    given = tmp_path / "given"
    given.mkdir()
    (given / "weights.bin").write_bytes(b"other")
    with pytest.raises(WrongFileError, match=hashlib.sha256(b"other").hexdigest()):
        FileStore(tmp_path / "cache", (given,)).obtain(pinned(f"{file_server.url}/w"))
    assert file_server.requests == []


def test_a_file_one_folder_down_is_found(tmp_path):
    (tmp_path / "given" / "heads").mkdir(parents=True)
    (tmp_path / "given" / "heads" / "weights.bin").write_bytes(DATA)
    found = FileStore(tmp_path / "cache", (tmp_path / "given",)).obtain(pinned("http://[::1]:1/w"))
    assert found.parent.name == "heads"


def test_a_missing_weights_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        FileStore(tmp_path, (tmp_path / "nowhere",)).local("weights.bin")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/w", "https://no-such-host.invalid/w"])
def test_a_silent_host_is_reported_at_once(tmp_path, url):
    start = time.monotonic()
    with pytest.raises(UnreachableError, match="--weights-dir"):
        FileStore(tmp_path).obtain(pinned(url))
    assert time.monotonic() - start < 10


def test_an_overloaded_host_counts_as_silent_and_a_missing_file_does_not(file_server, tmp_path):
    with pytest.raises(UnreachableError, match="503"):
        FileStore(tmp_path).obtain(pinned(f"{file_server.url}/busy"))
    with pytest.raises(InputError, match="404") as caught:
        FileStore(tmp_path).obtain(pinned(f"{file_server.url}/absent"))
    assert not isinstance(caught.value, UnreachableError)
    assert Path(tmp_path / "files").is_dir()
