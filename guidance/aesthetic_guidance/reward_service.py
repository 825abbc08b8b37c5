"""The reward server: JSON over HTTP (reward_requests.py) in front of Triton."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aesthetic_client import AsyncClient
from aesthetic_client._core import DEFAULT_IN_FLIGHT, DEFAULT_TIMEOUT_S
from aesthetic_client._wire import resolve_heads
from aesthetic_client.contract import DEFAULT_HEAD, SEEDED_WEIGHTS
from aesthetic_client.errors import (
    AestheticError,
    DeadlineError,
    InputError,
    NoAnswerError,
    NotServedError,
)
from aesthetic_client.images import Decode
from aesthetic_guidance.reward_bodies import Bodies
from aesthetic_guidance.reward_requests import FieldError, RewardRequest, parse_request
from aesthetic_guidance.rewards import Scored, reason
from aesthetic_guidance.served_weights import ServedWeights

DEFAULT_MAX_BODY_BYTES = 128 << 20  # 64 PNGs of 1024 x 1024, in base64
WORKING = 8  # requests parsed and scored at once; further ones wait, with their bodies
RETRY_S = 2.0  # a server that is away longer is told of: the trainer decides how long it waits
HEALTH_TIMEOUT_S = 5.0
CLIENT_GONE = 499  # as nginx logs it; nobody reads it


@dataclass(frozen=True)
class Settings:
    """Of a reward server. `in_flight` images of all requests are on their way to Triton at once."""

    url: str
    decode: Decode = "server"
    in_flight: int = DEFAULT_IN_FLIGHT
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES


def reward_app(settings: Settings) -> Starlette:
    """The ASGI application. Raises InputError for settings that cannot be used."""
    service = _Service(settings)
    return Starlette(
        routes=[
            Route("/score", service.score, methods=["POST"]),
            Route("/health", service.health, methods=["GET"]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            InputError: _input_error,
            AestheticError: _server_error,
        },
        lifespan=service.lifespan,
    )


class _Service:
    """The state behind the routes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = self._connected(settings.timeout_s, RETRY_S)
        self._prober = self._connected(HEALTH_TIMEOUT_S, 0)
        self._bodies = Bodies(settings.max_body_bytes, WORKING * settings.max_body_bytes)
        self._working = asyncio.Semaphore(WORKING)
        self._slots = asyncio.Semaphore(settings.in_flight)
        self._weights = ServedWeights()

    def _connected(self, timeout_s: float, retry_s: float) -> AsyncClient:
        settings = self._settings
        return AsyncClient(
            settings.url, decode=settings.decode, timeout_s=timeout_s, retry_s=retry_s
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Closes the connections when the server ends."""
        try:
            yield
        finally:
            await self._client.close()
            await self._prober.close()

    async def health(self, _: Request) -> Response:
        """200 where Triton is ready to score, with what it serves; else 503."""
        found = await self._prober.health()
        answer: dict[str, Any] = {"status": "ok" if found.ready else "unavailable"}
        if found.ready:
            try:
                answer["heads"] = [head.name for head in await self._prober.heads()]
                answer |= await self._note()
            except AestheticError:
                return JSONResponse({"status": "unavailable"}, 503)
        answer |= {"server": found.server, "models": dict(found.models)}
        return JSONResponse(answer, 200 if found.ready else 503)

    async def score(self, request: Request) -> Response:
        """The scores of a request's images. Raises what becomes an error answer."""
        async with contextlib.AsyncExitStack() as held:
            body = await held.enter_async_context(self._bodies.read(request))
            return await _unless_gone(request, self._answer(body, held))

    async def _answer(self, body: bytearray, held: contextlib.AsyncExitStack) -> Response:
        """The answer; the body's room is given back as soon as it is parsed."""
        async with self._working:
            asked = await asyncio.to_thread(parse_request, body)
            del body
            await held.aclose()
            found = await self._scored(asked)
        names = [*asked.terms.heads, *asked.terms.vectors]
        totals = [None if isinstance(s, AestheticError) else asked.terms.total(s) for s in found]
        answer = {
            "scores": totals,
            "errors": {str(k): reason(s) for k, s in enumerate(found) if not isinstance(s, dict)},
            "terms": {
                name: [s[name] if isinstance(s, dict) else None for s in found] for name in names
            },
        }
        return JSONResponse(answer | (await self._note() if found else {}))

    async def _scored(self, asked: RewardRequest) -> Sequence[Scored]:
        """The terms of each image, or its error. Raises what is about more than one image."""
        heads = {name: await self._head(name) for name in asked.terms.heads}
        tasks = [asyncio.ensure_future(self._one(one, asked, heads)) for one in asked.images]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _one(
        self, image: bytes | AestheticError, asked: RewardRequest, heads: dict[str, str]
    ) -> Scored:
        if isinstance(image, AestheticError):
            return image
        async with self._slots:
            try:
                result = await self._client.score(
                    image,
                    heads=list(heads.values()) or None,  # Triton wants one asked for
                    embedding=bool(asked.terms.vectors),
                )
            except (NoAnswerError, NotServedError):
                self._weights.forget()
                raise
            except AestheticError as error:
                return error
        scores = {name: result.scores[head] for name, head in heads.items()}
        values = asked.terms.values(scores, result.embedding)
        if not math.isfinite(asked.terms.total(values)):
            return AestheticError("the score is not finite")
        return values

    async def _head(self, name: str) -> str:
        if name == DEFAULT_HEAD.name:
            return name
        try:
            return resolve_heads([name], await self._client.heads())[0].name
        except InputError as error:
            raise FieldError(error.message, position="head") from None

    async def _note(self) -> dict[str, str]:
        """What has to stand beside the scores of random weights."""
        seeded = self._weights.seeded()
        if seeded is None:
            seeded = self._weights.told(await self._client.provenance())
        return {"meaningless": SEEDED_WEIGHTS} if seeded else {}


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """What `work` comes to; it is cancelled where the client goes before, and nobody is answered.

    The request's body has been read: what is received from now on is that the client has gone.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = (asyncio.ensure_future(work), asyncio.ensure_future(gone()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else Response(status_code=CLIENT_GONE)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _problem(
    status: int, message: str, field: str = "", headers: dict[str, str] | None = None
) -> JSONResponse:
    told = {"field": field, "message": message}
    # A field's name may be half of a UTF-16 pair, which JSON can say and UTF-8 cannot.
    clean = {key: text.encode("utf-8", "backslashreplace").decode() for key, text in told.items()}
    return JSONResponse({"error": clean}, status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # The rest of a body that was refused would be taken for the next request.
    headers = {"connection": "close"} if error.status_code in (408, 413) else {}
    return _problem(error.status_code, error.detail, headers={**headers, **(error.headers or {})})


async def _input_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, InputError)
    return _problem(400, error.message, error.position or "")


async def _server_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, AestheticError)
    if isinstance(error, DeadlineError):
        return _problem(504, error.message)
    if isinstance(error, NoAnswerError | NotServedError):  # a server that starts serves no model
        return _problem(503, error.message, headers={"retry-after": "1"})
    return _problem(502, error.message)
