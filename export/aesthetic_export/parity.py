"""An exported model against its reference: numbers first, then the verdict they amount to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from aesthetic_client import contract
from aesthetic_export.measures import FloatArray, cosines, rank_correlation, spread_of
from aesthetic_export.tolerances import (
    AESTHETIC_HEADS_FP32,
    CLIP_IMAGE_FP32,
    Score,
    Tolerance,
)

if TYPE_CHECKING:
    from torch import nn

Pixels = npt.NDArray[np.uint8]
Embed = Callable[[Pixels], FloatArray]  # (n, 224, 224, 3) -> (n, 768)


PUBLISHED_HEADS = tuple(head.name for head in contract.HEADS)

# Two inputs closer than this could change places in a batch without the comparison noticing.
MIN_SPREAD = 1e-4


def name_of(model: str, artifact: str) -> str:
    """The model, and its artifact where it is not the usual one."""
    usual = artifact == contract.DEFAULT_PROFILE.artifact
    return model if usual else f"{model} ({artifact})"


class Report(Protocol):
    """What a comparison of an exported model with its reference says. True when it passed."""

    @property
    def name(self) -> str: ...
    @property
    def reference(self) -> str: ...
    def __bool__(self) -> bool: ...
    def summary(self) -> str: ...
    def as_dict(self) -> dict[str, object]: ...


class ParityError(RuntimeError):
    """An exported model that does not compute what its reference does. Carries the report."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"{report.name} differs from {report.reference}: {report.summary()}")
        self.report = report


@dataclass(frozen=True)
class ScoreDifference:
    """|score difference| of one head over all items, in points of the scale.

    `p99` is what 99 of 100 items keep; `rank_correlation` Spearman's, of both sides' scores.
    """

    mean: float
    max: float
    p99: float | None = None
    rank_correlation: float | None = None


