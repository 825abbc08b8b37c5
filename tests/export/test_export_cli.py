"""`aesthetic export` from its options to the served folder."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from aesthetic_client import contract
from aesthetic_client.errors import InputError
from aesthetic_export import cli, parity, sources, verify_cli
from aesthetic_export.modules import ClipImage
from aesthetic_export.openclip import open_clip_transformer
from aesthetic_export.samples import made_up_images
from aesthetic_export.towers import seeded_tower
from towers import TINY, tiny_tower


def parsed(*options: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args([str(option) for option in options])


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> Path:
    """The command builds tiny towers, and keeps its cache in a folder of its own."""
    monkeypatch.setattr(sources, "seeded_tower", tiny_tower)
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AESTHETIC_WEIGHTS_DIR", raising=False)
    return tmp_path / "cache"


def test_it_builds_the_default_repository_and_prints_its_path(tiny, capsys):
    assert cli.run(parsed("--weights", "seeded:3", "--head-weights", "seeded:4")) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tiny / 'model_repository'}\n"
    assert "PASS clip_image" in printed.err
    assert "PASS aesthetic_heads" in printed.err
    assert "sac_public" in printed.err
    seeds = {
        model: json.loads((tiny / f"model_repository/{model}/1/provenance.json").read_text())[
            "seed"
        ]
        for model in ("clip_image", "aesthetic_heads")
    }
    assert seeds == {"clip_image": 3, "aesthetic_heads": 4}


def test_heads_come_from_the_folder_that_the_environment_names(
    tiny, shared_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("AESTHETIC_WEIGHTS_DIR", str(shared_data / "heads"))
    target = tmp_path / "chosen"
    assert cli.run(parsed("--repository", target, "--model", "aesthetic_heads")) == 0
    provenance = json.loads((target / "aesthetic_heads/1/provenance.json").read_text())
    assert provenance["weights"] == "published"
    assert not (target / "clip_image/1/model.onnx").exists()


def test_a_failed_parity_is_reported_and_gives_1(tiny, monkeypatch, capsys):
    monkeypatch.setattr(parity, "AESTHETIC_HEADS_FP32", parity.Tolerance(score=-1.0))
    options = ("--weights", "seeded:0", "--head-weights", "seeded:0", "--model", "aesthetic_heads")
    assert cli.run(parsed(*options)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "FAIL aesthetic_heads" in printed.err
    assert not (tiny / "model_repository").exists()


def test_a_folder_of_images_takes_the_place_of_made_up_ones(tiny, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, pixels in enumerate(made_up_images(3)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "3.png").write_bytes(b"not an image")
    options = ("--weights", "seeded:0", "--model", "clip_image", "--head-weights", "seeded:0")
    assert cli.run(parsed(*options, "--images", folder)) == 0
    path = tiny / "model_repository/clip_image/1/provenance.json"
    assert json.loads(path.read_text())["parity"]["items"] == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--weights", "bogus"), "names no weights"),
        (("--weights", "seeded:0", "--head-weights", "bogus"), "names no heads"),
        (("--weights", "seeded:0", "--weights-dir", "/nonexistent"), "/nonexistent"),
        (("--weights", "seeded:0", "--images", "/nonexistent"), "no such folder"),
        (("--repository", Path(__file__).parents[2] / "model_repository"), "never written to"),
    ],
)
def test_what_the_user_must_mend_is_said(tiny, options, says):
    with pytest.raises(InputError, match=says):
        cli.run(parsed(*options))


def test_images_need_at_least_two_readable_ones(tiny, tmp_path):
    with pytest.raises(InputError, match="needs two"):
        cli.run(parsed("--weights", "seeded:0", "--images", tmp_path))


def test_asking_for_help_imports_nothing_heavy():
    code = (
        "import argparse, sys\n"
        "from aesthetic_export import cli, verify_cli\n"
        "cli.add_arguments(argparse.ArgumentParser())\n"
        "verify_cli.add_arguments(argparse.ArgumentParser())\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'open_clip', 'rich', 'PIL', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout in ("[]\n", "['numpy']\n")  # the client package itself needs numpy


def test_every_option_has_help():
    for module in (cli, verify_cli):
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        assert parser.description
        assert all(action.help for action in parser._actions)


def test_a_seeded_tower_is_what_open_clip_itself_would_build():
    open_clip_transformer()  # mends the import of open_clip where it has to be mended
    import open_clip

    shape = {"image_size": 224, "patch_size": 14, "width": TINY.width, "layers": TINY.layers}
    torch.manual_seed(11)
    theirs = open_clip.CLIP(
        embed_dim=768,
        vision_cfg={**shape, "head_width": TINY.width // TINY.heads},
        text_cfg={"width": 8, "heads": 1, "layers": 1, "vocab_size": 8, "context_length": 4},
        quick_gelu=True,
    ).visual
    ours = seeded_tower(11, TINY).module
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


@pytest.mark.slow
def test_the_full_tower_is_exported_by_the_command(full_repository):
    target = full_repository
    written = json.loads((target / "clip_image/1/provenance.json").read_text())
    assert written["weights"] == contract.SEEDED_WEIGHTS
    assert written["parity"]["batch_sizes"] == [1, 8]
    assert written["parity"]["min_cosine"] > 0.999999
    assert 0 < written["parity"]["max_score_difference"] < 1e-3
    assert (target / "clip_image/1/model.onnx.data").stat().st_size > 1.2e9  # 304 M fp32

    module = ClipImage(seeded_tower(0).module)  # built anew: a seed names one tower
    assert sum(parameter.numel() for parameter in module.parameters()) == 303_966_208
    pixels = made_up_images(9)[8:]  # not among those of the parity check
    session = onnxruntime.InferenceSession(
        str(target / "clip_image/1/model.onnx"), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"pixels": pixels})
    expected = module(torch.from_numpy(pixels)).numpy()
    assert float(np.sum(found * expected)) > 0.999999
    assert np.abs(found - expected).max() < 1e-6
