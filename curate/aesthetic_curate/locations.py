"""Paths and URLs: what they name, what lies below them, and tries at them. Knows fsspec.

A URL without a scheme is a local path.
"""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from aesthetic_client.errors import InputError
from aesthetic_curate.errors import CurationError, UnreadableError

Result = TypeVar("Result")

_CHAIN = re.compile(r"[A-Za-z0-9_+-]+::")  # "/a/std::vector.png" is a path
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each further try at a URL
_REFUSALS = (401, 403, 405)


def is_local(url: str) -> bool:
    """Whether this is no URL ("s3://...") and no chain of them ("simplecache::...")."""
    return "://" not in url and not _CHAIN.match(url)


def local_path(url: str) -> str:
    """The path of a file:// URL; other URLs and paths as they are."""
    return url.removeprefix("file://") if url.startswith("file://") else url


def join(folder: str, name: str) -> str:
    """A file's path or URL from its folder's; an absolute name or a URL stands for itself."""
    if not is_local(name) or (is_local(folder) and os.path.isabs(name)):
        return name
    return f"{folder.rstrip('/')}/{name}" if folder not in ("", ".") else name


def parent(url: str) -> str:
    """The folder of a file."""
    return url.rpartition("/")[0] or ("/" if url.startswith("/") else ".")


def is_file(url: str) -> bool:
    if is_local(url):
        return os.path.isfile(url)
    return bool(try_often(lambda fs, path: fs.isfile(path), url))


def is_folder(url: str) -> bool:
    if is_local(url):
        return os.path.isdir(url)
    return bool(try_often(lambda fs, path: fs.isdir(path), url))


def list_files(url: str) -> list[str]:
    """All files below a folder, sorted, relative to it. Linked folders are followed, once each."""
    if is_local(url):
        return sorted(_walk(url))
    try:
        found = try_often(lambda fs, path: (fs._strip_protocol(path), fs.find(path)), url)
    except FileNotFoundError:
        return []
    root, paths = found[0].rstrip("/"), found[1]
    return sorted(path[len(root) :].lstrip("/") for path in paths if path.startswith(root + "/"))


def list_folder(url: str) -> set[str]:
    """The names of what lies directly in a folder, empty where there is none, or none is told."""
    try:
        if is_local(url):
            return set(os.listdir(url))
        names: list[str] = try_often(lambda fs, path: fs.ls(path, detail=False), url)
    except OSError:
        return set()
    except UnreadableError as error:
        if _is_refusal(error.__cause__):
            return set()
        raise
    return {name.rstrip("/").rpartition("/")[2] for name in names}


def expand(pattern: str) -> list[str]:
    """Paths or URLs of a pattern with {00000..00099}, {a,b}, *, ? and [...], in order.

    What the braces name is given whether it exists or not; what the others find exists.
    Raises InputError for braces that do not match.
    """
    import braceexpand

    pattern = local_path(pattern)
    if is_local(pattern) and os.path.exists(pattern):
        return [pattern]
    try:
        expanded = list(braceexpand.braceexpand(pattern))
    except ValueError as error:  # braces that do not match
        raise InputError(f"{pattern}: {error}; write {{00000..00099}} or {{a,b}}") from None
    found = itertools.chain.from_iterable(_glob(path) for path in expanded)
    return list(dict.fromkeys(found))


def _glob(pattern: str) -> list[str]:
    # A "?" in a web address begins its query.
    special = "*" if pattern.startswith(("http://", "https://")) else "*?["
    if not any(character in pattern for character in special):
        return [pattern]
    if is_local(pattern):
        if os.path.exists(pattern):
            return [pattern]
        return sorted(glob.glob(pattern, recursive=True))
    return try_often(_matches(pattern), pattern)


def _matches(pattern: str) -> Callable[[Any, str], list[str]]:
    def find(fs: Any, path: str) -> list[str]:
        # Spelt as the caller spells it, where the file system leaves that to be seen.
        scheme = pattern.removesuffix(path) if pattern.endswith(path) else None
        names = sorted(fs.glob(path))
        return [fs.unstrip_protocol(n) if scheme is None else scheme + n for n in names]

    return find


def _walk(folder: str) -> Iterator[str]:
    seen: set[tuple[int, int]] = set()
    pending = [("", folder)]
    while pending:
        prefix, path = pending.pop()
        try:
            stat = os.stat(path)
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            entries = os.scandir(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unreadable(path, error) from error
        with entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_file():
                    yield prefix + entry.name


def read_file(url: str, limit: int) -> bytes:
    """A whole file of at most `limit` bytes. Raises UnreadableError."""
    url = local_path(url)
    try:
        if is_local(url):
            with open(url, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read() if size <= limit else b""
        else:
            size = int(try_often(lambda fs, path: fs.size(path), url) or 0)
            data = try_often(lambda fs, path: fs.cat_file(path), url) if size <= limit else b""
    except OSError as error:
        raise unreadable(url, error) from error
    except ValueError as error:  # a path with a zero byte
        raise UnreadableError(f"{url}: {error}") from error
    if size > limit:
        raise UnreadableError(
            f"{url}: the file has {size / 2**20:.0f} MB, the limit is {limit >> 20}"
        )
    return bytes(data)


# --- fsspec ------------------------------------------------------------------------------------


def try_often(
    work: Callable[[Any, str], Result],
    url: str,
    error_type: type[CurationError] = UnreadableError,
) -> Result:
    """`work` with the file system and path of a URL, tried again with growing waits.

    Raises FileNotFoundError and what no other try would mend at once; `error_type` in the end.
    """
    fs, path = _file_system(url)
    for wait in (*WAITS, None):
        try:
            return work(fs, path)
        except (FileNotFoundError, NotImplementedError, IsADirectoryError):
            raise
        except Exception as error:  # each file system has its own errors
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            if wait is None or _is_refusal(error):
                raise error_type(f"{url}: {_reason(error)}") from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise InputError(f"{url}: {error}; install that package beside this one") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{url}: {error}") from None


def _is_refusal(error: BaseException | None) -> bool:
    # Not every file system makes a PermissionError of what a server forbids.
    answers = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return isinstance(error, PermissionError) or any(answer in _REFUSALS for answer in answers)


def unreadable(url: str, error: OSError) -> UnreadableError:
    return UnreadableError(f"{url}: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
