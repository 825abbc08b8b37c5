"""One file from the web or from any other place, bounded in bytes, time and tries."""

from __future__ import annotations

import errno
import http.client
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from aesthetic_client.images import MAX_FILE_BYTES
from aesthetic_curate.errors import UnreadableError
from aesthetic_curate.locations import read_file

WAITS = (0.5, 2.0)  # seconds before the second and the third try
CONNECT_SECONDS = 10.0  # for a connection, and for each piece of the answer
TOTAL_SECONDS = 60.0  # for one try: a server that drips bytes does not hold a run
_PIECE = 1 << 18
# Another try may succeed; any other 4xx is the server's last word.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_AGENT = "aesthetic-curate (+https://pypi.org/project/aesthetic-triton)"


def read_url(
    url: str, limit: int = MAX_FILE_BYTES, stopped: threading.Event | None = None
) -> bytes:
    """A file of at most `limit` bytes: http(s) in up to three tries, else as fsspec reads it.

    `stopped` ends the waiting of another thread's call. Raises UnreadableError.
    """
    if not url.startswith(("http://", "https://")):
        return read_file(url, limit)
    stopped = stopped or threading.Event()
    for wait in (*WAITS, None):
        try:
            return _download(url, limit, stopped)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, UnreadableError):
                raise
            if wait is None or not _may_pass(error) or stopped.wait(wait):
                raise UnreadableError(f"{url}: {_reason(error)}") from error
    raise AssertionError("unreachable")


def _download(url: str, limit: int, stopped: threading.Event) -> bytes:
    # Addresses with letters that have no place there are common in crawled lists.
    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(quoted, headers={"User-Agent": _AGENT})
    deadline = time.monotonic() + TOTAL_SECONDS
    pieces, size = [], 0
    with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer:
        while piece := answer.read1(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise UnreadableError(f"{url}: has more than {limit / 2**20:g} MB")
            if time.monotonic() > deadline or stopped.is_set():
                raise TimeoutError
        if answer.length:  # what was announced and did not come
            raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(pieces)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        return not (isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME)
    return not isinstance(error, ValueError) and getattr(error, "errno", None) != errno.EINVAL


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        return reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection closed before the end"
    return str(error) or type(error).__name__