@dataclass(frozen=True)
class ParityReport:
    """The comparison of one exported model. True when every figure keeps its tolerance.

    `spread` is the smallest 1 - cosine between two different inputs' embeddings.
    """

    model: str
    items: int
    batch_sizes: tuple[int, ...]
    scores: Mapping[str, ScoreDifference]
    tolerance: Tolerance
    spread: float
    min_cosine: float | None = None
    max_embedding_difference: float | None = None
    artifact: str = contract.DEFAULT_PROFILE.artifact
    reference: str = "its torch module"
    inputs: str = "items"
    remark: str | None = None

    @property
    def name(self) -> str:
        return name_of(self.model, self.artifact)

    @property
    def mean_score_difference(self) -> float:
        return float(np.mean([score.mean for score in self.scores.values()]))

    @property
    def max_score_difference(self) -> float:
        # np.max, unlike max, lets a NaN through, and a NaN keeps no tolerance.
        return float(np.max([score.max for score in self.scores.values()]))

    def __bool__(self) -> bool:
        within = (score.max <= self.tolerance.of(name) for name, score in self.scores.items())
        if not all(within) or not self.spread > MIN_SPREAD:
            return False
        if self.tolerance.cosine is None:
            return True
        return self.min_cosine is not None and self.min_cosine > self.tolerance.cosine

    def summary(self) -> str:
        """One line for people."""
        embedding = ""
        if self.min_cosine is not None:
            embedding = (
                f"cosine >= {self.min_cosine:.9f}, "
                f"embedding within {self.max_embedding_difference:.1e}, "
            )
        alike = "" if self.spread > MIN_SPREAD else "; the inputs are too alike to prove anything"
        remark = f"; {self.remark}" if self.remark else ""
        batches = ", ".join(map(str, self.batch_sizes))
        others = ", others by their weights' lengths" if self.tolerance.heads else ""
        return (
            f"{embedding}scores within {self.max_score_difference:.1e} "
            f"(mean {self.mean_score_difference:.1e}, allowed {self.tolerance.score:.0e}{others}) "
            f"over {self.items} {self.inputs} in batches of {batches}{alike}{remark}"
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON, verdict and overall figures included."""
        return {
            "passed": bool(self),
            **asdict(self),
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "mean_score_difference": self.mean_score_difference,
            "max_score_difference": self.max_score_difference,
        }


def clip_image_parity(
    embed: Embed,
    reference: FloatArray,
    score: Score,
    pixels: Pixels,
    *,
    batches: Sequence[Sequence[int]],
    tolerance: Tolerance = CLIP_IMAGE_FP32,
    artifact: str = contract.DEFAULT_PROFILE.artifact,
    against: str = "its torch module",
    inputs: str = "items",
    remark: str | None = None,
) -> ParityReport:
    """Compare a tower's embeddings of `pixels` (n, 224, 224, 3) with `reference` (n, 768).

    `batches` says which images travel together; each image must be in one at least. Both sides'
    embeddings go through `score`, so that differences are in scores too. `inputs` says what the
    images are, `remark` what else belongs to the figures.
    """
    order = [index for batch in batches for index in batch]
    found = np.concatenate([embed(pixels[list(batch)]) for batch in batches])
    expected = reference[order]
    return ParityReport(
        contract.CLIP_IMAGE.name,
        len(pixels),
        tuple(sorted({len(batch) for batch in batches})),
        _per_head(score(expected), score(found), PUBLISHED_HEADS),
        tolerance,
        spread_of(reference),
        min_cosine=float(np.min(cosines(found, expected))),
        max_embedding_difference=float(np.max(np.abs(found.astype(np.float64) - expected))),
        artifact=artifact,
        reference=against,
        inputs=inputs,
        remark=remark,
    )


def heads_parity(
    score: Score,
    reference: Sequence[FloatArray],
    embeddings: FloatArray,
    *,
    batches: Sequence[Sequence[int]],
    artifact: str = contract.DEFAULT_PROFILE.artifact,
    against: str = "its torch module",
    heads: Sequence[str] = PUBLISHED_HEADS,
) -> ParityReport:
    """Compare the heads' scores of unit `embeddings` (n, 768) with `reference`, (n, 1) a head.

    `heads` are their names, in order. `batches` says which embeddings travel together; each must
    be in one at least.
    """
    order = [index for batch in batches for index in batch]
    parts = [score(embeddings[list(batch)]) for batch in batches]
    found = [np.concatenate(part) for part in zip(*parts, strict=True)]
    expected = [scores[order] for scores in reference]
    return ParityReport(
        contract.AESTHETIC_HEADS.name,
        len(embeddings),
        tuple(sorted({len(batch) for batch in batches})),
        _per_head(expected, found, heads),
        AESTHETIC_HEADS_FP32,
        spread_of(embeddings),
        artifact=artifact,
        reference=against,
    )


def run_torch(module: nn.Module, array: npt.NDArray[np.generic]) -> list[FloatArray]:
    """A module's outputs for one batch, as arrays."""
    import torch

    with torch.no_grad():
        result = module(torch.from_numpy(np.ascontiguousarray(array)))
    outputs = result if isinstance(result, tuple) else (result,)
    return [output.numpy() for output in outputs]


def run_onnx(session: object, array: npt.NDArray[np.generic]) -> list[FloatArray]:
    """The outputs of an ONNX Runtime session with one input, for one batch."""
    name = session.get_inputs()[0].name  # type: ignore[attr-defined]
    outputs: list[FloatArray] = session.run(None, {name: array})  # type: ignore[attr-defined]
    return outputs


def onnx_embedder(path: Path) -> Embed:
    """The ONNX tower at `path` on the CPU."""
    session = onnx_session(path)
    return lambda pixels: run_onnx(session, pixels)[0]


def onnx_scorer(path: Path, *, published: bool = False) -> Score:
    """The ONNX heads at `path` on the CPU; only the contract's, which are first, if `published`."""
    session = onnx_session(path)
    count = len(PUBLISHED_HEADS) if published else None
    return lambda embeddings: run_onnx(session, embeddings)[:count]


def torch_scorer(heads: nn.Module) -> Score:
    return lambda embeddings: run_torch(heads, embeddings)


def onnx_session(path: Path) -> object:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _per_head(
    expected: Sequence[FloatArray], found: Sequence[FloatArray], heads: Sequence[str]
) -> dict[str, ScoreDifference]:
    """Of the (n, 1) scores of each head. A NaN makes all figures of its head NaN."""
    result = {}
    for name, here, there in zip(heads, expected, found, strict=True):
        difference = np.abs(there.astype(np.float64) - here)
        result[name] = ScoreDifference(
            float(np.mean(difference)),
            float(np.max(difference)),
            float(np.percentile(difference, 99)),
            rank_correlation(here.ravel(), there.ravel()),
        )
    return result
