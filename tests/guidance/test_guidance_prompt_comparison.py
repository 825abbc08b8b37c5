"""The example that compares plain and personalised prompts, and `guide compare --paired`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from aesthetic_client import Client
from aesthetic_client.cli import main
from aesthetic_client.errors import InputError
from aesthetic_guidance.statistics import compare, compare_pairs
from generated_images import texture

EXAMPLES = Path(__file__).parents[2] / "guidance" / "examples"
NAMES = [f"{prompt:03d}/{seed:04d}.png" for prompt in range(2) for seed in (5, 6)]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = EXAMPLES / "prompt_comparison.py"
    spec = importlib.util.spec_from_file_location("prompt_comparison", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.triton
def test_two_groups_are_generated_and_compared_within_their_pairs(
    example: ModuleType,
    tiny_server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    (tmp_path / "prompts.txt").write_text("a lighthouse\n\n  a fox in the snow \n")
    words = ["--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "out", "--images", 2]
    words += ["--inference-steps", 1, "--lr", "1e-2", "--steps", 2, "--seed", 5]
    words += ["--url", tiny_server.grpc_url]
    monkeypatch.setattr(sys, "argv", ["prompt_comparison.py", *map(str, words)])
    with torch.random.fork_rng(devices=[]):
        assert example.main() == 0
    out = capsys.readouterr().out
    assert "which means nothing" in out and "001 agreement" in out and "MEANINGLESS" in out
    folders = [tmp_path / "out" / group for group in ("A-plain", "B-personalised")]
    for folder in folders:
        assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png")) == NAMES
    one, other = ((folder / NAMES[0]).read_bytes() for folder in folders)
    assert one != other and one != (folders[0] / NAMES[1]).read_bytes()
    assert "within 4 pairs in 2 subfolders: mean difference" in out
    # The images of this run would be compared with those of another one.
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-2], "--seed", "9"])
    assert example.main() == 2
    assert "A-plain is there already, of another run" in capsys.readouterr().err
    assert {path.name for path in folders[0].rglob("*.png")} == {"0005.png", "0006.png"}


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of images in subfolders 000 and 001, two in each, with the same names."""
    folders = (tmp_path / "a", tmp_path / "b")
    for at, name in enumerate(NAMES):
        for side, folder in enumerate(folders):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(texture(48, 48, 3, seed=7 * at + side)).save(folder / name)
    return folders


@pytest.mark.triton
def test_images_of_one_name_are_compared_within_their_pairs(
    groups: tuple[Path, Path], tiny_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["guide", "compare", *map(str, groups), "--paired", "--url", tiny_server.grpc_url]
    command += ["-o", str(tmp_path / "comparison.svg")]
    assert main(command) == 0
    out = capsys.readouterr().out
    with Client(tiny_server.grpc_url) as client:
        a, b = (
            np.array([r.score for r in client.score_many([folder / name for name in NAMES])])
            for folder in groups
        )
    expected = compare_pairs(a, b, [name[:3] for name in NAMES])
    assert expected.difference == pytest.approx(compare(a, b).difference)
    assert f"within 4 pairs in 2 subfolders: mean difference {expected.difference:+.4f}" in out
    assert f"interval {expected.low:+.4f} to {expected.high:+.4f}" in out
    assert f"in {100 * expected.share_above:.1f}% of the pairs" in out
    picture = ElementTree.fromstring((tmp_path / "comparison.svg").read_text())
    assert "within 4 pairs in 2 subfolders" in "".join(picture.itertext())
    # A pair of which one image has no score is left out.
    (groups[1] / NAMES[0]).write_bytes(b"not a picture")
    assert main(command) == 1
    assert "within 3 pairs in 2 subfolders" in capsys.readouterr().out


def test_pairs_that_are_none_are_refused_before_a_server_is_asked(
    groups: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["--paired", "--url", "localhost:1", "-o", str(tmp_path / "comparison.svg")]
    twin = (groups[0] / NAMES[1]).with_suffix(".jpg")
    Image.fromarray(texture(8, 8, 3, seed=1)).save(twin)
    assert main(["guide", "compare", *map(str, groups), *rest]) == 2
    said = capsys.readouterr().err
    assert f"{twin} and {twin.with_suffix('.png')} have one name; rename one" in said
    twin.unlink()
    (groups[1] / NAMES[1]).rename(groups[1] / "alone.png")
    assert main(["guide", "compare", *map(str, groups), *rest]) == 2
    assert "0006.png has no partner in" in capsys.readouterr().err
    assert main(["guide", "compare", str(groups[0]), str(groups[1] / "alone.png"), *rest]) == 2
    assert "alone.png is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "0"], "--images takes a number above 0"),
        (["--inference-steps", "0"], "--inference-steps takes a number above 0"),
        (["--steps", "-1"], "steps=-1 is not a whole number"),
        (["--lr", "nan"], "lr=nan is not"),
        (["--prompts", "nope.txt"], "nope.txt cannot be read as text"),
        (["--url", "localhost:1", "--repository", "."], "--repository is for a started server"),
        (["--repository", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_generation(
    example: ModuleType,
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(example, "opened", lambda _: pytest.fail("it went on"))
    monkeypatch.setattr(sys, "argv", ["prompt_comparison.py", "-o", str(tmp_path / "x"), *words])
    assert example.main() == 2
    assert said in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_prompts_are_lines(example: ModuleType, tmp_path: Path) -> None:
    prompts = example.read_prompts(EXAMPLES / "prompts.txt")
    assert len(prompts) == len(set(prompts)) == 25 and all(len(one) < 60 for one in prompts)
    (tmp_path / "one.txt").write_text("a lighthouse\n\n")
    with pytest.raises(InputError, match="has 1 prompts, one a line; 2 are needed"):
        example.read_prompts(tmp_path / "one.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="cannot be read as text"):
        example.read_prompts(tmp_path / "binary.txt")
