"""One face for the blocking and the asyncio client, so that one test body holds for both."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from aesthetic_client import AsyncClient, Client


class AsyncCaller:
    """An AsyncClient whose methods are called like a Client's, in a loop of its own."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncClient(*args, **settings)

    def score_many(self, images: Any, **options: Any) -> list[Any]:
        async def collect() -> list[Any]:
            return [result async for result in self._client.score_many(images, **options)]

        return self._run(collect())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **options: self._run(method(*args, **options))

    def __enter__(self) -> AsyncCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)


CALLERS = {"sync": Client, "async": AsyncCaller}
