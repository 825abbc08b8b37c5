"""`aesthetic_gradient` against its reference: torch's autograd, or for a plan the ONNX file.

Both comparisons have the same tolerances: a plan computes in fp32 without TF32, as ONNX Runtime
does, so that it differs by the order of its sums alone, which is how the ONNX file differs from
autograd. TF32 or fp16, which round to 10 bits (5e-4), do not pass for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aesthetic_client.contract import AESTHETIC_GRADIENT, DEFAULT_PROFILE, EMBEDDING_DIM
from aesthetic_export import parity, samples
from aesthetic_export.tolerances import Score

Arrays = Sequence[npt.NDArray[np.float32]]  # inputs or outputs in the contract's order
Gradient = Callable[[Arrays], Arrays]

AUTOGRAD = "torch's autograd"
PARITY_IMAGES = 3  # on a CPU, with the way back, some seconds each
# Of a score: its difference over the length of its gradient by the embedding, which is how much an
# error of the embedding moves it: 18 for the default head, 374 for `sac_public...`.
SCORE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4  # of |difference| / |gradient|, image by image


@dataclass(frozen=True)
class GradientReport:
    """The comparison of a gradient with its reference. True when both keep their tolerance.

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
    reference: str = AUTOGRAD
    model: str = AESTHETIC_GRADIENT.name

    @property
    def name(self) -> str:
        return parity.name_of(self.model, self.artifact)

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


def gradient_parity(
    compute: Gradient,
    reference: Arrays,
    inputs: Arrays,
    batches: Sequence[Sequence[int]],
    *,
    artifact: str = DEFAULT_PROFILE.artifact,
    against: str = AUTOGRAD,
) -> GradientReport:
    """Compare what `compute` answers to `inputs` with `reference`.

    `reference` has the outputs and the gradient by the embedding, (n, 768). The rows of a batch
    travel together.
    """
    runs = [compute([array[list(rows)] for array in inputs]) for rows in batches]
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
        artifact=artifact,
        reference=against,
    )


def onnx_gradient(path: Path) -> Gradient:
    """The ONNX file at `path` on the CPU."""
    session = parity.onnx_session(path)
    names = [tensor.name for tensor in AESTHETIC_GRADIENT.inputs]

    def compute(inputs: Arrays) -> Arrays:
        outputs: Arrays = session.run(None, dict(zip(names, inputs, strict=True)))  # type: ignore[attr-defined]
        return outputs

    return compute


def made_up_inputs(slopes: npt.NDArray[np.float64], count: int = PARITY_IMAGES) -> Arrays:
    """Made-up images, each with a mixture of all heads to which every one contributes alike.

    `slopes` are the lengths of the heads' gradients. Pixels are on no 8-bit grid, as a generator's
    are not.
    """
    random = np.random.default_rng(0)
    pixels = samples.made_up_images(count).transpose(0, 3, 1, 2) / 255
    pixels = pixels + random.uniform(-0.5, 0.5, pixels.shape) / 255
    weights = random.choice([-1, 1], (count, len(slopes))) * random.uniform(0.5, 2, (count, 1))
    return (
        np.ascontiguousarray(pixels.clip(0, 1), np.float32),
        (weights / slopes).astype(np.float32),
        samples.unit_vectors(count, seed=1),
    )


def onnx_reference(compute: Gradient, score: Score) -> tuple[Arrays, Arrays]:
    """(inputs, reference) of `gradient_parity` by the ONNX files of the gradient and the heads.

    The gradient by the embedding is made of differences: it is only divided by.
    """
    somewhere = samples.unit_vectors(1)[0]  # an MLP's gradient there is one of many
    inputs = made_up_inputs(np.linalg.norm(_head_gradients(score, somewhere), axis=1))
    outputs = compute(inputs)
    _, weights, directions = inputs
    by_embedding = [
        row @ _head_gradients(score, embedding) + direction
        for row, embedding, direction in zip(weights, outputs[2], directions, strict=True)
    ]
    return inputs, [*outputs, np.stack(by_embedding).astype(np.float32)]


def _head_gradients(
    score: Score, embedding: npt.NDArray[np.float32], step: float = 1e-3
) -> npt.NDArray[np.float64]:
    """(heads, 768): central differences of each head's score at `embedding`, (768,)."""
    moves = step * np.eye(EMBEDDING_DIM, dtype=np.float32)
    ahead, behind = (np.hstack(score(embedding + sign * moves)) for sign in (1, -1))
    return (ahead.astype(np.float64) - behind).T / (2 * step)
