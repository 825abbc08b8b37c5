"""Every exception of the transports becomes one of ours, in this one place.

tritonclient raises InferenceServerException over gRPC and for HTTP answers; a lost HTTP connection
is an OSError or http.client.HTTPException in the sync client and aiohttp.ClientError in the async
one; a refused one is an OSError in both.
"""

from __future__ import annotations

import asyncio
import re
from http.client import HTTPException

from tritonclient.utils import InferenceServerException

from aesthetic_client.errors import (
    AestheticError,
    DeadlineError,
    ImageError,
    InputError,
    NotServedError,
    ServerError,
    UnavailableError,
)
from aesthetic_client.pixels import IMAGE_CODES

# Words of a Triton that is stopping, or whose Python stub died: its supervisor will bring it back.
PASSING = re.compile(
    r"no available versions|not ready|is stopping|shutting down|exiting|in-flight|"
    r"stub process|stub is not|unhealthy|not healthy|"
    r"failed to (?:initialize|connect)|rst_stream|stream removed|connection|socket closed|goaway",
    re.IGNORECASE,
)
IMAGE_CODE = re.compile(r"\[(\w+)\]\s*$")
# HTTP answers carry these numbers where gRPC carries names.
STATUS = {
    "400": "INVALID_ARGUMENT",
    "404": "NOT_FOUND",
    "499": "CANCELLED",
    "500": "INTERNAL",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
}


def translate(error: BaseException, url: str) -> AestheticError:
    """Our error for one of the transports', which it has as its cause. Ours pass unchanged."""
    if isinstance(error, AestheticError):
        return error
    translated = _translated(error, url)
    translated.__cause__ = error
    return translated


def _translated(error: BaseException, url: str) -> AestheticError:
    if isinstance(error, InferenceServerException):
        return _from_server(error, url)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return DeadlineError(f"no answer from {url} within the deadline")
    if isinstance(error, OSError | HTTPException) or _is_transport(error):
        return UnavailableError(
            f"no connection to {url} ({_line(str(error)) or type(error).__name__})"
        )
    return ServerError(f"{type(error).__name__} from {url}: {_line(str(error))}")


def _from_server(error: InferenceServerException, url: str) -> AestheticError:
    text = _line(error.message() or "")
    status = str(error.status() or "").rpartition(".")[2]
    status = STATUS.get(status, status)
    # First, since gRPC also says "connection attempt timed out": the request was never sent.
    if status in ("UNAVAILABLE", "CANCELLED"):
        return UnavailableError(f"{url} is not available ({text})")
    if status == "DEADLINE_EXCEEDED" or "timed out" in text.lower():
        return DeadlineError(f"no answer from {url} within the deadline")
    if status == "INVALID_ARGUMENT":
        return _refusal(text)
    if PASSING.search(text):
        return UnavailableError(f"{url} is not available ({text})")
    if status == "NOT_FOUND" or "unknown model" in text.lower():
        return NotServedError(f"{url}: {text}")
    return ServerError(f"{url}: {text} [{status or 'no status'}]")


def _refusal(text: str) -> AestheticError:
    found = IMAGE_CODE.search(text)
    if found and found[1] in IMAGE_CODES:
        return ImageError(found[1], text[: found.start()].strip())
    return InputError(text)


def _is_transport(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in (
        "aiohttp",
        "grpc",
    )


def _line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
