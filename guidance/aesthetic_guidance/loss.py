"""An aesthetic loss for training generators: minus the score, in the ways that keep it in check.

Score maximisation through a reward model is Clark et al., "Directly Fine-Tuning Diffusion Models on
Differentiable Rewards" (DRaFT, arXiv 2309.17400) and Prabhudesai et al., "Aligning Text-to-Image
Diffusion Models with Reward Backpropagation" (AlignProp, arXiv 2310.03739). Both report what a
score alone leads to: images that are alike and please the model only. Hence the weight, the
warm-up, the clip, the target and the diversity term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from aesthetic_client.errors import InputError


class Scorer(Protocol):
    """What `AestheticScorer` is, and whatever else scores images differentiably."""

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) floats in [0, 1] -> (B, 1)"""


@runtime_checkable
class EmbeddingScorer(Scorer, Protocol):
    """A scorer that gives its embeddings too, as the diversity term needs them."""

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) floats in [0, 1] -> (B, 768) of length 1"""

    def score_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, 768) -> (B, 1)"""


@runtime_checkable
class JointScorer(Scorer, Protocol):
    """A scorer that gives both at once, where its score does not follow from `embed` here."""

    def score_and_embed(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) floats in [0, 1] -> (B, 1) and (B, 768) of length 1"""


@dataclass(frozen=True)
class WarmUp:
    """A weight's share of 1: 0 up to step `start`, rising over `steps`, then 1.

    linear: t; cosine: (1 - cos(pi t)) / 2, flat at both ends, for t = (step - start) / steps.
    """

    steps: int
    shape: Literal["linear", "cosine"] = "linear"
    start: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.start < 0 or self.shape not in ("linear", "cosine"):
            raise InputError(
                f"{self}: steps is 1 or more, start is 0 or more, shape is linear or cosine"
            )

    def share(self, step: int) -> float:
        t = min(max((step - self.start) / self.steps, 0.0), 1.0)
        return t if self.shape == "linear" else (1 - math.cos(math.pi * t)) / 2


class AestheticLoss(nn.Module):
    """weight(step) * (term + diversity * similarity), a scalar to add to a loss or to be one.

    The term is `-mean(scores)`, or `mean((scores - target) ** 2)` where a target is given.

    - Auxiliary: `loss = reconstruction + AestheticLoss(scorer, weight=0.05)(images)`.
    - Aesthetic only: `loss = AestheticLoss(scorer)(images)`.
    - Annealed: `warm_up=WarmUp(1000, "cosine")` raises the weight with the steps.
    - `every=N` scores at steps 0, N, 2N, ... At others, and where the weight is 0, the loss is 0
      without a forward pass; it still belongs to the images' graph, so `backward()` works. The
      weight is not raised to make up for it.
    - `clip=(low, high)` bounds the scores before the term. A score outside has no gradient: an
      image that is good enough is left alone, which takes the pay from exploiting the scorer. Below
      `low` as well, so `low` is for what is beyond help; -math.inf is allowed.
    - `target` aims at a score instead of the highest one; it pulls down what is above it.
    - `diversity` weighs the mean cosine between the embeddings of different images of a batch. A
      generator that collapses makes one image: every cosine, and their mean, is 1. It falls as
      images spread. Unlike an entropy of scores it tells apart different images of one score, and
      unlike the entropy of the embeddings' kernel matrix (the Vendi score, arXiv 2210.02410) its
      gradient is finite where images are equal. It is 0 where all are: it keeps images apart, it
      does not part them. Batches of one image have no pairs: the similarity is 0.

    The scores must keep their graph. `-scores.detach().mean()` or `weight * (10 - scores.item())`,
    as sketches of such losses have it, has the right value and no gradient: what the scorer knows
    of the pixels is thrown away, and the number added to the loss trains nothing. A detached score
    belongs in a product with something that has a gradient of its own (reward_weighted.py).

    Steps are counted by calls in training mode, kept in the state dict, or given by `step`. In eval
    mode every call is scored, at the weight of the current step. `log` has the last call's numbers
    as floats: loss, weight, and where images were scored score_mean, score_sd (of the batch, before
    the clip) and, with `diversity`, similarity.
    Raises InputError for settings out of range, and for images that carry no gradient.
    """

    def __init__(
        self,
        scorer: Scorer,
        weight: float = 1.0,
        *,
        warm_up: WarmUp | None = None,
        every: int = 1,
        clip: tuple[float, float] | None = None,
        target: float | None = None,
        diversity: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("diversity", diversity), ("target", target or 0)):
            if not math.isfinite(value):
                raise InputError(f"{name}: expected a finite number, got {value}")
        if every < 1:
            raise InputError(f"every: expected 1 or more steps, got {every}")
        if clip is not None and not clip[0] < clip[1]:
            raise InputError(f"clip: expected (low, high) with low < high, got {clip}")
        if diversity and not isinstance(scorer, EmbeddingScorer | JointScorer):
            raise InputError(f"diversity needs embeddings; {type(scorer).__name__} gives scores")
        self.scorer = scorer
        self.weight, self.warm_up, self.every = weight, warm_up, every
        self.clip, self.target, self.diversity = clip, target, diversity
        self.step = 0
        self.log: dict[str, float] = {}

    def forward(self, images: torch.Tensor, step: int | None = None) -> torch.Tensor:
        """The loss of (B, 3, H, W) floats in [0, 1] that a generator made: a scalar, fp32."""
        step = self.step if step is None else step
        weight = self.weight_at(step)
        if self.training:
            self.step = step + 1
            if torch.is_grad_enabled() and not images.requires_grad:
                raise InputError(
                    "images carry no gradient, so this loss would train nothing: they were made "
                    "under torch.no_grad or detached. For samples that cannot be differentiated "
                    "use RewardWeightedLoss; to watch scores, eval() or torch.no_grad()"
                )
            if step % self.every or weight == 0:
                self.log = {"loss": 0.0, "weight": weight}
                return images[:0].float().sum()  # not images * 0, where infinity makes NaN
        return self._scored(images, weight)

    def weight_at(self, step: int) -> float:
        """The weight after the warm-up's share."""
        return self.weight * (1.0 if self.warm_up is None else self.warm_up.share(step))

    def get_extra_state(self) -> dict[str, int]:
        """For `state_dict`: a warm-up goes on where it stopped."""
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.step = state["step"]

    def _scored(self, images: torch.Tensor, weight: float) -> torch.Tensor:
        similarity = None
        if self.diversity and isinstance(self.scorer, JointScorer):
            scores, embeddings = self.scorer.score_and_embed(images)
            similarity = mean_similarity(embeddings)
        elif self.diversity and isinstance(self.scorer, EmbeddingScorer):
            embeddings = self.scorer.embed(images)
            scores = self.scorer.score_embeddings(embeddings)
            similarity = mean_similarity(embeddings)
        else:
            scores = self.scorer.score(images)
        kept = scores if self.clip is None else scores.clamp(*self.clip)
        term = -kept.mean() if self.target is None else ((kept - self.target) ** 2).mean()
        if similarity is not None:
            term = term + self.diversity * similarity
        loss = weight * term
        self.log = {"loss": float(loss.detach()), "weight": weight, **score_log(scores)}
        if similarity is not None:
            self.log["similarity"] = float(similarity.detach())
        return loss


def mean_similarity(embeddings: torch.Tensor) -> torch.Tensor:
    """The mean cosine between different rows of (B, 768) unit vectors: -1/(B - 1) to 1; 0 for one.

    The squared length of the rows' sum has every pair's cosine twice and every row's own once.
    """
    count = embeddings.shape[0]
    if count < 2:
        return embeddings[:0].sum()
    own = (embeddings**2).sum()
    return ((embeddings.sum(0) ** 2).sum() - own) / (count * (count - 1))


def score_log(scores: torch.Tensor) -> dict[str, float]:
    """Mean and standard deviation (of the batch itself, so 0 for one image) as floats."""
    scores = scores.detach().double()
    return {"score_mean": float(scores.mean()), "score_sd": float(scores.std(correction=0))}
