"""Speed and score drift of the image tower, case by case: bf16 and int8 in several ways."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aesthetic_client import contract
from aesthetic_client.paths import cache_dir
from aesthetic_export import mixed_precision, parity, samples, stress, tolerances
from aesthetic_export.files import FileStore
from aesthetic_export.heads import HeadWeights, published_heads, seeded_heads
from aesthetic_export.measures import cosines, rank_correlation
from aesthetic_export.modules import AestheticHeads, ClipImage
from aesthetic_export.openvino_graph import model_from_tower
from aesthetic_export.quantization import ATTENTION, Int8, quantize
from aesthetic_export.towers import VIT_L_14, Shape, Tower, seeded_tower

from .company import Ticks
from .errors import BenchError
from .machine import versions
from .precision_tables import KIND
from .records import Begun

Array = np.ndarray[Any, Any]
Say = Callable[[str], None]
Graph = Any  # openvino.Model

SEED = 0
TINY = Shape(width=192, layers=3, heads=3)  # wide enough for the channels of stress.py
MADE_UP = 12
IMAGES = 48  # at most
BATCH = 8
METHOD = (
    "Speed, of the first tower: batches of 8, two requests at a time on OpenVINO's throughput hint "
    "and all cores; before and after each, batches of 8 through the torch tower in eager fp32; the "
    "ratio is each round's, its median counts. Drift: |score of the case - score of the torch "
    "tower in fp32| over the images that did not calibrate; largest_in_default_head is the largest "
    "of all heads, each divided by how much more than the default head it magnifies. Random "
    "weights: a lower bound, the stressed towers imitate trained ranges."
)
_STRESS = {"published": stress.PUBLISHED, "beyond": stress.Targets()}
TOWERS = ("plain", *_STRESS)


@dataclass(frozen=True)
class Case:
    """A way to compute the tower. `build` gets the fp32 graph and the calibration images."""

    name: str
    precision: str
    build: Callable[[Graph, Array], Graph]
    options: dict[str, Any] = field(default_factory=dict)
    shipped: bool = False


def _quantized(settings: Int8, *, islands: bool = True) -> Callable[[Graph, Array], Graph]:
    def build(graph: Graph, calibration: Array) -> Graph:
        quantized = quantize(graph, calibration, settings)
        return mixed_precision.keep_float32(quantized) if islands else quantized

    return build


_ALL = Int8(attention_from=0, last=0)
# Without a scale for every channel, and with the usual one.
_NAIVE, _SMOOTH = replace(_ALL, alphas=(0.0,)), replace(_ALL, alphas=(0.5,))
CASES = (
    Case("fp32", "f32", lambda graph, _: graph),
    Case("bf16 everywhere", "bf16", lambda graph, _: graph),
    Case(
        "bf16, fp32 stream", "bf16", lambda graph, _: mixed_precision.keep_float32(graph), {}, True
    ),
    Case("int8, one scale a tensor", "bf16", _quantized(_NAIVE, islands=False)),
    Case(
        "int8, SmoothQuant 0.5",
        "bf16",
        _quantized(_SMOOTH, islands=False),
    ),
    Case("int8, searched", "bf16", _quantized(_ALL, islands=False)),
    Case("int8, searched, fp32 stream", "bf16", _quantized(_ALL)),
    Case("the same, first attention bf16", "bf16", _quantized(Int8()), {}, True),
    Case("the same, all attention bf16", "bf16", _quantized(Int8(layers=("fc1", "fc2")))),
    Case("the same, fc2 bf16", "bf16", _quantized(Int8(layers=(*ATTENTION, "fc1")))),
)


@dataclass(frozen=True)
class Settings:
    """A run. `images` and `heads` are folders; None: made up, and of random weights."""

    images: Path | None = None
    heads: Path | None = None
    towers: Sequence[str] = TOWERS
    cases: Sequence[str] = tuple(case.name for case in CASES)
    rounds: int = 3
    tiny: bool = False


def run(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """The record of one run. Raises BenchError or InputError."""
    begun, before = Begun(), Ticks.now()
    pixels = _pixels(settings)
    calibrates = np.arange(len(pixels)) % 3 == 0
    score = parity.torch_scorer(AestheticHeads(_heads(settings)))
    chosen = [case for case in CASES if case.name in settings.cases]
    found: dict[str, dict[str, Any]] = {
        case.name: {"case": case.name, "shipped": case.shipped, "towers": {}} for case in chosen
    }
    for name in settings.towers:
        say(f"the {name} tower")
        tower = ClipImage(make_tower(name, tiny=settings.tiny).module)
        compared = pixels[~calibrates]
        reference = np.concatenate([parity.run_torch(tower, batch)[0] for batch in _in(compared)])
        graph = model_from_tower(tower.tower)
        for case in chosen:
            say(f"  {case.name}")
            compiled = _compiled(case.build(graph, pixels[calibrates]), case)
            if name == settings.towers[0]:
                found[case.name]["speed"] = _speed(compiled, tower, pixels, settings.rounds)
            embeddings = _embed(compiled, compared)
            found[case.name]["towers"][name] = drift(score, embeddings, reference)
    return begun.record(
        KIND,
        METHOD,
        versions("none", "none") | {"openvino": _openvino_version()},
        weights=contract.SEEDED_WEIGHTS,
        parameters={
            "images": len(pixels),
            "images_origin": "a folder" if settings.images else "made up",
            "calibration_images": int(calibrates.sum()),
            "heads": "published" if settings.heads else contract.SEEDED_WEIGHTS,
            "batch": BATCH,
            "rounds": settings.rounds,
            "tiny": settings.tiny,
        },
        company=Ticks.now().company_since(before),
        cases=list(found.values()),
    )


def make_tower(name: str, *, tiny: bool) -> Tower:
    """One of TOWERS."""
    shape = TINY if tiny else VIT_L_14
    if name in _STRESS:
        return stress.stress_tower(shape, _STRESS[name], SEED)[0]
    return seeded_tower(SEED, shape)


def drift(score: parity.Score, embeddings: Array, reference: Array) -> dict[str, Any]:
    """How far the scores of (n, 768) embeddings are from their reference's, head by head."""
    # tower_tolerance is proportional to how much each head magnifies.
    tolerance = tolerances.tower_tolerance("int8", score, reference[:2])
    heads: dict[str, dict[str, Any]] = {}
    for head, there, here in zip(contract.HEADS, score(embeddings), score(reference), strict=True):
        difference = np.abs(there.astype(np.float64) - here)
        heads[head.name] = {
            "mean": float(difference.mean()),
            "p99": float(np.percentile(difference, 99)),
            "max": float(difference.max()),
            "rank_correlation": rank_correlation(there[:, 0], here[:, 0]),
            "standard_deviation_of_scores": float(here.std()),
        }
    relative = [
        figures["max"] * tolerance.score / tolerance.of(name) for name, figures in heads.items()
    ]
    return {
        "heads": heads,
        "largest_in_default_head": max(relative),
        "min_cosine": float(np.min(cosines(embeddings, reference))),
    }


