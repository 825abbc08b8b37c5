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

from aesthetic_client import Client
from aesthetic_client.cli import main
from aesthetic_client.errors import InputError
from aesthetic_guidance.statistics import compare, compare_pairs

EXAMPLES = Path(__file__).parents[2] / "guidance" / "examples"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
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
    (tmp_path / "prompts.txt").write_text("a lighthouse\n\n  a fox in the snow \n")
    words = ["--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "out", "--images", 2]
    words += ["--inference-steps", 1, "--lr", "1e-2", "--steps", 2, "--seed", 5]
    words += ["--url", tiny_server.grpc_url]
    monkeypatch.setattr(sys, "argv", ["prompt_comparison.py", *map(str, words)])
    with torch.random.fork_rng(devices=[]):
        assert example.main() == 0
    out = capsys.readouterr().out
    assert "which means nothing" in out and "001 agreement" in out and "MEANINGLESS" in out
    names = [f"{prompt:03d}/{seed:04d}.png" for prompt in range(2) for seed in (5, 6)]
    folders = [tmp_path / "out" / group for group in ("A-plain", "B-personalised")]
    for folder in folders:
        assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png")) == names
    one, other = ((folder / names[0]).read_bytes() for folder in folders)
    assert one != other and one != (folders[0] / names[1]).read_bytes()
    with Client(tiny_server.grpc_url) as client:
        a, b = (
            np.array([r.score for r in client.score_many([folder / name for name in names])])
            for folder in folders
        )
    expected = compare_pairs(a, b, [name[:3] for name in names])
    assert expected.difference == pytest.approx(compare(a, b).difference)
    assert f"within 4 pairs in 2 subfolders: mean difference {expected.difference:+.4f}" in out
    assert f"interval {expected.low:+.4f} to {expected.high:+.4f}" in out
    assert f"in {100 * expected.share_above:.1f}% of the pairs" in out
    picture = ElementTree.fromstring((tmp_path / "out" / "comparison.svg").read_text())
    assert "within 4 pairs in 2 subfolders" in "".join(picture.itertext())
    # A pair of which one image has no score is left out, and a file without a partner refused.
    compare_command = ["guide", "compare", *map(str, folders), "--paired", "--url"]
    compare_command += [tiny_server.grpc_url, "-o", str(tmp_path / "again.svg")]
    (folders[1] / names[0]).write_bytes(b"not a picture")
    assert main(compare_command) == 1
    assert "within 3 pairs in 2 subfolders" in capsys.readouterr().out
    (folders[1] / names[1]).rename(folders[1] / "alone.png")
    assert main(compare_command) == 2
    assert "0006.png has no partner in" in capsys.readouterr().err
    assert main([*compare_command[:3], str(folders[1] / "alone.png"), *compare_command[4:]]) == 2
    assert "alone.png is none" in capsys.readouterr().err


def test_prompts_are_lines(example: ModuleType, tmp_path: Path) -> None:
    prompts = example.read_prompts(EXAMPLES / "prompts.txt")
    assert len(prompts) == len(set(prompts)) == 25 and all(len(one) < 60 for one in prompts)
    (tmp_path / "one.txt").write_text("a lighthouse\n\n")
    with pytest.raises(InputError, match="has 1 prompts, one a line; 2 are needed"):
        example.read_prompts(tmp_path / "one.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="cannot be read as text"):
        example.read_prompts(tmp_path / "binary.txt")
