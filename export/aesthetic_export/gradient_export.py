"""`aesthetic_gradient` as ONNX, compared with what autograd derives from the plain modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aesthetic_client.contract import AESTHETIC_GRADIENT
from aesthetic_export import provenance, samples
from aesthetic_export.certification import Exported, Say, certified
from aesthetic_export.gradient_parity import (
    PARITY_IMAGES,
    Arrays,
    gradient_parity,
    made_up_inputs,
    onnx_gradient,
)
from aesthetic_export.heads import HeadWeights
from aesthetic_export.onnx_export import check_quick_gelu_graph, onnx_from_module
from aesthetic_export.towers import Tower, check_quick_gelu

if TYPE_CHECKING:
    import torch


def export_gradient(
    version: Path, tower: Tower, heads: Sequence[HeadWeights], say: Say = lambda _: None
) -> Exported:
    """Write `aesthetic_gradient` into `version`, and compare it with autograd.

    `heads` are the contract's. Raises ActivationError for a tower without QuickGELU, ParityError.
    """
    from aesthetic_export.gradient import AestheticGradient

    layers = check_quick_gelu(tower.module)
    known = gradient_provenance(tower, heads)
    say(f"exporting {AESTHETIC_GRADIENT.name} ({layers} layers and back, {tower.weights})")
    files = onnx_from_module(
        AestheticGradient(tower.module, heads),
        AESTHETIC_GRADIENT,
        version,
        metadata=provenance.metadata_of(known),
        external_data=True,
    )
    check_quick_gelu_graph(files[0], layers)
    say(f"comparing {AESTHETIC_GRADIENT.name} with torch's autograd")
    inputs = parity_inputs(heads)
    batches: list[Sequence[int]] = [[0], [1], range(len(inputs[0]))]
    reference = autograd_reference(tower, heads, inputs)
    report = gradient_parity(onnx_gradient(files[0]), reference, inputs, batches)
    return report, certified(known, files, report)


def gradient_provenance(tower: Tower, heads: Sequence[HeadWeights]) -> provenance.Provenance:
    """The tower's fields, and rows for the heads as `aesthetic_heads` has them."""
    return {
        **provenance.tower_provenance(tower),
        "model": AESTHETIC_GRADIENT.name,
        "heads": provenance.heads_provenance(heads)["heads"],
    }


def parity_inputs(heads: Sequence[HeadWeights], count: int = PARITY_IMAGES) -> Arrays:
    """Made-up images, each with a mixture of all `heads` (see made_up_inputs)."""
    return made_up_inputs(_slopes(heads), count)


def autograd_reference(tower: Tower, heads: Sequence[HeadWeights], inputs: Arrays) -> Arrays:
    """(score, pixel gradient, embedding, gradient by the embedding), image by image, by torch."""
    import torch
    from torch.nn import functional

    from aesthetic_export.modules import AestheticHeads, ClipImage

    plain, scorer = ClipImage(tower.module), AestheticHeads(heads)
    rows = []
    for arrays in zip(*inputs, strict=True):
        pixels, weights, direction = (torch.from_numpy(array[None].copy()) for array in arrays)
        pixels.requires_grad_()
        features = plain.tower((pixels - plain.mean) / plain.std)
        embedding = functional.normalize(features, dim=-1)
        values: torch.Tensor = torch.cat([*scorer(embedding), embedding @ direction.T], dim=1)
        score = (values * functional.pad(weights, (0, 1), value=1.0)).sum(1, keepdim=True)
        gradients = torch.autograd.grad(score.sum(), (pixels, embedding))
        found = (score, gradients[0], embedding, gradients[1])
        rows.append([tensor.detach().numpy() for tensor in found])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _slopes(heads: Sequence[HeadWeights]) -> npt.NDArray[np.float64]:
    """Each head's gradient's length at some embedding, where an MLP's is one of many."""
    import torch

    from aesthetic_export.modules import AestheticHeads

    embedding = torch.from_numpy(samples.unit_vectors(1)).requires_grad_()
    scores = AestheticHeads(heads)(embedding)
    gradients = [torch.autograd.grad(score.sum(), embedding)[0] for score in scores]
    return np.array([float(gradient.norm()) for gradient in gradients])
