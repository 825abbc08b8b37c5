"""The asyncio client: `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import _core, _wire
from aesthetic_client._prompts import checked_prompts, text_inputs, text_result
from aesthetic_client._requests import add_on_named, asked_outputs, model_request
from aesthetic_client._retry import Retry
from aesthetic_client._translate import translate
from aesthetic_client._transport import connect_async
from aesthetic_client.contract import AESTHETIC_HEADS, CLIP_TEXT, MODELS, Head, Model
from aesthetic_client.errors import AestheticError, NoAnswerError, NotServedError
from aesthetic_client.images import Decode, Encoded, ImageSource, Prepared, load
from aesthetic_client.results import Health, ScoreResult, TextResult

T = TypeVar("T")


class AsyncClient(_core.BaseClient):
    """Scores images against a Triton server, over asyncio. Close it, or use `async with`.

    Takes the settings of BaseClient.
    """

    def _open(self) -> None:
        self._transport = connect_async(self.address, self.headers)
        self._served: tuple[Head, ...] | None = None

    async def score(
        self,
        image: ImageSource,
        *,
        heads: str | Iterable[str] | None = None,
        embedding: bool = False,
    ) -> ScoreResult:
        """See Client.score."""
        chosen = await self._heads(heads)
        item = await asyncio.to_thread(load, image, self.decode, self.options)
        return (await self._score_items([item], chosen, embedding))[0].of(image, 0)

    async def score_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
        *,
        heads: str | Iterable[str] | None = None,
        embedding: bool = False,
        decode: Decode | None = None,
        in_flight: int = _core.DEFAULT_IN_FLIGHT,
    ) -> AsyncIterator[ScoreResult]:
        """See Client.score_many; takes an async iterable as well."""
        _core.refuse_single(images, "score_many")
        mode = _core.checked_decode(decode or self.decode)
        groups = _core.grouped_async(images, _core.group_size(mode, in_flight))
        slots = -(-in_flight // _core.group_size(mode, in_flight))
        chosen = await self._heads(heads)

        async def score_group(group: _core.Group) -> list[ScoreResult]:
            loaded = await asyncio.to_thread(_core.load_group, group[1], mode, self.options)
            return _core.merge(group, loaded, await self._try_items(loaded, chosen, embedding))

        async for result in _ordered(groups, score_group, slots):
            yield result

    async def score_batch(
        self,
        images: Sequence[ImageSource],
        *,
        heads: str | Iterable[str] | None = None,
        embedding: bool = False,
        decode: Decode | None = None,
    ) -> list[ScoreResult]:
        """See Client.score_batch."""
        group = _core.batched(images)
        mode = _core.checked_decode(decode or self.decode)
        chosen = await self._heads(heads)
        loaded = await asyncio.to_thread(_core.load_group, group[1], mode, self.options)
        answers: dict[int, ScoreResult] = {}
        for rows in _core.rows_by_kind(loaded):
            items = _core.good_items([loaded[row] for row in rows])
            scored = await self._score_batch(items, chosen, embedding)
            answers.update(zip(rows, scored, strict=True))
        return _core.merge(group, loaded, (answers[row] for row in sorted(answers)))

    async def embed(self, image: ImageSource) -> NDArray[np.float32]:
        """See Client.embed."""
        result = await self.score(image, embedding=True)
        assert result.embedding is not None
        return result.embedding

    async def score_embeddings(
        self, embeddings: object, *, head: str | None = None, normalize: bool = False
    ) -> NDArray[np.float32]:
        """See Client.score_embeddings."""
        chosen = await self._heads(head)
        return (await self._score_embeddings(embeddings, chosen, normalize))[chosen[0].name]

    async def score_embeddings_by_head(
        self,
        embeddings: object,
        *,
        heads: str | Iterable[str] = "all",
        normalize: bool = False,
    ) -> dict[str, NDArray[np.float32]]:
        """See Client.score_embeddings_by_head."""
        return await self._score_embeddings(embeddings, await self._heads(heads), normalize)

    async def embed_text(self, prompts: str | Sequence[str]) -> TextResult:
        """See Client.embed_text."""
        listed = checked_prompts(prompts)
        answers = [await self.infer(CLIP_TEXT, inputs) for inputs in text_inputs(listed)]
        return text_result(listed, answers, stacklevel=3)

    async def infer(
        self,
        model: Model,
        inputs: Mapping[str, Any],
        *,
        outputs: Iterable[str] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See Client.infer."""
        asked = asked_outputs(model, outputs)
        with add_on_named(model):
            answer = await self._call(self._transport.infer, model_request(model, inputs, asked))
        return {name: answer[name] for name in asked}

    async def heads(self) -> tuple[Head, ...]:
        """See Client.heads."""
        if self._served is None:
            config = await self._call(self._transport.config, AESTHETIC_HEADS.name)
            self._served = _wire.heads_from_config(config)
        return self._served

    async def provenance(self, models: Iterable[Model] = MODELS) -> dict[str, dict[str, Any]]:
        """See Client.provenance."""
        found = {}
        for model in models:
            config = await self._call(self._transport.config, model.name)
            if fields := _wire.provenance_from_config(config):
                found[model.name] = fields
        return found

    async def health(self) -> Health:
        """See Client.health."""
        try:
            server = await asyncio.wait_for(
                self._transport.metadata(self.timeout_s), self.timeout_s
            )
        except Exception:
            return Health(False, False, {model.name: False for model in MODELS}, "")
        models = {}
        for model in MODELS:
            try:
                ready = self._transport.ready(model.name, self.timeout_s)
                models[model.name] = await asyncio.wait_for(ready, self.timeout_s)
            except Exception:
                models[model.name] = False
        return Health(True, all(models.values()), models, f"{server['name']} {server['version']}")

    async def close(self) -> None:
        """See Client.close."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _heads(self, asked: str | Iterable[str] | None) -> tuple[Head, ...]:
        return _wire.resolve_heads(asked, () if asked is None else await self.heads())

    async def _score_items(
        self, items: Sequence[Encoded | Prepared], heads: Sequence[Head], embedding: bool
    ) -> list[ScoreResult]:
        answer = await self._call(self._transport.infer, _wire.score_request(items, heads))
        return _wire.score_results(answer, heads, embedding)

    async def _score_batch(
        self, items: Sequence[Encoded | Prepared], heads: Sequence[Head], embedding: bool
    ) -> list[ScoreResult]:
        try:
            return await self._score_items(items, heads, embedding)
        except (NoAnswerError, NotServedError):  # about no image
            raise
        except AestheticError as error:
            if len(items) == 1:
                return [ScoreResult(error=error)]
        return [(await self._score_batch([item], heads, embedding))[0] for item in items]

    async def _try_items(
        self, loaded: Sequence[_core.Loaded], heads: Sequence[Head], embedding: bool
    ) -> list[ScoreResult]:
        items = _core.good_items(loaded)
        try:
            return await self._score_items(items, heads, embedding) if items else []
        except AestheticError as error:
            return [ScoreResult(error=error)] * len(items)

    async def _score_embeddings(
        self, embeddings: object, heads: Sequence[Head], normalize: bool
    ) -> dict[str, NDArray[np.float32]]:
        array = _wire.unit_embeddings(embeddings, normalize=normalize)
        requests = _wire.embedding_requests(array, heads)
        answers = [await self._call(self._transport.infer, request) for request in requests]
        return _wire.embedding_scores(answers, heads)

    async def _call(self, function: Callable[[Any, float], Awaitable[T]], argument: Any) -> T:
        retry = Retry(self.retry_s)
        while True:
            try:
                return await asyncio.wait_for(function(argument, self.timeout_s), self.timeout_s)
            except Exception as error:
                failure = translate(error, str(self.address))
            await asyncio.sleep(retry.delay_s(failure))


async def _ordered(
    groups: AsyncIterator[_core.Group],
    score_group: Callable[[_core.Group], Awaitable[list[ScoreResult]]],
    slots: int,
) -> AsyncIterator[ScoreResult]:
    pending: deque[asyncio.Future[list[ScoreResult]]] = deque()
    failure: Exception | None = None
    try:
        while True:
            try:
                group = await anext(groups, None)
            except Exception as error:  # the caller's iterable failed: first what came before
                group, failure = None, error
            if group is None:
                break
            pending.append(asyncio.ensure_future(score_group(group)))
            while pending and (len(pending) >= slots or pending[0].done()):
                for result in await pending.popleft():
                    yield result
        while pending:
            for result in await pending.popleft():
                yield result
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if failure is not None:
        raise failure
