"""Images a second and core: the reference's transform by Pillow, and the ways of this project."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from aesthetic_client import _jpeg, pixels
from aesthetic_client.contract import IMAGE_SIZE
from aesthetic_client.pixels import PixelOptions, prepare_pixels

from .company import Ticks
from .errors import BenchError
from .inputs import load_images
from .machine import usable_cores, version, versions
from .measurements import medians
from .preprocessing_tables import EXACT, FAST, FASTER, KIND, PILLOW_ONLY, REFERENCE
from .preprocessing_threads import Crowd
from .records import Begun
from .torch_loop import head_module, load_tower

Say = Callable[[str], None]
Pixels = npt.NDArray[np.uint8]
Way = Callable[[bytes], Pixels]

SHAPE = (4, 3)  # width to height, as most cameras have it
QUALITY = 90  # JPEG, 4:2:0
METHOD = (
    "Each picture is mirrored until it fills the size, so that its finest detail stays what it "
    "was, and encoded. One round runs every way over every file, one after the other, each for the "
    "seconds of a case; the medians of the rounds count. cpu_ms: processor time of the process; "
    "images_per_s_per_core is its inverse. PNGs, at every second size: `fast` and simplejpeg are "
    "of no account there. threads: so many threads of one process take file after file of the "
    "JPEGs, by the clock. The reference opens, resizes, crops and converts with Pillow as OpenAI "
    "CLIP's transform does."
)


@dataclass(frozen=True)
class Settings:
    """A run. `images` is a folder of pictures, None for made-up ones; `weights` of the tower."""

    images: Path | None = None
    pictures: int = 12  # the first so many
    megapixels: tuple[float, ...] = (1, 2, 4, 8, 12)
    seconds: float = 0.5
    rounds: int = 5
    weights: str | None = None  # None: no scores are compared


@dataclass(frozen=True)
class Files:
    """The same pictures in one size and format."""

    megapixels: float
    format: str
    data: tuple[bytes, ...]


def run(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """The record of one run. Raises BenchError."""
    begun, unused = Begun(), pixels.warm_up()
    with TemporaryDirectory(prefix="aesthetic-bench-") as scratch:
        images = load_images(settings.images, Path(scratch))
        pictures = [_rgb(file) for file in images.files[: settings.pictures]]
    say("encoding")
    jpegs = [encode(pictures, megapixels, "JPEG") for megapixels in settings.megapixels]
    pngs = [encode(pictures, megapixels, "PNG") for megapixels in settings.megapixels[1::2]]
    cases = []
    for files in (*jpegs, *pngs):
        expected = np.stack([reference(data) for data in files.data])
        for way in WAYS if files.format == "JPEG" else PNG_WAYS:
            cases.append(_Case(files, way))
            cases[-1].compare(expected)
    crowds = [
        Crowd(files.megapixels, files.data, way, WAYS[way], threads)
        for files in jpegs
        for way in (REFERENCE, EXACT)
        for threads in dict.fromkeys((1, usable_cores()))
    ]
    for number in range(settings.rounds):
        for case in cases:
            say(f"round {number + 1}: {case.files.format}, {case.files.megapixels} MP, {case.way}")
            case.measure(settings.seconds)
        for crowd in crowds:
            say(f"round {number + 1}: {crowd.megapixels} MP, {crowd.way}, {crowd.threads} threads")
            crowd.measure(settings.seconds)
    drift = None
    if settings.weights is not None:
        say("scoring")
        drift = score_drift(jpegs, settings.weights)
    return begun.record(
        KIND,
        METHOD,
        {
            **versions("none", "none"),
            **{name: version(name) for name in ("simplejpeg", "numba")},
        },
        parameters={
            "images": {"origin": images.origin, "count": len(pictures)},
            "megapixels": list(settings.megapixels),
            "jpeg_quality": QUALITY,
            "seconds": settings.seconds,
            "rounds": settings.rounds,
        },
        kernels={"used": unused is None, "unused_because": unused},
        cases=[case.as_dict() for case in cases],
        threads=[crowd.as_dict() for crowd in crowds],
        score_drift=drift,
    )


class _Case:
    """One way over the files of one size and format, round by round."""

    def __init__(self, files: Files, way: str) -> None:
        self.files, self.way = files, way
        self._difference: dict[str, float] = {}
        self._rounds: list[dict[str, float]] = []

    def compare(self, expected: Pixels) -> None:
        """Pixels against the reference's. Raises BenchError where an exact way has others."""
        found = np.stack([WAYS[self.way](data) for data in self.files.data]).astype(int)
        off = np.abs(found - expected)
        self._difference = {"mean": float(off.mean()), "largest": float(off.max())}
        if off.any() and self.way not in (FAST, FASTER):
            raise BenchError(f"{self.way} has other pixels than the reference: {self._difference}")

    def measure(self, seconds: float) -> None:
        way, done, ticks = WAYS[self.way], 0, Ticks.now()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        while not done or time.perf_counter() - begin < seconds:
            for data in self.files.data:
                way(data)
            done += len(self.files.data)
        cpu_s, wall_s = time.process_time() - begin_cpu, time.perf_counter() - begin
        self._rounds.append(
            {
                "cpu_ms": 1e3 * cpu_s / done,
                "wall_ms": 1e3 * wall_s / done,
                "images_per_s_per_core": done / cpu_s,
                **Ticks.now().company_since(ticks),
            }
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "megapixels": self.files.megapixels,
            "format": self.files.format,
            "mean_file_kb": float(np.mean([len(data) for data in self.files.data])) / 1e3,
            "way": self.way,
            **medians(self._rounds),
            "pixel_difference": self._difference,
            "rounds": self._rounds,
        }


