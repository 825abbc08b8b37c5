"""Do fast embeddings give the fp32 reference's scores?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gpu_bench.heads import Layers, scores


def parity(fast: Tensor, reference: Tensor, heads: Mapping[str, Layers]) -> dict[str, Any]:
    """Cosine and differences in score between two (N, 768) of the same images."""
    cosine = torch.nn.functional.cosine_similarity(fast.double(), reference.double(), dim=-1)
    ours, theirs = scores(heads, fast), scores(heads, reference)
    return {
        "images": len(fast),
        "finite": bool(torch.isfinite(fast).all()),
        "cosine_min": float(cosine.min()),
        "embedding_max_difference": float((fast - reference).abs().max()),
        "score_max_difference": {
            name: float((ours[name] - theirs[name]).abs().max()) for name in ours
        },
        "score_spread": {name: float(theirs[name].std()) for name in theirs},
    }
