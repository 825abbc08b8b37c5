"""Aesthetic scores as the reward function of trainers that learn from rewards.

    reward_fn = aesthetic_reward("gpu-1:8001")
    rewards, info = reward_fn(images, prompts, metadata)

is what these call, and what each makes of the answer:

- DDPO (https://github.com/kvablack/ddpo-pytorch, scripts/train.py): float tensors (N, 3, H, W), on
  a thread of its own; `torch.as_tensor(rewards)`. Its `config.reward_fn` names a function of
  `ddpo_pytorch/rewards.py` that returns the reward function.
- Flow-GRPO (https://github.com/yifan123/flow_grpo): the same, as an entry of `score_functions` in
  `multi_score`, such as `lambda: aesthetic_reward("gpu-1:8001")`; it adds up the weighted ones.
- TRL's DDPOTrainer (`reward_function`): the same. Leave its `async_reward_computation` off, which
  asks plain rewards for `.result()`. Its AlignProp wants gradients, which this has not
  (scorer.AestheticScorer has), and its GRPO rewards text, not images.

Needs no torch. Nothing is pickled.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from aesthetic_client import Client
from aesthetic_client._core import DEFAULT_IN_FLIGHT, located
from aesthetic_client._wire import resolve_heads
from aesthetic_client.contract import CLIP_IMAGE, DEFAULT_HEAD, SEEDED_WEIGHTS
from aesthetic_client.errors import (
    AestheticError,
    ImageError,
    InputError,
    NoAnswerError,
    NotServedError,
)
from aesthetic_client.vectors import origin_notes
from aesthetic_guidance.reward_images import each_image, eight_bit
from aesthetic_guidance.reward_terms import Terms, parse_terms
from aesthetic_guidance.served_weights import ServedWeights

if TYPE_CHECKING:
    from typing_extensions import Self

OnError = Literal["raise", "nan"]
# A term's values by name, or why the image has none.
Scored = dict[str, float] | AestheticError


class Reward(ABC):
    """reward_fn(images, prompts, metadata) -> (rewards, info). Thread-safe; to be closed.

    `images`: tensors (N, 3, H, W) on any device, or arrays (N, H, W, 3), of uint8 or of floats in
    [0, 1]; or a list of such images, of PIL images, of encoded files' bytes, or of paths.
    `prompts` and `metadata` are not looked at.

    `rewards` is float32 (N,), in the order of the images. `info` has `terms`, each term's values
    (N,) without its weight; `errors`, reasons by index, where images have no score; and
    `meaningless` where the server has random weights, or a random tower made a vector.

    An image that cannot be scored raises its error with its position, images[k]; with
    `on_error="nan"` its reward is NaN, and a trainer has to leave it out: one NaN in a batch makes
    the advantages of all NaN. A server that stays away raises either way.
    """

    def __init__(self, head: Any, on_error: OnError) -> None:
        if on_error not in ("raise", "nan"):
            raise InputError(f'on_error must be "raise" or "nan", got {on_error!r}')
        self.terms: Terms = parse_terms(head)
        self._on_error = on_error

    def __call__(
        self, images: Any, prompts: Any = None, metadata: Any = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Raises the first image's error, InputError for no batch, NoAnswerError."""
        found: list[Scored | None] = []
        ready: list[Any] = []
        for at, image in enumerate(each_image(images)):
            try:
                ready.append(self._ready(image))
                found.append(None)
            except InputError as error:
                found.append(self._failed(at, error))
        waiting = iter(self._score(ready) if ready else ())
        for at, scored in enumerate(found):
            if scored is None:
                scored = next(waiting)
                found[at] = (
                    self._failed(at, scored) if isinstance(scored, AestheticError) else scored
                )
        return self._gathered([scored for scored in found if scored is not None])

    @abstractmethod
    def close(self) -> None:
        """End the connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _score(self, images: Sequence[Any]) -> Iterator[Scored]:
        """The terms of each image that `_ready` has made."""

    @abstractmethod
    def _is_meaningless(self) -> bool:
        """Whether the scores that have come are those of random weights."""

    def _ready(self, image: Any) -> Any:
        """What is sent of an image. Raises InputError."""
        return eight_bit(image)

    def _failed(self, at: int, error: AestheticError) -> AestheticError:
        """The error of one image, to be kept; raised where it is about more, or to be raised."""
        if self._on_error == "raise" or isinstance(error, NoAnswerError | NotServedError):
            raise located(error, f"images[{at}]")
        return error

    def _gathered(self, found: Sequence[Scored]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        missing = dict.fromkeys((*self.terms.heads, *self.terms.vectors), np.nan)
        rows = [missing if isinstance(one, AestheticError) else one for one in found]
        info: dict[str, Any] = {
            "terms": {name: np.array([row[name] for row in rows], np.float32) for name in missing}
        }
        errors = {at: reason(e) for at, e in enumerate(found) if isinstance(e, AestheticError)}
        if errors:
            info["errors"] = errors
        if self._is_meaningless() or self.terms.meaningless:
            info["meaningless"] = SEEDED_WEIGHTS
        return np.array([self.terms.total(row) for row in rows], np.float32), info


class AestheticReward(Reward):
    """Scores through a Triton server: the reference's preprocessing of the 8-bit image, here."""

    def __init__(self, client: Client, head: Any, on_error: OnError, in_flight: int, own: bool):
        super().__init__(head, on_error)
        self._client, self._in_flight, self._own = client, in_flight, own
        self._weights = ServedWeights()

    def close(self) -> None:
        """Close the connection that was opened for this function; a client that was given stays."""
        if self._own:
            self._client.close()

    def _score(self, images: Sequence[Any]) -> Iterator[Scored]:
        heads = {name: self._head(name) for name in self.terms.heads}
        results = self._client.score_many(
            images,
            heads=list(heads.values()) or None,  # Triton wants one asked for
            embedding=bool(self.terms.vectors),
            decode="client",
            in_flight=self._in_flight,
        )
        for result in results:
            if result.error is not None:
                if isinstance(result.error, NoAnswerError):
                    self._weights.forget()
                yield result.error
                continue
            scores = {name: result.scores[head] for name, head in heads.items()}
            yield self.terms.values(scores, result.embedding)

    def _head(self, name: str) -> str:
        """The served head of that name or output name."""
        if name == DEFAULT_HEAD.name:
            return name
        return resolve_heads([name], self._client.heads())[0].name

    def _is_meaningless(self) -> bool:
        seeded = self._weights.seeded()
        if seeded is None:
            found = self._client.provenance()
            seeded = self._weights.told(found)
            for label, model in self.terms.origins.items():
                for note in origin_notes(label, model, found.get(CLIP_IMAGE.name, {})):
                    warnings.warn(note, stacklevel=4)
        return seeded


def aesthetic_reward(
    client: Client | str,
    head: Any = None,
    *,
    on_error: OnError = "raise",
    in_flight: int = DEFAULT_IN_FLIGHT,
) -> AestheticReward:
    """A reward function over a Triton server; see Reward for what it takes and returns.

    `client` is a server's address, or a Client with settings of its own. `head` is a head's name,
    a vector of 768 numbers (an AestheticEmbedding: the reward is the cosine with it), {name:
    weight}, or a list of (name or vector, weight), which are added up; by default the default head.
    At most `in_flight` images are on their way at once, for each call. Needs the `pixels` extra.
    Raises InputError for a head that can be no head; one that is not served is told of by a call.
    """
    own = isinstance(client, str)
    return AestheticReward(
        Client(client) if isinstance(client, str) else client, head, on_error, in_flight, own
    )


def reason(error: AestheticError) -> str:
    code = f" [{error.code}]" if isinstance(error, ImageError) else ""
    return error.message + code
