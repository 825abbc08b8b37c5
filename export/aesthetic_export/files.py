"""Weight files as data: pinned by address and SHA-256, found or downloaded, always hashed."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aesthetic_client.errors import InputError

CONNECT_TIMEOUT_S = 8.0  # also the longest silence within a download
ATTEMPTS = 3  # a broken download goes on where it stopped
CHUNK_BYTES = 1 << 20

# Answers that say "no such file" rather than "not now" or "not from here".
_FINAL_STATUS = frozenset({400, 401, 404, 405, 410})

Progress = Callable[[str, int, int], None]  # file name, bytes so far, bytes in all (0: unknown)


class UnreachableError(InputError):
    """A file that is not on this machine, and whose host does not answer."""


class WrongFileError(InputError):
    """A file whose SHA-256 is not the expected one."""


@dataclass(frozen=True)
class PinnedFile:
    """One third-party file. `size_bytes` is None where only the hash is known."""

    name: str
    url: str
    sha256: str
    size_bytes: int | None = None


@dataclass(frozen=True)
class FileStore:
    """Where files come from: folders of files already downloaded, then the cache, then the net.

    `cache` is created when something is written to it.
    """

    cache: Path
    folders: Sequence[Path] = ()
    progress: Progress | None = None

    def local(self, name: str) -> Path | None:
        """The file of that name in `folders` or one level below; None where there is none.

        Raises InputError when one of `folders` is none.
        """
        for folder in self.folders:
            if not folder.is_dir():
                raise InputError(f"{folder} does not exist; name the folder of downloaded files")
            for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
                if path.is_file():
                    return path
        return None

    def obtain(self, file: PinnedFile) -> Path:
        """The path of `file` on this machine, its hash checked.

        Raises WrongFileError, or UnreachableError when it would have to come from a silent host.
        """
        if found := self.local(file.name):
            return checked(found, file.sha256)
        cached = self.cache / "files" / f"{file.sha256[:16]}-{file.name}"
        if cached.is_file() and sha256_of(cached) == file.sha256:
            return cached
        partial = cached.with_name(f"{cached.name}.part")
        partial.parent.mkdir(parents=True, exist_ok=True)
        download(file, partial, progress=self.progress)
        try:
            checked(partial, file.sha256, name=file.name)
        except WrongFileError:
            partial.unlink()
            raise
        return partial.replace(cached)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def checked(path: Path, sha256: str, *, name: str | None = None) -> Path:
    """`path` itself. Raises WrongFileError, with both hashes, when its bytes are others."""
    found = sha256_of(path)
    if found != sha256.lower():
        raise WrongFileError(
            f"{name or path} is not the expected file: its SHA-256 is {found}, "
            f"expected {sha256}; delete it and fetch it again"
        )
    return path


def download(file: PinnedFile, partial: Path, *, progress: Progress | None = None) -> None:
    """Write `file.url` to `partial`, going on where an earlier try stopped. Checks no hash.

    Raises UnreachableError when the host is silent, InputError when it has no such file.
    """
    for attempt in range(1, ATTEMPTS + 1):
        before = partial.stat().st_size if partial.exists() else 0
        try:
            return _fetch(file, partial, progress)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the partial file is not a beginning of this one
                partial.unlink(missing_ok=True)
            elif error.code in _FINAL_STATUS:
                raise InputError(f"{file.url} answers {error.code}: it is not there") from None
            reason: object = f"HTTP {error.code}"
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
        grown = partial.exists() and partial.stat().st_size > before
        if attempt == ATTEMPTS or not grown:
            break  # a host that gave nothing is silent: do not hang on it
    raise UnreachableError(
        f"{file.name} is not on this machine and {file.url} cannot be reached ({reason}); "
        "download it elsewhere and name its folder with --weights-dir"
    ) from None


def _fetch(file: PinnedFile, partial: Path, progress: Progress | None) -> None:
    """One request; appends to `partial`. Raises OSError or HTTPException when it breaks."""
    have = partial.stat().st_size if partial.exists() else 0
    if file.size_bytes and have >= file.size_bytes:
        partial.unlink()  # as long as the right file and yet not it
        have = 0
    request = urllib.request.Request(file.url, headers={"User-Agent": "aesthetic-triton"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S) as answer:
        if answer.status != 206:  # the host sends the whole file, whatever we asked for
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else file.size_bytes or 0
        with partial.open("ab" if have else "wb") as stream:
            while block := answer.read(CHUNK_BYTES):
                stream.write(block)
                have += len(block)
                if file.size_bytes and have > file.size_bytes:
                    break  # longer than the pinned file: the hash check refuses it
                if progress:
                    progress(file.name, have, total)
    if total and have < total:
        raise http.client.IncompleteRead(b"", total - have)
