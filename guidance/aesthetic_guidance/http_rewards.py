"""A reward function that asks a reward server: no torch, Pillow or Triton client of its own.

reward_fn = http_reward("http://gpu-1:8080")
rewards, info = reward_fn(images, prompts, metadata)
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from aesthetic_client._core import DEFAULT_RETRY_S, DEFAULT_TIMEOUT_S
from aesthetic_client._retry import Retry
from aesthetic_client.errors import (
    AestheticError,
    DeadlineError,
    InputError,
    ServerError,
    UnavailableError,
)
from aesthetic_guidance.reward_images import eight_bit, png_bytes
from aesthetic_guidance.rewards import OnError, Reward, Scored

IMAGES_A_REQUEST = 8  # PNGs of 1024 x 1024: 20 MB
_EXPECTED = "expected http://host:port of a reward server"
REQUESTS = 4  # at once, for each call


class HttpReward(Reward):
    """See `http_reward`."""

    def __init__(
        self, url: str, head: Any, on_error: OnError, timeout_s: float, retry_s: float
    ) -> None:
        super().__init__(head, on_error)
        if len(self.terms.vectors) > 1:
            raise InputError("head: a reward server takes one vector; add the weighted ones up")
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:  # a port that is none, a bracket without its end
            raise InputError(f"{_EXPECTED}, got {url!r}: {error}") from None
        if parts.scheme not in ("http", "https") or not self._host:
            raise InputError(f"{_EXPECTED}, got {url!r}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else None
        self._kind = kind or http.client.HTTPConnection
        self._path = f"{parts.path.rstrip('/')}/score"
        self._address = f"{parts.scheme}://{parts.netloc}"
        self._timeout_s, self._retry_s = timeout_s, retry_s
        self._meaningless = False

    def close(self) -> None:
        """Nothing is open between calls."""

    def _ready(self, image: Any) -> str:
        return base64.b64encode(png_bytes(eight_bit(image))).decode()

    def _score(self, images: Sequence[Any]) -> Iterator[Scored]:
        starts = range(0, len(images), IMAGES_A_REQUEST)
        groups = [images[start : start + IMAGES_A_REQUEST] for start in starts]
        with ThreadPoolExecutor(min(REQUESTS, len(groups)), "http-reward") as pool:
            answers = list(pool.map(self._ask, groups))
        for group, answer in zip(groups, answers, strict=True):
            yield from self._read(answer, len(group))

    def _is_meaningless(self) -> bool:
        return self._meaningless

    def _ask(self, images: Sequence[str]) -> dict[str, Any]:
        """The server's answer. Raises InputError, ServerError, or NoAnswerError after retries."""
        asked: dict[str, Any] = {"images": list(images), "head": dict(self.terms.heads) or None}
        for vector, weight in self.terms.vectors.values():
            asked |= {"like": vector.tolist(), "like_weight": weight}
        body = json.dumps(asked).encode()
        retry = Retry(self._retry_s)
        while True:
            try:
                return self._asked(body)
            except AestheticError as error:
                time.sleep(retry.delay_s(error))

    def _asked(self, body: bytes) -> dict[str, Any]:
        connection = self._kind(self._host, self._port, timeout=self._timeout_s)
        try:
            # A body that is too large is refused before its end; the answer says so.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", self._path, body, {"content-type": "application/json"})
            with connection.getresponse() as answer:
                status, text = answer.status, answer.read()
        except TimeoutError as error:
            raise DeadlineError(
                f"{self._address} did not answer within {self._timeout_s:g} s"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"{self._address}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        try:
            found = json.loads(text)
            if status == 200:
                return dict(found)
            message, field = str(found["error"]["message"]), str(found["error"]["field"])
        except (ValueError, KeyError, TypeError):
            message, field = f"no answer of a reward server (HTTP {status})", ""
        where = field or None
        if status == 503:
            raise UnavailableError(f"{self._address}: {message}", position=where)
        if status == 504:
            raise DeadlineError(f"{self._address}: {message}", position=where)
        if 400 <= status < 500:
            raise InputError(f"{self._address}: {message}", position=where)
        raise ServerError(f"{self._address}: {message}", position=where)

    def _read(self, answer: dict[str, Any], count: int) -> Iterator[Scored]:
        """Raises ServerError for an answer without so many scores."""
        try:
            terms, errors = answer["terms"], answer["errors"]
            rows: list[Scored] = [
                InputError(str(errors[str(at)]))
                if answer["scores"][at] is None
                else {
                    name: float(terms[name][at])
                    for name in (*self.terms.heads, *self.terms.vectors)
                }
                for at in range(count)
            ]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ServerError(f"{self._address} answered without {count} scores") from None
        self._meaningless = "meaningless" in answer
        yield from rows


def http_reward(
    url: str,
    head: Any = None,
    *,
    on_error: OnError = "raise",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retry_s: float = DEFAULT_RETRY_S,
) -> HttpReward:
    """A reward function over `aesthetic guide reward-server`; see rewards.Reward.

    Images go as PNG, eight a request, some requests at once. `head` as for `aesthetic_reward`, with
    one vector at most. A server that is away is asked again for `retry_s`. Uses the standard
    library and numpy alone.
    Raises InputError for an address or a head that can be none.
    """
    return HttpReward(url, head, on_error, timeout_s, retry_s)