def _speed(compiled: Any, tower: ClipImage, pixels: Array, rounds: int) -> dict[str, Any]:
    """Rates of both, in turns. The torch tower's batches stand on both sides of the case's."""
    batch = pixels[np.arange(BATCH) % len(pixels)]
    pair = np.concatenate([batch, batch])

    def torch_s() -> float:
        begin = time.perf_counter()
        parity.run_torch(tower, batch)
        return time.perf_counter() - begin

    _embed(compiled, pair)  # the first runs allocate
    torch_s()
    before, found = torch_s(), []
    for _ in range(rounds):
        begin = time.perf_counter()
        _embed(compiled, pair)
        case_rate = len(pair) / (time.perf_counter() - begin)
        after = torch_s()
        found.append((case_rate, 2 * BATCH / (before + after)))
        before = after
    return {
        "images_per_s": statistics.median(case for case, _ in found),
        "torch_images_per_s": statistics.median(torch for _, torch in found),
        "ratio": statistics.median(case / torch for case, torch in found),
        "rounds": [{"images_per_s": case, "torch_images_per_s": torch} for case, torch in found],
    }


def _compiled(graph: Graph, case: Case) -> Any:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": case.precision, "PERFORMANCE_HINT": "THROUGHPUT"}
    return openvino.Core().compile_model(graph, "CPU", {**hints, **case.options})


def _embed(compiled: Any, pixels: Array) -> Array:
    import openvino

    batches, queue = _in(pixels), openvino.AsyncInferQueue(compiled)
    found: list[Any] = [None] * len(batches)

    def keep(request: Any, index: int) -> None:
        found[index] = request.get_output_tensor(0).data.copy()

    queue.set_callback(keep)
    for index, batch in enumerate(batches):
        queue.start_async({0: batch}, index)
    queue.wait_all()
    return np.concatenate(found)


def _in(pixels: Array) -> list[Array]:
    return [pixels[at : at + BATCH] for at in range(0, len(pixels), BATCH)]


def _pixels(settings: Settings) -> Array:
    if settings.images is None:
        return samples.made_up_images(MADE_UP)
    found = samples.images_of_folder(settings.images, limit=IMAGES)
    if len(found) < 6:
        raise BenchError(f"{settings.images} has {len(found)} images; two thirds of 6 are compared")
    return found


def _heads(settings: Settings) -> Sequence[HeadWeights]:
    if settings.heads is None:
        return seeded_heads(SEED)
    return published_heads(FileStore(cache_dir(), (settings.heads,)))


def _openvino_version() -> str:
    import openvino

    return str(openvino.__version__)
