"""Files here and at any URL: results as they are written, inputs as they are read.

Results are written to a temporary name and renamed when
whole, so that a reader, or a run after a crash, never meets half a file.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aesthetic_curate.downloads import read_url
from aesthetic_curate.errors import OutputError
from aesthetic_curate.locations import (
    expand,
    is_local,
    join,
    list_files,
    local_path,
    try_often,
    unreadable,
)
from aesthetic_curate.processes import host_of_processes, is_alive

__all__ = ["Folder", "expand", "identity", "local_copy", "opened", "read_url"]

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_REFUSED = {
    errno.EACCES: "you have no right to write there",
    errno.EPERM: "you have no right to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "there is a file where a folder is needed",
    errno.ENAMETOOLONG: "the name is too long",
}
READERS = 16  # of small files at once; on an object store each one is a round trip
# A writer may lay a file of its own beside its temporary one: the same name, and a suffix.
_TEMPORARY = re.compile(r"(?P<file>\.(?P<name>.+)\.(?P<host>[^.]+)-(?P<pid>\d+)-\d+\.tmp)(\.\w+)?")
_HOST = re.sub(r"[^\w-]", "_", host_of_processes())
# What file systems say of a file's state, the surest first: S3, GCS and Azure, the web, a disk.
_CHANGED = (
    *("ETag", "etag", "LastModified", "Last-Modified", "last_modified"),
    *("updated", "mtime", "created"),
)
_counter = itertools.count()
_COPY = "aesthetic-copy"  # of a remote input
_being_written: set[Path] = set()  # by this process; a file of its id that is not here is a relic


class Folder:
    """A folder of results, local or at an fsspec URL. Names are relative, parts joined by "/"."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = local_path(os.fspath(url)).rstrip("/") or "/"
        self.is_local = is_local(self.url)

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def path(self, name: str) -> str:
        """The path or URL of a file."""
        return join(self.url, name)

    def names(self, suffix: str = "") -> list[str]:
        """All files below whose name ends so, sorted, temporary ones left out. Empty if none."""
        return [
            name
            for name in list_files(self.url)
            if name.endswith(suffix) and not _TEMPORARY.fullmatch(name.rpartition("/")[2])
        ]

    def exists(self, name: str) -> bool:
        if self.is_local:
            return os.path.isfile(self.path(name))
        return bool(try_often(lambda fs, path: fs.isfile(path), self.path(name)))

    def read_bytes(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError, or UnreadableError."""
        if self.is_local:
            try:
                return Path(self.path(name)).read_bytes()
            except FileNotFoundError:
                raise
            except OSError as error:
                raise unreadable(self.path(name), error) from error
        return bytes(try_often(lambda fs, path: fs.cat_file(path), self.path(name)))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A readable local path of a file, for the block. Raises UnreadableError."""
        with local_copy(self.path(name)) as path:
            yield path

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """An empty file to fill; it gets its name when the block ends well, and is removed else.

        Raises OutputError where the disk is full or writing is not allowed.
        """
        target = self.path(name)
        temporary = self._temporary(name)
        _being_written.add(temporary)
        try:
            with output_errors(target, {**FULL, **_REFUSED}):
                temporary.parent.mkdir(parents=True, exist_ok=True)
                _create(temporary)
            # What else the block raises is its own affair: it may read inputs, too.
            with output_errors(target, FULL):
                yield temporary
            with output_errors(target, {**FULL, **_REFUSED}):
                self._keep(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
            _being_written.discard(temporary)

    def sweep(self, name: str) -> None:
        """Remove what dead processes of this machine left of a file they were writing."""
        _sweep(self._temporary(name).parent, name.rpartition("/")[2])

    def sweep_all(self) -> None:
        """Remove what dead processes of this machine left of any file in here."""
        if not self.is_local:
            _sweep(Path(tempfile.gettempdir()))
            return
        for folder, _, _ in os.walk(self.url):
            _sweep(Path(folder))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises OutputError."""
        target = self.path(name)
        with output_errors(target, _REFUSED), contextlib.suppress(FileNotFoundError):
            if self.is_local:
                os.unlink(target)
            else:
                try_often(lambda fs, path: fs.rm_file(path), target, OutputError)

    def _temporary(self, name: str) -> Path:
        parent, _, basename = name.rpartition("/")
        folder = Path(self.url, parent) if self.is_local else Path(tempfile.gettempdir())
        return _temporary(folder, basename)

    def _keep(self, temporary: Path, target: str) -> None:
        if not self.is_local:
            # An object appears when its upload is whole; elsewhere `_stats.json` tells.
            try_often(lambda fs, path: _upload(fs, temporary, path), target, OutputError)
            return
        _sync(temporary)
        os.replace(temporary, target)
        _sync(temporary.parent)


# --- reading -----------------------------------------------------------------------------------


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """The file itself where it is local, else a copy of it that lives as long as the block.

    A download is tried again with growing waits. Raises UnreadableError, FileNotFoundError's
    case included; OutputError where the disk of the temporary folder is full.
    """
    url = local_path(url)
    if is_local(url):
        try:
            with open(url, "rb"):
                pass
        except OSError as error:
            raise unreadable(url, error) from error
        yield Path(url)
        return
    _sweep(Path(tempfile.gettempdir()), _COPY)
    copy = _temporary(Path(tempfile.gettempdir()), _COPY)
    _being_written.add(copy)
    try:
        try:
            with output_errors(f"{copy} ($TMPDIR names another folder)"):
                _create(copy)
                try_often(lambda fs, path: fs.get_file(path, str(copy)), url)
        except FileNotFoundError as error:
            raise unreadable(url, error) from error
        yield copy
    finally:
        copy.unlink(missing_ok=True)
        _being_written.discard(copy)


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """A file to read here and there, without a copy of the whole. Raises UnreadableError."""
    url = local_path(url)
    try:
        if is_local(url):
            file: Any = open(url, "rb")  # noqa: SIM115
        else:
            file = try_often(lambda fs, path: fs.open(path, "rb"), url)
    except OSError as error:
        raise unreadable(url, error) from error
    with file:
        yield file


def identity(url: str) -> dict[str, Any]:
    """What tells a changed input from the same one: {"url", "bytes", "modified"}.

    A local folder has no bytes, and when an entry of it was last added or removed. Raises
    UnreadableError.
    """
    url = local_path(url)
    try:
        if is_local(url):
            stat = os.stat(url)
            size = None if os.path.isdir(url) else stat.st_size
            return {"url": url, "bytes": size, "modified": _iso(stat.st_mtime)}
        info = try_often(lambda fs, path: fs.info(path), url)
    except OSError as error:
        raise unreadable(url, error) from error
    modified = next((info[name] for name in _CHANGED if info.get(name)), None)
    if isinstance(modified, (int, float)):
        modified = _iso(modified)
    elif isinstance(modified, datetime):
        modified = modified.isoformat()
    return {"url": url, "bytes": info.get("size"), "modified": modified and str(modified)}


# --- errors ------------------------------------------------------------------------------------


@contextmanager
def output_errors(target: str, sentences: Mapping[int, str] = FULL) -> Iterator[None]:
    """Raises OutputError in place of the OSErrors that `sentences` has a word for."""
    try:
        yield
    except OSError as error:
        sentence = sentences.get(error.errno or 0)
        if sentence is None:
            raise
        raise OutputError(f"{target}: cannot be written: {sentence}") from error


def _temporary(folder: Path, basename: str) -> Path:
    return folder / f".{basename}.{_HOST}-{os.getpid()}-{next(_counter)}.tmp"


def _create(path: Path) -> None:
    """An empty file: not through a link that others left, but over the relic of an equal id."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _sweep(folder: Path, basename: str | None = None) -> None:
    """Remove the temporary files of dead processes, and of an earlier one of this process's id."""
    for path in folder.glob(f".{glob.escape(basename) if basename else '*'}.*.tmp*"):
        match = _TEMPORARY.fullmatch(path.name)
        if not match or match["name"] != (basename or match["name"]) or match["host"] != _HOST:
            continue
        pid = int(match["pid"])
        in_use = folder / match["file"] in _being_written if pid == os.getpid() else is_alive(pid)
        if not in_use:
            with contextlib.suppress(OSError):  # of another user, in a folder of everybody's
                path.unlink()


def _upload(fs: Any, source: Path, path: str) -> None:
    fs.makedirs(fs._parent(path), exist_ok=True)
    fs.put_file(str(source), path)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