def reference(data: bytes) -> Pixels:
    """OpenAI CLIP's transform up to ToTensor, by Pillow alone."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        short = min(image.size)
        width, height = (IMAGE_SIZE * side // short for side in image.size)
        left, top = (round((side - IMAGE_SIZE) / 2) for side in (width, height))
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        kept = resized.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
        return np.asarray(kept.convert("RGB"))


def encode(pictures: list[Pixels], megapixels: float, kind: str) -> Files:
    """The pictures in that size, encoded."""
    from PIL import Image

    unit = (megapixels * 1e6 / (SHAPE[0] * SHAPE[1])) ** 0.5
    width, height = round(SHAPE[0] * unit), round(SHAPE[1] * unit)
    options = {"quality": QUALITY} if kind == "JPEG" else {}
    encoded = []
    for picture in pictures:
        lacking = max(0, height - picture.shape[0]), max(0, width - picture.shape[1])
        padding = ((0, lacking[0]), (0, lacking[1]), (0, 0))
        filled = np.pad(picture, padding, mode="symmetric")[:height, :width]
        target = io.BytesIO()
        Image.fromarray(filled).save(target, kind, **options)
        encoded.append(target.getvalue())
    return Files(megapixels, kind, tuple(encoded))


def score_drift(jpegs: list[Files], weights: str) -> dict[str, Any]:
    """What `fast` changes in the default head's score, by size of the JPEGs."""
    import torch

    tower, head = load_tower({"weights": weights}), head_module(0)

    def scores(files: Files, way: str) -> npt.NDArray[np.float32]:
        prepared = torch.from_numpy(np.stack([WAYS[way](data) for data in files.data]))
        with torch.no_grad():
            features = tower.module(_normalised(prepared))
            found: npt.NDArray[np.float32] = head(
                features / features.norm(dim=-1, keepdim=True)
            ).numpy()
        return found

    drift = []
    for files in jpegs:
        exact, fast = scores(files, EXACT), scores(files, FAST)
        off = np.abs(fast - exact)
        drift.append(
            {
                "megapixels": files.megapixels,
                "mean": float(off.mean()),
                "largest": float(off.max()),
                "sd_between_images": float(exact.std()),
            }
        )
    return {"weights": weights, "head": "seeded", "by_size": drift}


def _normalised(prepared: Any) -> Any:
    """(n, 224, 224, 3) uint8 to CLIP's input."""
    import torch

    mean, std = torch.tensor(pixels.CLIP_MEAN), torch.tensor(pixels.CLIP_STD)
    return ((prepared.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _rgb(file: Path) -> Pixels:
    from PIL import Image

    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def _pillow_only(data: bytes) -> Pixels:
    with patch.object(_jpeg, "_simplejpeg", lambda: None):
        return prepare_pixels(data)


def _faster(data: bytes) -> Pixels:
    with patch.object(pixels, "FAST_LEAST", IMAGE_SIZE):
        return prepare_pixels(data, _FAST_OPTIONS)


_FAST_OPTIONS = PixelOptions(mode="fast")
WAYS: dict[str, Way] = {
    REFERENCE: reference,
    EXACT: prepare_pixels,
    PILLOW_ONLY: _pillow_only,
    FAST: lambda data: prepare_pixels(data, _FAST_OPTIONS),
    FASTER: _faster,
}
PNG_WAYS = (REFERENCE, EXACT)
