"""The benchmark's plain-torch tower and heads are the project's own, by numbers."""

from __future__ import annotations

from pathlib import Path

import bench_gpu_path  # noqa: F401
import numpy as np
import pytest
import torch
from gpu_bench import heads, images, tower
from gpu_bench.project import project_module
from gpu_bench.shapes import TINY, VIT_L_14, flops_per_image, products

from aesthetic_client import contract, pixels
from aesthetic_export import towers
from aesthetic_export.heads import seeded_heads
from aesthetic_export.modules import ClipImage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    return images.made_up(3)


def test_the_tower_is_open_clips(batch: torch.Tensor) -> None:
    theirs = towers.build_vision_transformer(towers.Shape(width=64, layers=2, heads=2))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    state = {f"visual.{name}": value for name, value in theirs.state_dict().items()}
    ours = tower.tower_from_state(state, TINY)
    with torch.no_grad():
        expected = ClipImage(theirs)(batch)
        found = tower.clip_image(ours, torch.float32, CPU)(batch)
    assert torch.allclose(found, expected, atol=1e-6)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3  # the images are told apart


def test_fp16_stays_near_fp32(batch: torch.Tensor) -> None:
    seeded = tower.seeded_tower(TINY, 0)
    with torch.no_grad():
        exact = tower.clip_image(seeded, torch.float32, CPU)(batch)
        half = tower.clip_image(seeded, torch.float16, CPU)(batch)
    assert half.dtype == torch.float32
    assert 0 < float((half - exact).abs().max()) < 1e-3


def test_another_seed_is_another_tower_and_no_other_state_fits() -> None:
    one, other = (tower.seeded_tower(TINY, seed).state_dict() for seed in (0, 1))
    assert not torch.equal(one["proj"], other["proj"])
    with pytest.raises(RuntimeError):
        tower.tower_from_state({"proj": one["proj"]}, TINY)


def test_constants_are_the_contracts() -> None:
    assert (tower.MEAN, tower.STD) == (pixels.CLIP_MEAN, pixels.CLIP_STD)
    assert pytest.approx(towers.QUICK_GELU_FACTOR) == tower.QUICK_GELU
    assert heads.head_names() == tuple(head.name for head in contract.HEADS)
    assert (VIT_L_14.width, VIT_L_14.layers) == (towers.VIT_L_14.width, towers.VIT_L_14.layers)


def test_the_arithmetic_is_162_gflop() -> None:
    assert flops_per_image(VIT_L_14) == pytest.approx(162.0e9, rel=1e-3)
    assert sum(product.flops for product in products(VIT_L_14, 8)) == 8 * flops_per_image(VIT_L_14)


def test_published_heads_score_as_the_exporter_says(shared_data: Path) -> None:
    from aesthetic_export.files import FileStore
    from aesthetic_export.heads import published_heads
    from aesthetic_export.modules import AestheticHeads

    known = published_heads(FileStore(shared_data / "no-cache", (shared_data / "heads",)))
    vectors = torch.nn.functional.normalize(torch.randn(16, 768), dim=-1)
    expected = AestheticHeads(known)(vectors)
    found = heads.scores(heads.load_heads(shared_data / "heads", CPU), vectors)
    for name, column in zip(heads.head_names(), expected, strict=True):
        assert torch.allclose(found[name], column[:, 0], atol=1e-4), name


def test_random_heads_stand_in_for_missing_files(tmp_path: Path) -> None:
    drawn = heads.random_heads(CPU)
    assert set(drawn) == {head.source.name for head in seeded_heads(0)}
    with pytest.raises(OSError, match="sac"):
        heads.load_heads(tmp_path, CPU)


def test_photographs_are_prepared_as_the_server_does(photographs: list[Path]) -> None:
    folder = photographs[0].parent
    found, origin = images.images_for(folder, 2)
    assert "photographs" in origin
    first = sorted(path for path in folder.iterdir())[0]
    assert np.array_equal(found[0].numpy(), pixels.prepare_pixels(first.read_bytes()))


def test_without_photographs_pixels_are_made_up_and_said(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    for folder, reason in ((None, "no --images"), (tmp_path, "no readable image")):
        found, origin = images.images_for(folder, 4)
        assert found.shape == (4, 224, 224, 3) and found.dtype == torch.uint8
        assert reason in origin
        assert not torch.equal(found[0], found[1])


def test_project_modules_need_no_tritonclient(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "aesthetic_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    assert project_module("pixels").PREPROCESSING_ID == pixels.PREPROCESSING_ID
    for name in [name for name in sys.modules if name.split(".")[0] == "aesthetic_client"]:
        monkeypatch.delitem(sys.modules, name)
