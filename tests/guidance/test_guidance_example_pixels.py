"""The example that optimises pixels, run for a few steps on the tiny tower."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from aesthetic_client.pixels import prepare_pixels
from aesthetic_export import sources
from aesthetic_export.heads import seeded_heads
from aesthetic_guidance.scorer import AestheticScorer
from generated_images import encoded, texture
from towers import tiny_tower

pytest.importorskip("matplotlib")
EXAMPLE = Path(__file__).parents[2] / "guidance" / "examples" / "optimise_pixels.py"


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("optimise_pixels", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_three_modes_do_what_they_are_for(example, tmp_path):
    scorer = AestheticScorer(tiny_tower(), seeded_heads(0)[0])
    target = example.read_target(None)
    assert target.shape == (1, 3, 224, 224) and 0 <= target.min() < target.max() <= 1
    runs = {run.mode: run for run in example.run_modes(scorer, target, tmp_path, steps=5)}
    assert tuple(runs) == example.MODES
    distance = {}
    for mode, run in runs.items():
        assert sorted(run.scores) == sorted(run.frames) == list(range(6))
        last = run.frames[5][None]
        assert run.scores[5] == pytest.approx(float(scorer.score(last)), abs=1e-5)
        distance[mode] = float(((last - target) ** 2).mean())
        assert torch.equal(run.frames[0], runs["auxiliary"].frames[0])
    assert runs["aesthetic only"].scores[5] > runs["aesthetic only"].scores[0] + 1
    # A weight that rises leaves more to the reconstruction than one that is full from the start.
    assert distance["annealed"] < distance["auxiliary"] < distance["aesthetic only"]
    for name in ("scores.png", "contact_sheet.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 10
    for figure in (
        example.plot_scores(list(runs.values()), scorer),
        example.draw_contact_sheet(list(runs.values()), target, scorer),
    ):
        assert example.MEANINGLESS in figure.get_suptitle()
    scorer.meaningless = False
    assert "MEANINGLESS" not in example.plot_scores(list(runs.values()), scorer).get_suptitle()


def test_the_command_reads_an_image_and_prints_what_it_wrote(
    example, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sources, "seeded_tower", lambda seed: tiny_tower(seed))
    monkeypatch.setattr(sources, "published_heads", lambda _: seeded_heads(1))
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded(Image.fromarray(texture(300, 240, 3))))
    expected = prepare_pixels(photo.read_bytes()) / np.float32(255)
    np.testing.assert_allclose(example.read_target(photo)[0].permute(1, 2, 0), expected, atol=1e-7)
    out = tmp_path / "out"
    options = ["-o", str(out), "--image", str(photo), "--weights", "seeded:0", "--device", "cpu"]
    assert example.main([*options, "--steps", "1"]) == 0
    assert capsys.readouterr().out == f"{out / 'scores.png'}\n{out / 'contact_sheet.png'}\n"
    with pytest.raises(SystemExit):
        example.main([*options, "--steps", "0"])
    assert "--steps 0: 1 or more" in capsys.readouterr().err
    assert example.main(["--weights", "clip"]) == 2
    assert "names no weights" in capsys.readouterr().err
