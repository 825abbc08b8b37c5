"""The blocking client."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import _core, _wire
from aesthetic_client._prompts import checked_prompts, text_inputs, text_result
from aesthetic_client._requests import add_on_named, asked_outputs, model_request
from aesthetic_client._retry import Retry
from aesthetic_client._translate import translate
from aesthetic_client._transport import connect
from aesthetic_client.contract import AESTHETIC_HEADS, CLIP_TEXT, MODELS, Head, Model
from aesthetic_client.errors import AestheticError, NoAnswerError, NotServedError
from aesthetic_client.images import Decode, Encoded, ImageSource, Prepared, load
from aesthetic_client.results import Health, ScoreResult, TextResult

T = TypeVar("T")


class Client(_core.BaseClient):
    """Scores images against a Triton server. Thread-safe; close it, or use `with`.

    Takes the settings of BaseClient.
    """

    def _open(self) -> None:
        self._transport = connect(self.address, self.headers, self.timeout_s)
        self._served: tuple[Head, ...] | None = None
        self._closed = threading.Event()

    def score(
        self,
        image: ImageSource,
        *,
        heads: str | Iterable[str] | None = None,
        embedding: bool = False,
    ) -> ScoreResult:
        """Score one image: the default head, or `heads` by name, or "all".

        Raises ImageError for a bad image, ServerError for a refusal, NoAnswerError for no answer.
        """
        chosen = self._heads(heads)
        item = load(image, self.decode, self.options)
        return self._score_items([item], chosen, embedding)[0].of(image, 0)

    def score_many(
        self,
        images: Iterable[ImageSource],
        *,
        heads: str | Iterable[str] | None = None,
        embedding: bool = False,
        decode: Decode | None = None,
        in_flight: int = _core.DEFAULT_IN_FLIGHT,
    ) -> Iterator[ScoreResult]:
        """Score any iterable, lazily and in its order, with at most `in_flight` images on the way.

        A bad item becomes a result with its `error`, and the rest goes on.
        """
        _core.refuse_single(images, "score_many")
        decode = _core.checked_decode(decode or self.decode)
        groups = _core.grouped(images, _core.group_size(decode, in_flight))
        slots = -(-in_flight // _core.group_size(decode, in_flight))
        chosen = self._heads(heads)

        def score_group(group: _core.Group) -> list[ScoreResult]:
            loaded = _core.load_group(group[1], decode, self.options)
            return _core.merge(group, loaded, self._try_items(loaded, chosen, embedding))

        return _ordered(groups, score_group, slots)

    def score_batch(
        self,
        images: Sequence[ImageSource],
        *,
        heads: str | Iterable[str] | None = None,
        embedding: bool = False,
        decode: Decode | None = None,
    ) -> list[ScoreResult]:
        """Score at most MAX_IMAGE_BATCH images with one request, in the calling thread.

        For callers who gather batches themselves. Results are in the order of the images; what is
        wrong with an image is its result's `error`. Images that the server refuses together are
        sent again one by one; files and pixels that are mixed go as two requests.
        Raises NoAnswerError after the client's retries, NotServedError, and InputError for a
        larger batch or an unknown head.
        """
        group = _core.batched(images)
        mode = _core.checked_decode(decode or self.decode)
        chosen = self._heads(heads)
        loaded = _core.load_group(group[1], mode, self.options)
        answers: dict[int, ScoreResult] = {}
        for rows in _core.rows_by_kind(loaded):
            items = _core.good_items([loaded[row] for row in rows])
            scored = self._score_batch(items, chosen, embedding)
            answers.update(zip(rows, scored, strict=True))
        return _core.merge(group, loaded, (answers[row] for row in sorted(answers)))

    def embed(self, image: ImageSource) -> NDArray[np.float32]:
        """The CLIP ViT-L/14 embedding of one image: float32 (768,), L2-normalised."""
        result = self.score(image, embedding=True)
        assert result.embedding is not None
        return result.embedding

    def score_embeddings(
        self, embeddings: object, *, head: str | None = None, normalize: bool = False
    ) -> NDArray[np.float32]:
        """Scores (n,) of stored embeddings (n, 768) under one head, the default one if None.

        Raises EmbeddingError for vectors that are not unit length, unless `normalize` is set: heads
        score the direction alone, and a raw CLIP feature would silently get a wrong score.
        """
        chosen = self._heads(head)
        return self._score_embeddings(embeddings, chosen, normalize)[chosen[0].name]

    def score_embeddings_by_head(
        self,
        embeddings: object,
        *,
        heads: str | Iterable[str] = "all",
        normalize: bool = False,
    ) -> dict[str, NDArray[np.float32]]:
        """Scores (n,) of stored embeddings (n, 768), by head name."""
        return self._score_embeddings(embeddings, self._heads(heads), normalize)

    def embed_text(self, prompts: str | Sequence[str]) -> TextResult:
        """Text embeddings and hidden states of prompts, in their order.

        Warns with TruncationWarning of each prompt of more than 75 tokens. Raises InputError for
        what is no text or longer than 2,000 characters, NotServedError where the server has no
        `clip_text`: add it with `aesthetic export --with text`.
        """
        listed = checked_prompts(prompts)
        answers = [self.infer(CLIP_TEXT, inputs) for inputs in text_inputs(listed)]
        return text_result(listed, answers, stacklevel=3)

    def infer(
        self,
        model: Model,
        inputs: Mapping[str, Any],
        *,
        outputs: Iterable[str] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """One inference of a model of the contract: arrays by output name.

        `inputs` are array-likes (n, *dims) by tensor name; BYTES tensors take n `bytes` or `str`.
        n is at most the model's maximum batch: nothing is split, and nothing is cast. `outputs`
        are the names to ask for, all by default. An answer's arrays may be read-only.
        Raises InputError for inputs that the contract does not have so, NotServedError where the
        model is not served, and as `score` does.
        """
        asked = asked_outputs(model, outputs)
        with add_on_named(model):
            answer = self._call(self._transport.infer, model_request(model, inputs, asked))
        return {name: answer[name] for name in asked}

    def heads(self) -> tuple[Head, ...]:
        """The heads that the server serves."""
        if self._served is None:
            config = self._call(self._transport.config, AESTHETIC_HEADS.name)
            self._served = _wire.heads_from_config(config)
        return self._served

    def provenance(self, models: Iterable[Model] = MODELS) -> dict[str, dict[str, Any]]:
        """Where the served numbers come from: provenance fields by model, where it has any.

        Raises NotServedError for a model of an add-on that is not there.
        """
        configs = {model.name: self._call(self._transport.config, model.name) for model in models}
        found = {name: _wire.provenance_from_config(config) for name, config in configs.items()}
        return {name: fields for name, fields in found.items() if fields}

    def health(self) -> Health:
        """The server's state. Never raises for a server that is away: then `live` is False."""
        try:
            server = self._transport.metadata(self.timeout_s)
        except Exception:
            return Health(False, False, {model.name: False for model in MODELS}, "")
        models = {}
        for model in MODELS:
            try:
                models[model.name] = self._transport.ready(model.name, self.timeout_s)
            except Exception:
                models[model.name] = False
        return Health(True, all(models.values()), models, f"{server['name']} {server['version']}")

    def close(self) -> None:
        """Close the connection; what is on its way ends with an error."""
        self._closed.set()
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _heads(self, asked: str | Iterable[str] | None) -> tuple[Head, ...]:
        return _wire.resolve_heads(asked, () if asked is None else self.heads())

    def _score_items(
        self, items: Sequence[Encoded | Prepared], heads: Sequence[Head], embedding: bool
    ) -> list[ScoreResult]:
        answer = self._call(self._transport.infer, _wire.score_request(items, heads))
        return _wire.score_results(answer, heads, embedding)

    def _score_batch(
        self, items: Sequence[Encoded | Prepared], heads: Sequence[Head], embedding: bool
    ) -> list[ScoreResult]:
        try:
            return self._score_items(items, heads, embedding)
        except (NoAnswerError, NotServedError):  # about no image
            raise
        except AestheticError as error:
            if len(items) == 1:
                return [ScoreResult(error=error)]
        return [self._score_batch([item], heads, embedding)[0] for item in items]

    def _try_items(
        self, loaded: Sequence[_core.Loaded], heads: Sequence[Head], embedding: bool
    ) -> list[ScoreResult]:
        items = _core.good_items(loaded)
        try:
            return self._score_items(items, heads, embedding) if items else []
        except AestheticError as error:
            return [ScoreResult(error=error)] * len(items)

    def _score_embeddings(
        self, embeddings: object, heads: Sequence[Head], normalize: bool
    ) -> dict[str, NDArray[np.float32]]:
        array = _wire.unit_embeddings(embeddings, normalize=normalize)
        requests = _wire.embedding_requests(array, heads)
        answers = [self._call(self._transport.infer, request) for request in requests]
        return _wire.embedding_scores(answers, heads)

    def _call(self, function: Callable[[Any, float], T], argument: Any) -> T:
        retry = Retry(self.retry_s)
        while True:
            try:
                return function(argument, self.timeout_s)
            except Exception as error:
                failure = translate(error, str(self.address))
            if self._closed.wait(retry.delay_s(failure)):
                raise failure


def _ordered(
    groups: Iterator[_core.Group],
    score_group: Callable[[_core.Group], list[ScoreResult]],
    slots: int,
) -> Iterator[ScoreResult]:
    pool = ThreadPoolExecutor(slots, thread_name_prefix="aesthetic-client")
    pending: deque[Future[list[ScoreResult]]] = deque()
    failure: Exception | None = None
    try:
        while True:
            try:
                group = next(groups, None)
            except Exception as error:  # the caller's iterable failed: first what came before
                group, failure = None, error
            if group is None:
                break
            pending.append(pool.submit(score_group, group))
            while pending and (len(pending) >= slots or pending[0].done()):
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure
