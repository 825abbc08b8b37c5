"""Aesthetic scores of image tensors with gradients to the pixels, from a server.

`AestheticScorer`'s interface with the tower elsewhere: a generator trains against the reward of
another machine, without CLIP in its memory. Resize and crop, which are cheap, and differ with the
images' size, are done here; the server gets (N, 3, 224, 224) and answers score and derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aesthetic_client import Client, contract
from aesthetic_client.contract import (
    AESTHETIC_GRADIENT,
    AESTHETIC_HEADS,
    DEFAULT_HEAD,
    DIRECTION,
    EMBEDDING_DIM,
    FLOAT_PIXELS,
    HEAD_WEIGHTS,
    HEADS,
    SEEDED_WEIGHTS,
)
from aesthetic_client.errors import InputError, NotServedError
from aesthetic_export.heads import HeadWeights
from aesthetic_guidance.head_modules import Vector
from aesthetic_guidance.remote_gradients import ServedEmbedding, ServedScore
from aesthetic_guidance.remote_heads import remote_head, served_scores
from aesthetic_guidance.resize import resize_and_crop
from aesthetic_guidance.scorer import check_embeddings, check_images

TIMEOUT_S = 600.0  # a CPU takes some seconds an image, and other batches may stand before it
IN_FLIGHT = 2  # requests: one computes, the next one is on its way
Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """`torch.compile` runs it as it is: a client's threads and sockets are nothing to trace."""
    typed: Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return typed


class RemoteAestheticScorer(nn.Module):
    """Images to scores by a server that was exported with `--with gradient`.

    In: (B, 3, H, W) RGB or (B, 1, H, W) grey, floats in [0, 1], any H and W, on any device. Out:
    (B, 1) fp32 on the images' device. A score and its gradient are one call: the gradient comes
    with the score and waits for `backward()`. Without gradients (`torch.no_grad()`) it is not sent,
    though an ONNX Runtime server computes it all the same. Batches
    above 8 go as several requests, `in_flight` at once.

    `server` is a Client, or the URL of one that is closed with this. `head` is the name of a served
    head, export's weights of one, or a 768-vector, which is taken as it is: score = embedding .
    vector. Of weights with a ReLU that the server does not have, the score takes two calls: one for
    the embedding, one in `backward()` for its derivative. So does `embed` where a gradient is
    wanted, and with it the diversity term of AestheticLoss: with a served MLP these two come on top
    of the score's one. `meaningless` is true where the
    server's weights, or the head's, are random.

    It holds no weights of the tower, and nothing in a state dict. `torch.compile` leaves it as it
    is. A deep copy is on the same connection, which stays the original's to close. There are no
    second derivatives: asking for one is an InputError.
    Raises NotServedError where the server has no gradient model, InputError for a head that cannot
    be used, and what the client raises.
    """

    _place: torch.Tensor

    def __init__(
        self,
        server: Client | str,
        head: str | HeadWeights | Vector = DEFAULT_HEAD.name,
        *,
        round_to_8bit: bool = False,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        super().__init__()
        if in_flight < 1:
            raise InputError(f"in_flight must be 1 or more, got {in_flight}")
        self._owned = isinstance(server, str)
        self.client = Client(server, timeout_s=TIMEOUT_S) if isinstance(server, str) else server
        self.round_to_8bit, self.in_flight = round_to_8bit, in_flight
        known = _provenance(self.client)
        # In a tuple, so that no `.to(device, dtype)` of a model around it rounds the head.
        self._head = (remote_head(self.client, head),)
        self.head_name = self._head[0].name
        self.weights = str(known.get("weights", "unknown"))
        self.meaningless = self._head[0].meaningless or SEEDED_WEIGHTS in self.weights
        if isinstance(head, str):
            # The served heads have those that were added, the gradient model the published ones.
            heads = self.client.provenance([AESTHETIC_HEADS]).get(AESTHETIC_HEADS.name, {})
            self.meaningless |= any(
                row["name"] == self.head_name and SEEDED_WEIGHTS in str(row["weights"])
                for row in (*known.get("heads", ()), *heads.get("heads", ()))
            )
        self.register_buffer("_place", torch.empty(0), persistent=False)  # `.to()` moves it
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where `.to()` has moved it: for callers' sake, it takes images of any device."""
        return self._place.device

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same as `score`."""
        return self.score(images)

    @uncompiled
    def score(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1) scores. Raises InputError for images that are not as the class says."""
        asked = self._head[0].asked
        if asked is None:
            return self.score_embeddings(self.embed(images))
        pixels = self._prepared(images)
        with_gradient = torch.is_grad_enabled() and pixels.requires_grad
        score: torch.Tensor
        score, _ = ServedScore.apply(pixels, self._infer, asked, with_gradient)  # type: ignore[no-untyped-call]
        return score

    @uncompiled
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 768) CLIP embeddings of length 1. Raises InputError as `score` does."""
        embedding: torch.Tensor = ServedEmbedding.apply(self._prepared(images), self._infer)  # type: ignore[no-untyped-call]
        return embedding

    def score_and_embed(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`score` and `embed`, in the fewest calls that give both their gradients."""
        embeddings = self.embed(images)
        if self._head[0].module is None:
            return self.score(images), embeddings
        return self.score_embeddings(embeddings), embeddings

    @uncompiled
    def score_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, 768) of length 1 -> (B, 1) scores, computed here where that can be.

        Raises InputError for another shape, and for a gradient through a served MLP.
        """
        check_embeddings(embeddings)
        head = self._head[0]
        with torch.autocast(embeddings.device.type, enabled=False):
            here = embeddings.to("cpu", torch.float32)
            if head.module is not None:
                scores: torch.Tensor = head.module(here)
                return scores.to(embeddings.device)
        if torch.is_grad_enabled() and embeddings.requires_grad:
            raise InputError(
                f"{head.name} has activations, and its weights are the server's: for gradients by "
                "embeddings give its HeadWeights instead of its name"
            )
        assert head.served is not None
        found = served_scores(self.client, head.served, np.ascontiguousarray(here.detach().numpy()))
        return torch.from_numpy(found).float()[:, None].to(embeddings.device)

    def train(self, mode: bool = True) -> RemoteAestheticScorer:
        """Stays in eval mode, as the local one does."""
        return super().train(False)

    def close(self) -> None:
        """Close the connection, if it was made here."""
        if self._owned:
            self.client.close()

    def __enter__(self) -> RemoteAestheticScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteAestheticScorer:
        memo[id(self.client)] = self.client
        copied = memo[id(self)] = self.__class__.__new__(self.__class__)
        copied.__dict__.update(deepcopy(self.__dict__, memo), _owned=False)
        return copied

    def _prepared(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 224, 224) fp32, with the images' graph."""
        check_images(images)
        with torch.autocast(images.device.type, enabled=False):
            pixels = resize_and_crop(images.float(), round_to_8bit=self.round_to_8bit)
        return pixels.expand(-1, 3, -1, -1)

    def _infer(
        self,
        pixels: torch.Tensor,
        head_weights: NDArray[np.float32],
        direction: NDArray[np.float32],
        *outputs: str,
    ) -> list[torch.Tensor]:
        """The outputs of all rows, on the pixels' device. A head is told by B rows, or by one."""
        count = len(pixels)
        inputs = {
            FLOAT_PIXELS.name: pixels.detach().to("cpu", torch.float32).contiguous().numpy(),
            HEAD_WEIGHTS.name: np.broadcast_to(head_weights, (count, len(HEADS))),
            DIRECTION.name: np.broadcast_to(direction, (count, EMBEDDING_DIM)),
        }
        size = AESTHETIC_GRADIENT.max_batch
        parts = [slice(start, start + size) for start in range(0, count, size)]

        def infer(part: slice) -> dict[str, NDArray[Any]]:
            rows = {name: array[part] for name, array in inputs.items()}
            return self.client.infer(AESTHETIC_GRADIENT, rows, outputs=outputs)

        answers = self._together(infer, parts)
        found = [np.concatenate([answer[name] for answer in answers]) for name in outputs]
        return [torch.from_numpy(array).to(pixels.device) for array in found]

    def _together(self, infer: Any, parts: Sequence[slice]) -> list[dict[str, NDArray[Any]]]:
        if len(parts) == 1:
            return [infer(parts[0])]
        with ThreadPoolExecutor(min(self.in_flight, len(parts))) as pool:
            return list(pool.map(infer, parts))


def _provenance(client: Client) -> dict[str, Any]:
    try:
        return client.provenance([AESTHETIC_GRADIENT]).get(AESTHETIC_GRADIENT.name, {})
    except NotServedError as error:
        raise NotServedError(
            f"{error}; {AESTHETIC_GRADIENT.name} is added by `aesthetic export --with "
            f"{contract.GRADIENT.name}`"
        ) from error
