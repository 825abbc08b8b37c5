"""`aesthetic_gradient` as ONNX, compared with what autograd derives from the plain modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aesthetic_client.contract import AESTHETIC_GRADIENT, DEFAULT_PROFILE
from aesthetic_export import parity, provenance, samples
from aesthetic_export.certification import Exported, Say, certified
from aesthetic_export.heads import HeadWeights
from aesthetic_export.onnx_export import check_quick_gelu_graph, onnx_from_module
from aesthetic_export.towers import Tower, check_quick_gelu

if TYPE_CHECKING:
    import torch

Arrays = Sequence[npt.NDArray[np.float32]]  # inputs or outputs in the contract's order

PARITY_IMAGES = 3  # with torch's backward pass, some seconds each
# Of a score: its difference over the length of its gradient by the embedding, which is how much an
# error of the embedding moves it: 18 for the default head, 374 for `sac_public...`.
SCORE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4  # of |difference| / |gradient|, image by image


@dataclass(frozen=True)
class GradientReport:
    """The comparison of an exported gradient with autograd's. True when both keep their tolerance.

    `slope` is the smallest length of a gradient by the embedding: what would be compared with zero
    proves nothing.
    """

    items: int
    batch_sizes: tuple[int, ...]
    score_difference: float  # the largest, over the slope, or over 1 where that is larger
    gradient_difference: float  # the largest relative one, in L2
    embedding_difference: float  # the largest of any number
    slope: float
    artifact: str = DEFAULT_PROFILE.artifact
    reference: str = "torch's autograd"
    model: str = AESTHETIC_GRADIENT.name

    @property
    def name(self) -> str:
        return self.model

    def __bool__(self) -> bool:
        return (
            self.score_difference <= SCORE_TOLERANCE
            and self.gradient_difference <= GRADIENT_TOLERANCE
            and self.slope > 0
        )

    def summary(self) -> str:
        """One line for people."""
        batches = ", ".join(map(str, self.batch_sizes))
        return (
            f"gradients within {self.gradient_difference:.1e} of their length (allowed "
            f"{GRADIENT_TOLERANCE:.0e}), scores within {self.score_difference:.1e} of their slope "
            f"(allowed {SCORE_TOLERANCE:.0e}), embedding within {self.embedding_difference:.1e} "
            f"over {self.items} items in batches of {batches}"
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON, the verdict included."""
        return {"passed": bool(self), **asdict(self)}


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
    report = gradient_parity(files[0], autograd_reference(tower, heads, inputs), inputs, batches)
    return report, certified(known, files, report)


def gradient_provenance(tower: Tower, heads: Sequence[HeadWeights]) -> provenance.Provenance:
    """The tower's fields, and rows for the heads as `aesthetic_heads` has them."""
    return {
        **provenance.tower_provenance(tower),
        "model": AESTHETIC_GRADIENT.name,
        "heads": provenance.heads_provenance(heads)["heads"],
    }


def parity_inputs(heads: Sequence[HeadWeights], count: int = PARITY_IMAGES) -> Arrays:
    """Made-up images, each with a mixture of all heads to which every one contributes alike.

    Pixels are on no 8-bit grid, as a generator's are not.
    """
    random = np.random.default_rng(0)
    pixels = samples.made_up_images(count).transpose(0, 3, 1, 2) / 255
    pixels = pixels + random.uniform(-0.5, 0.5, pixels.shape) / 255
    slopes = _slopes(heads)
    weights = random.choice([-1, 1], (count, len(heads))) * random.uniform(0.5, 2, (count, 1))
    return (
        np.ascontiguousarray(pixels.clip(0, 1), np.float32),
        (weights / slopes).astype(np.float32),
        samples.unit_vectors(count, seed=1),
    )


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


def gradient_parity(
    onnx: Path, reference: Arrays, inputs: Arrays, batches: Sequence[Sequence[int]]
) -> GradientReport:
    """Compare the ONNX file with `autograd_reference`; the rows of a batch travel together."""
    session = parity.onnx_session(onnx)
    names = (tensor.name for tensor in AESTHETIC_GRADIENT.inputs)
    given = dict(zip(names, inputs, strict=True))
    runs = [
        session.run(None, {name: array[list(rows)] for name, array in given.items()})  # type: ignore[attr-defined]
        for rows in batches
    ]
    order = [row for rows in batches for row in rows]
    differences = [
        np.concatenate(found).astype(np.float64) - expected[order]
        for found, expected in zip(zip(*runs, strict=True), reference[:3], strict=True)
    ]
    score, gradient, embedding = (part.reshape(len(order), -1) for part in differences)
    slopes = np.linalg.norm(reference[3][order], axis=1)
    lengths = np.linalg.norm(reference[1][order].reshape(len(order), -1), axis=1)
    return GradientReport(
        len(inputs[0]),
        tuple(sorted({len(rows) for rows in batches})),
        score_difference=float(np.max(np.abs(score[:, 0]) / np.maximum(slopes, 1))),
        gradient_difference=float(np.max(np.linalg.norm(gradient, axis=1) / lengths)),
        embedding_difference=float(np.max(np.abs(embedding))),
        slope=float(np.min(slopes)),
    )


def _slopes(heads: Sequence[HeadWeights]) -> npt.NDArray[np.float64]:
    """Each head's gradient's length at some embedding, where an MLP's is one of many."""
    import torch

    from aesthetic_export.modules import AestheticHeads

    embedding = torch.from_numpy(samples.unit_vectors(1)).requires_grad_()
    scores = AestheticHeads(heads)(embedding)
    gradients = [torch.autograd.grad(score.sum(), embedding)[0] for score in scores]
    return np.array([float(gradient.norm()) for gradient in gradients])
