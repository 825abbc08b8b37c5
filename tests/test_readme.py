"""The README's lines run, and what it names exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aesthetic_client import HEADS
from aesthetic_client.cli import COMMANDS, _parser
from generated_images import encoded, texture

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def shell_lines() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.triton
def test_the_python_lines_run(
    tiny_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encoded(Image.fromarray(texture(90, 70, 3)), "JPEG"))
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff")
    printed: list[tuple[object, ...]] = []
    program = "\n".join(blocks("python"))
    assert program.count("localhost:8001") == 2
    program = program.replace("localhost:8001", tiny_server.grpc_url)
    exec(program, {"print": lambda *words: printed.append(words)})
    assert isinstance(printed[0][0], float)
    assert printed[1][0] == "photo.jpg" and len(printed[1][1]) == len(HEADS)  # type: ignore[arg-type]
    assert printed[2][0] == "broken.jpg" and "[corrupt]" in str(printed[2][1])


def test_the_aesthetic_lines_parse() -> None:
    lines = [words for words in shell_lines() if Path(words[0]).name == "aesthetic"]
    assert {words[1] for words in lines} == {command.name for command in COMMANDS}
    for words in lines:
        _parser(words[1:]).parse_args(words[1:])


def test_the_make_lines_name_targets() -> None:
    targets = {words[1] for words in shell_lines() if words[0] == "make"}
    assert {"demo", "test"} <= targets
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_the_heads_table_is_the_contracts() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)`", README, re.MULTILINE))
    assert rows == {head.output: head.name for head in HEADS}


def test_named_files_exist() -> None:
    for name in re.findall(r"`((?:client|export|serve|tests|benchmarks)/[\w./]+)`", ARCHITECTURE):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([\w/]+\.md)\)", README):
        assert (ROOT / name).exists(), name


def test_the_architecture_fits_a_page() -> None:
    assert len(ARCHITECTURE.splitlines()) <= 75


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(900)
def test_make_demo(full_repository: Path, tmp_path: Path) -> None:
    """The newcomer's command, with this environment and this export instead of fresh ones."""
    exported = tmp_path / "cache" / "model_repository"
    shutil.copytree(full_repository, exported, copy_function=os.link)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, seed in (("one.jpg", 1), ("two.jpg", 2)):
        image = Image.fromarray(texture(400, 300, 3, seed))
        (photos / name).write_bytes(encoded(image, "JPEG"))
    done = subprocess.run(
        ["make", "demo", f"VENV={sys.prefix}", f"IMAGES={photos}"],
        cwd=ROOT,
        env={**os.environ, "AESTHETIC_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith(".jpg")]
    assert [row[0] for row in rows if row[0].isdigit()] == ["1", "2"]
    assert "aesthetic serve" in done.stdout
    assert "already exported" in done.stderr


def test_the_benchmark_table_comes_from_its_results() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from aesthetic_bench import tables

    names = ("serving-cpu", "serving-cpu-bf16", "serving-cpu-int8")
    results = [ROOT / "benchmarks" / "results" / f"{name}.json" for name in names]
    assert tables.readme_block([json.loads(path.read_text()) for path in results]) in README


def test_the_engines_table_and_plot_come_from_their_results() -> None:
    results = ROOT / "benchmarks" / "results" / "engines-cpu.json"
    if not results.is_file():
        assert "engines-cpu" not in README, "README shows figures whose results are not here"
        return
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from aesthetic_bench import engine_plot, engine_tables

    record = json.loads(results.read_text())
    assert engine_tables.readme_block(record) in README
    assert engine_plot.svg(record) == results.with_suffix(".svg").read_text()
