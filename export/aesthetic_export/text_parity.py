"""The exported text tower against its torch module: both outputs, vector by vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import CLIP_TEXT_TOWER, DEFAULT_PROFILE
from aesthetic_export.parity import MIN_SPREAD

FloatArray = NDArray[np.float32]
Tokens = NDArray[np.int64]
Infer = Callable[[Tokens], Sequence[FloatArray]]  # (n, 77) -> an array (n, ...) an output

MIN_COSINE = 0.999999
RELATIVE_DIFFERENCE = 1e-4  # fp32 against fp32 gives 1e-6 on a whole text tower


@dataclass(frozen=True)
class OutputDifference:
    """One output over all prompts. Cosines are those of its vectors along the last axis."""

    min_cosine: float
    max_difference: float
    max_value: float  # largest absolute value of the reference

    def __bool__(self) -> bool:
        within = self.max_difference <= RELATIVE_DIFFERENCE * self.max_value
        return self.min_cosine > MIN_COSINE and within


@dataclass(frozen=True)
class TextParityReport:
    """True when every output keeps its tolerance, and the prompts could not be mixed up unnoticed.

    `spread` is the smallest 1 - cosine between the embeddings of two different prompts.
    """

    items: int
    batch_sizes: tuple[int, ...]
    outputs: Mapping[str, OutputDifference]
    spread: float
    model: str = CLIP_TEXT_TOWER.name
    artifact: str = DEFAULT_PROFILE.artifact
    reference: str = "its torch module"

    @property
    def name(self) -> str:
        return self.model

    def __bool__(self) -> bool:
        return all(self.outputs.values()) and self.spread > MIN_SPREAD

    def summary(self) -> str:
        """One line for people."""
        found = "; ".join(
            f"{name} cosine >= {output.min_cosine:.9f}, within {output.max_difference:.1e} "
            f"of values up to {output.max_value:.1f}"
            for name, output in self.outputs.items()
        )
        alike = "" if self.spread > MIN_SPREAD else "; the prompts are too alike to prove anything"
        batches = ", ".join(map(str, self.batch_sizes))
        return f"{found}, over {self.items} prompts in batches of {batches}{alike}"

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON, the verdict included."""
        return {**asdict(self), "passed": bool(self)}


def text_parity(
    infer: Infer,
    reference: Sequence[FloatArray],
    tokens: Tokens,
    *,
    batches: Sequence[Sequence[int]],
) -> TextParityReport:
    """Compare what `infer` makes of `tokens` (n, 77) with `reference`, (n, ...) an output.

    `batches` says which rows travel together; each must be in one at least.
    """
    order = [index for batch in batches for index in batch]
    answers = [infer(tokens[list(batch)]) for batch in batches]
    outputs = {
        tensor.name: _difference(np.concatenate(found), expected[order])
        for tensor, found, expected in zip(
            CLIP_TEXT_TOWER.outputs, zip(*answers, strict=True), reference, strict=True
        )
    }
    unit = reference[0].astype(np.float64)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    return TextParityReport(
        len(tokens),
        tuple(sorted({len(batch) for batch in batches})),
        outputs,
        float(1.0 - np.max(cosines)),
    )


def _difference(found: FloatArray, expected: FloatArray) -> OutputDifference:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosines = np.sum(a * b, axis=-1) / lengths
    return OutputDifference(
        float(np.min(cosines)), float(np.max(np.abs(a - b))), float(np.max(np.abs(b)))
    )
