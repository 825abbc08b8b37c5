"""Aesthetic scores as rewards, for generators whose images cannot be differentiated.

Where sampling breaks the graph (many denoising steps, discrete tokens, 8-bit files), what trains is
the caller's own per-sample loss or log-probability, each sample weighted by how much better than
its batch it scored. That is the score-function gradient, E[A grad log p] (Williams 1992,
"Simple statistical gradient-following algorithms", REINFORCE), as DDPO (Black et al. 2023, arXiv
2305.13301) uses it for diffusion models.

Here, and only here, scores are detached: the weights are numbers, and the gradient comes from the
factor that they multiply. In a loss that is the score itself (loss.py) nothing would be left.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from aesthetic_client.errors import InputError
from aesthetic_guidance.loss import Scorer, score_log

# Added to the standard deviation. Equal images differ by fp32's rounding (some 1e-6): a smaller
# number would blow that up to advantages of 1.
ADVANTAGE_EPSILON = 1e-4
ADVANTAGE_CLIP = 5.0  # standard deviations; DDPO's


class RewardWeightedLoss(nn.Module):
    """mean(advantage * per-sample loss), or -mean(advantage * log-probability): a scalar.

    Both fall when samples that score above their batch's mean become likelier. `of` says which of
    the two the caller gives. A loss under a negative advantage is pushed up without bound: keep the
    learning rate small, or give `positive_only`, which leaves bad samples alone. `weight` is for
    the result, `clip` bounds advantages on both sides. `log` has the last call's numbers as floats:
    loss, weight, score_mean, score_sd. Raises InputError for another `of` or `clip`.
    """

    def __init__(
        self,
        scorer: Scorer,
        weight: float = 1.0,
        *,
        of: Literal["loss", "log_prob"] = "loss",
        clip: float = ADVANTAGE_CLIP,
        positive_only: bool = False,
    ) -> None:
        super().__init__()
        if of not in ("loss", "log_prob"):
            raise InputError(f"of: expected 'loss' or 'log_prob', got {of!r}")
        if not clip > 0:
            raise InputError(f"clip: expected a number above 0, got {clip}")
        self.scorer = scorer
        self.weight, self.of, self.clip, self.positive_only = weight, of, clip, positive_only
        self.log: dict[str, float] = {}

    def forward(self, images: torch.Tensor, per_sample: torch.Tensor) -> torch.Tensor:
        """`images` (B, 3, H, W) floats in [0, 1]; `per_sample` (B,) or (B, 1), with its graph.

        Raises InputError for another shape, or for a `per_sample` that carries no gradient.
        """
        count = images.shape[0]
        if tuple(per_sample.shape) not in ((count,), (count, 1)):
            shape = tuple(per_sample.shape)
            raise InputError(f"per_sample: expected one value an image, ({count},), got {shape}")
        if torch.is_grad_enabled() and not per_sample.requires_grad:
            raise InputError("per_sample carries no gradient, so this loss would train nothing")
        with torch.no_grad():
            scores = self.scorer.score(images)
            weights = advantages(scores, clip=self.clip).to(per_sample.device)
        if self.positive_only:
            weights = weights.clamp(min=0)
        sign = 1 if self.of == "loss" else -1
        loss = self.weight * sign * (weights * per_sample.reshape(-1)).mean()
        self.log = {"loss": float(loss.detach()), "weight": self.weight, **score_log(scores)}
        return loss


def advantages(scores: torch.Tensor, *, clip: float = ADVANTAGE_CLIP) -> torch.Tensor:
    """(B,) of (B, 1) scores: less their mean, in standard deviations, within -clip to clip.

    Detached. One image, or images of equal scores, have advantages of 0.
    """
    flat = scores.detach().reshape(-1)
    centred = flat - flat.mean()
    return (centred / (flat.std(correction=0) + ADVANTAGE_EPSILON)).clamp(-clip, clip)
