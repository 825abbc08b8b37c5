"""The command's arguments, and how long a case is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import serving
from aesthetic_bench.settings import parse_concurrency, requests_for
from aesthetic_bench.torch_loop import choose_tower


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1:16", (1, 2, 4, 8, 16)),
        ("1:12", (1, 2, 4, 8, 12)),
        ("3:3", (3,)),
        ("8", (8,)),
        ("1,4,16", (1, 4, 16)),
    ],
)
def test_concurrency(text: str, values: tuple[int, ...]) -> None:
    assert parse_concurrency(text) == values


@pytest.mark.parametrize("text", ["", "0", "0:4", "8:1", "4,1", "2,2", "x", "1:2:3"])
def test_no_concurrency(text: str) -> None:
    with pytest.raises(ValueError):
        parse_concurrency(text)


def test_requests_aim_at_the_time_and_fill_every_round() -> None:
    for concurrency in (1, 2, 3, 8, 16, 500):
        for rate in (0.1, 1.1, 40.0, 1e6):
            requests = requests_for(concurrency, rate, 20.0, quick=False)
            assert requests % concurrency == 0
            assert requests >= min(8, concurrency)
    assert requests_for(1, 1.1, 20.0, quick=False) == 22
    assert requests_for(16, 1.1, 20.0, quick=False) == 48
    assert requests_for(16, 1.1, 6.0, quick=True) == 32
    assert requests_for(1, 1e6, 20.0, quick=False) <= 256


def test_arguments(tmp_path: Path) -> None:
    settings, output = serving.parse(["--repository", str(tmp_path), "--quick"])
    assert (settings.concurrency, settings.seconds) == ((1, 16), 6.0)
    assert output.parts[-3:] == ("benchmarks", "results", "serving-cpu.json")
    settings, _ = serving.parse(["--concurrency", "1:4", "--seconds", "3", "--quick"])
    assert (settings.concurrency, settings.seconds) == ((1, 2, 4), 3.0)
    assert str(tmp_path) not in str(settings.as_dict())


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--concurrency", "4,1"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serving.parse(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tritonclient")
    output = tmp_path / "out.json"
    given = ["--repository", str(tmp_path), "--perf-analyzer", str(tmp_path / "none")]
    assert serving.main([*given, "--output", str(output)]) == 1
    assert "error: " in capsys.readouterr().err
    assert not output.exists()


def test_the_torch_loop_needs_the_served_weights() -> None:
    assert choose_tower({"source": "seeded:7"}, None, None) == ({"weights": "seeded:7"}, "")
    assert choose_tower({"source": "seeded:7"}, "ViT-L-14.pt", None)[0] == {
        "weights": "ViT-L-14.pt"
    }
    assert choose_tower({}, None, "towers:tiny_tower")[0] == {"factory": "towers:tiny_tower"}
    tower, reason = choose_tower({"source": "https://somewhere/model.safetensors"}, None, None)
    assert tower is None
    assert "--weights" in reason
