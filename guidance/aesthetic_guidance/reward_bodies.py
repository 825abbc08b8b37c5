"""Bodies of requests: read within bounds of size, of time, and of memory for all together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

IDLE_S = 10.0  # without a byte of a body
WHOLE_S = 120.0  # for a body, without the time that it waits for others


class Room:
    """Bytes that may be held at once; one holder at a time may go beyond.

    So someone always gets on: where all were held by bodies that wait for room for their ends,
    nobody would.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._beyond: object = None
        self._changed = asyncio.Condition()

    async def take(self, holder: object, count: int) -> None:
        """Waits until there is room, or nobody else is beyond."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: count <= self._free or self._beyond in (None, holder)
            )
            if count > self._free:
                self._beyond = holder
            self._free -= count

    async def give_back(self, holder: object, count: int) -> None:
        """All that a holder has."""
        async with self._changed:
            self._free += count
            if self._beyond is holder:
                self._beyond = None
            self._changed.notify_all()


class Bodies:
    """Reads bodies of at most `limit` bytes each, `room` and one more in all."""

    def __init__(self, limit: int, room: int) -> None:
        self._limit, self._room = limit, Room(room)

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytearray]:
        """A body, which counts as held until the end.

        Raises HTTPException for one that is too large, or does not come.
        """
        too_large = HTTPException(413, f"the body is larger than the limit of {self._limit} bytes")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._limit:
            raise too_large
        body, holder, held = bytearray(), object(), 0
        try:
            async for part in _parts(request):
                if len(body) + len(part) > self._limit:
                    raise too_large
                await self._room.take(holder, len(part))
                held += len(part)
                body += part
            yield body
        finally:
            await self._room.give_back(holder, held)


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """Raises HTTPException for a body that does not come."""
    stream, left_s = request.stream().__aiter__(), WHOLE_S
    while True:
        asked_s = time.monotonic()
        try:
            part = await asyncio.wait_for(stream.__anext__(), min(IDLE_S, left_s))
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            why = f"no byte of the body for {IDLE_S:g} s" if left_s > IDLE_S else _NOT_WHOLE
            raise HTTPException(408, why) from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection ended within the body") from None
        left_s -= time.monotonic() - asked_s
        if left_s <= 0:
            raise HTTPException(408, _NOT_WHOLE)
        yield part


_NOT_WHOLE = f"no whole body within {WHOLE_S:g} s"
