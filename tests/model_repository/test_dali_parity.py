"""DALI's pixels against the reference's, by the pipeline that Triton serves, run on the CPU.

Needs DALI (the `dali` extra). nvJPEG and the GPU's arithmetic are not seen here: where there is a
GPU, the same checks run on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from dali_parts import (
    CpuPipeline,
    GpuPipeline,
    all_images,
    further_images,
    pipelines,
    routing,
)

from aesthetic_client import contract
from aesthetic_client.pixels import DEFAULT_OPTIONS, prepare_pixels
from generated_images import generated

if TYPE_CHECKING:
    from aesthetic_export.modules import AestheticHeads

pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install nvidia-dali-cuda130")

# The promise is 0.2/255 and 8/255. On the CPU it keeps much closer, and this would show a change.
LARGEST_MEAN, LARGEST = 0.2, 8
LARGEST_MEAN_ON_CPU, LARGEST_ON_CPU = 0.02, 2
# Of scores' spread between images, on a tower that exaggerates: a random one, its weights scaled
# up so that other pixels give clearly other embeddings. Trained weights are far less excitable.
LARGEST_SCORE_SHARE = 0.03


@pytest.fixture(scope="module")
def files(photographs: list[Path]) -> dict[str, bytes]:
    """What the router would send: generated and real."""
    every = [*all_images(), *((path.name, path.read_bytes()) for path in photographs)]
    goes = routing().decodes_the_same
    chosen = {name: data for name, data in every if goes(data, DEFAULT_OPTIONS)}
    assert len(chosen) > 60
    return chosen


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def pipeline(request: pytest.FixtureRequest) -> Iterator[CpuPipeline]:
    if request.param == "gpu":
        from nvidia.dali import backend

        if not Path("/dev/nvidiactl").exists() or not backend.GetCudaVersion():
            pytest.skip("no GPU here")
    yield CpuPipeline() if request.param == "cpu" else GpuPipeline()


def differences(pipeline: CpuPipeline, files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """|DALI - reference| of each file, decoded in batches of 8 as they come."""
    found, names = {}, list(files)
    for start in range(0, len(names), 8):
        batch = names[start : start + 8]
        for name, pixels in zip(batch, pipeline([files[name] for name in batch]), strict=True):
            assert pixels.dtype == np.uint8 and pixels.shape == contract.PIXELS.dims
            found[name] = np.abs(pixels.astype(int) - prepare_pixels(files[name]))
    return found


def test_pixels_equal_the_references(
    pipeline: CpuPipeline, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    on_cpu = type(pipeline) is CpuPipeline
    mean, largest = (LARGEST_MEAN_ON_CPU, LARGEST_ON_CPU) if on_cpu else (LARGEST_MEAN, LARGEST)
    found = differences(pipeline, files)
    worst_mean = max(found, key=lambda name: found[name].mean())
    worst = max(found, key=lambda name: found[name].max())
    with capsys.disabled():
        print(
            f"\nDALI against the reference, {len(found)} files: "
            f"mean {np.mean([each.mean() for each in found.values()]):.4f}/255, "
            f"largest mean {found[worst_mean].mean():.4f} ({worst_mean}), "
            f"largest {found[worst].max()} ({worst})"
        )
    assert found[worst_mean].mean() <= mean
    assert found[worst].max() <= largest


def test_scores_equal_the_references(
    pipeline: CpuPipeline,
    files: dict[str, bytes],
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the real heads on the tiny tower, which turns other pixels into other embeddings."""
    import torch

    from aesthetic_export.files import FileStore
    from aesthetic_export.heads import published_heads
    from aesthetic_export.modules import AestheticHeads, ClipImage
    from towers import tiny_tower

    tower = ClipImage(tiny_tower().module).eval()
    heads: AestheticHeads = AestheticHeads(
        published_heads(FileStore(tmp_path, (shared_data / "heads",)))
    )

    def scores(pixels: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            outputs = heads(tower(torch.from_numpy(np.stack(pixels))))
        return np.concatenate([output.numpy() for output in outputs], axis=1)

    expected = scores([prepare_pixels(data) for data in files.values()])
    found = scores([pixels for data in files.values() for pixels in pipeline([data])])
    spread = expected.std(axis=0)
    rms = np.sqrt(((found - expected) ** 2).mean(axis=0))
    with capsys.disabled():
        print(
            f"\nscores of {len(files)} files, tiny tower and real heads: default head differs by "
            f"{rms[0]:.4f} rms, {spread[0]:.3f} between images; of all heads at most "
            f"{(rms / spread).max():.1%} of the spread"
        )
    assert spread[0] > 0.05, "the tower must tell these images apart"
    assert (rms / spread).max() <= LARGEST_SCORE_SHARE


def test_a_file_the_router_holds_back_would_differ(pipeline: CpuPipeline) -> None:
    """So the router is needed: DALI takes these without complaint, and gives other pixels."""
    files = dict(generated())
    for name in ("mode-P.png", "mode-RGBA.png", "mode-LA.png", "mode-1.png", "mode-RGBA.webp"):
        (pixels,) = pipeline([files[name]])
        assert np.abs(pixels.astype(int) - prepare_pixels(files[name])).max() > LARGEST


def test_one_corrupt_file_fails_its_batch_and_no_later_one(pipeline: CpuPipeline) -> None:
    files = dict(further_images())
    good = [files["sampling-0.jpg"], files["profile.png"]]
    data = files["checkerboard.png"]
    broken = data[: len(data) // 2] + bytes(50) + data[-12:]
    expected = pipeline(good)
    with pytest.raises(RuntimeError):
        pipeline([good[0], broken, good[1]])
    for once_more, before in zip(pipeline(good), expected, strict=True):
        np.testing.assert_array_equal(once_more, before)


def test_the_definition_states_what_the_contract_says() -> None:
    module = pipelines()
    assert contract.ENCODED.name == module.INPUT
    assert contract.PIXELS.dims == (module.IMAGE_SIZE, module.IMAGE_SIZE, 3)
    assert contract.DALI_DECODE.max_batch == module.MAX_BATCH


def test_triton_can_serialise_the_definition(
    pipeline: CpuPipeline, files: dict[str, bytes], tmp_path: Path
) -> None:
    """As its DALI backend does: one `@autoserialize` in the module, serialised, read back, run."""
    from nvidia.dali import Pipeline
    from nvidia.dali._utils.autoserialize import _discover_autoserialize

    module = pipelines()
    assert _discover_autoserialize(module, visited=[]) == [module.pixels]
    file = tmp_path / "model.dali"
    options = {**pipeline.options, "batch_size": 2, "prefetch_queue_depth": 1}
    module.pixels(**options).serialize(filename=str(file))
    again = Pipeline.deserialize(filename=str(file))
    two = [files["444.jpg"], files["mode-L.png"]]
    again.feed_input(module.INPUT, [np.frombuffer(data, np.uint8) for data in two])
    (pixels,) = again.run()
    for index, expected in enumerate(pipeline(two)):
        np.testing.assert_array_equal(np.array(pixels.as_cpu().at(index)), expected)
