"""The optional DALI models' parts: their sources by path, and a stand-in for Triton's backend."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from repository_configs import SOURCE

from aesthetic_client.contract import DALI, DALI_DECODE, PREPROCESS_DALI
from generated_images import encoded, generated, texture

DALI_SOURCE = SOURCE / "dali"
STAND_IN = Path(__file__).with_name("dali_stand_in.py")

# What DALI must not decode: it would give other pixels than the reference, or fail.
NOT_FOR_DALI = {
    *(f"mode-{mode}.png" for mode in ("1", "RGBA", "LA", "P", "P-one-transparent", "P-alphas")),
    *("mode-RGBA.webp", "mode-CMYK.jpg", "16-bit-grey.png"),
    *(f"16-bit-colour{colour}.png" for colour in (2, 4, 6)),
    *("animated.webp", "animated.png"),
}


def module_of(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def routing() -> ModuleType:
    return module_of(DALI_SOURCE / PREPROCESS_DALI.name / "1" / "dali_routing.py", "dali_routing")


def pipelines() -> ModuleType:
    """`dali.py`; needs DALI."""
    return module_of(DALI_SOURCE / DALI_DECODE.name / "1" / "dali.py", "dali_pipelines")


def further_images() -> Iterator[tuple[str, bytes]]:
    """Files that decoders are known to see differently: profiles, gamma, odd colour, odd sizes."""
    photo = Image.fromarray(texture(640, 427, 3, 5))
    hard = Image.fromarray(
        np.kron(np.indices((60, 90)).sum(0) % 2, np.ones((7, 7))).astype("u1") * 255
    )
    yield "profile.jpg", encoded(photo, "JPEG", icc_profile=_srgb())
    yield "profile.png", encoded(photo, icc_profile=_srgb())
    yield "checkerboard.png", encoded(hard.convert("RGB"))
    yield "checkerboard.jpg", encoded(hard, "JPEG")
    for sampling in (0, 1, 2):
        yield f"sampling-{sampling}.jpg", encoded(photo, "JPEG", subsampling=sampling, quality=70)
    yield "odd-sides.jpg", encoded(photo.crop((0, 0, 601, 403)), "JPEG", subsampling=2)
    yield "thin.jpg", encoded(photo.crop((0, 0, 31, 427)), "JPEG")
    yield "low-quality.jpg", encoded(photo, "JPEG", quality=5)
    yield "mode-L.webp", encoded(photo.convert("L"), "WEBP", quality=80)


def rgb_jpeg() -> bytes:
    """Three components that are red, green and blue, and not YCbCr."""
    return encoded(Image.fromarray(texture(301, 225, 3)), "JPEG", keep_rgb=True)


def _srgb() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def all_images() -> list[tuple[str, bytes]]:
    return [*generated(), *further_images(), ("rgb.jpg", rgb_jpeg())]


class CpuPipeline:
    """The pipeline of `dali.py` without a GPU. After a failure it is made anew, as DALI asks."""

    options: ClassVar[dict[str, Any]] = {"on_gpu": False, "device_id": None}

    def __init__(self) -> None:
        self._module = pipelines()
        self._make()

    def _make(self) -> None:
        self._pipeline = self._module.pixels(
            **self.options, batch_size=8, num_threads=1, prefetch_queue_depth=1
        )
        self._pipeline.build()

    def __call__(self, files: Sequence[bytes]) -> list[Any]:
        """uint8 (224, 224, 3) of each file. Raises RuntimeError for all when one is broken."""
        try:
            self._pipeline.feed_input(
                self._module.INPUT, [np.frombuffer(data, np.uint8) for data in files]
            )
            (pixels,) = self._pipeline.run()
            pixels = pixels.as_cpu()
            return [np.array(pixels.at(index)) for index in range(len(pixels))]
        except RuntimeError:
            self._make()
            raise


class GpuPipeline(CpuPipeline):
    """The pipeline as it is served."""

    options: ClassVar[dict[str, Any]] = {}


def add_dali_models(repository: Path, decoder: str) -> None:
    """Copy the optional models into `repository`, with a Python stand-in for Triton's backend.

    `decoder` is "dali" for the real pipeline on the CPU, or "pillow" where DALI is not installed.
    """
    for model in DALI.models:
        shutil.copytree(DALI_SOURCE / model.name, repository / model.name)
    folder = repository / DALI_DECODE.name
    config = folder / "config.pbtxt"
    text = config.read_text().replace('backend: "dali"', 'backend: "python"')
    text = text.replace("kind: KIND_GPU ", "").replace(
        'filename: "dali.py"', 'filename: "model.py"'
    )
    config.write_text(
        text + f'parameters {{ key: "decoder" value {{ string_value: "{decoder}" }} }}\n'
    )
    shutil.copy(STAND_IN, folder / "1" / "model.py")
    router = repository / PREPROCESS_DALI.name / "config.pbtxt"
    router.write_text(re.sub(r"count: \d+", "count: 2", router.read_text()))
