"""The `aesthetic` command, as a person runs it."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aesthetic_client import HEADS
from aesthetic_client import cli as root
from aesthetic_client.cli import COMMANDS, main
from aesthetic_client.cli._files import find_images
from aesthetic_client.errors import InputError
from generated_images import encoded, texture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, seed in (("a.jpg", 1), ("b.PNG", 2), ("deep/er/c.webp", 3), (".hidden/d.jpg", 4)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[path.suffix.lower()]
        path.write_bytes(encoded(Image.fromarray(texture(90, 70, 3, seed)), kind))
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_images_are_found_below_folders_and_named_files_always_tried(photos: Path) -> None:
    found = [path.relative_to(photos).as_posix() for path in find_images([str(photos)])]
    assert found == ["a.jpg", "b.PNG", "deep/er/c.webp"]
    named = find_images([str(photos / "notes.txt"), str(photos / "a.jpg"), str(photos)])
    assert [path.name for path in named] == ["notes.txt", "a.jpg", "b.PNG", "c.webp"]
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images in .*empty: looked for"):
        find_images([str(photos / "empty")])


def test_help_works_on_a_bare_install_and_lists_every_command() -> None:
    program = (
        "import sys\n"
        "for name in ('rich', 'PIL', 'torch', 'onnx', 'onnxruntime', 'pytriton', 'aesthetic_serve',"
        " 'aesthetic_export'): sys.modules[name] = None\n"
        "from aesthetic_client.cli import main\n"
        "main(['--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command.name in done.stdout and command.help in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_for_every_option(
    command: root.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command.name, "--help"])
    assert stopped.value.code == 0
    parser = root._parser([command.name])
    (subparsers,) = (a for a in parser._actions if hasattr(a, "choices") and a.choices)
    assert_helpful(command.name, subparsers.choices[command.name])
    assert command.name in Path("README.md").read_text()


def assert_helpful(name: str, parser: argparse.ArgumentParser) -> None:
    """Every option of a command, and of its own commands, has help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below, sub in action.choices.items():
                assert_helpful(f"{name} {below}", sub)
        else:
            assert action.help, f"{name} {action.dest} has no help"


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "aesthetic_serve.cli", None)
    assert main(["serve"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'aesthetic-triton[serve]'" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top", "0"], "--top takes a number above 0"),
        (["--url", "ftp://x"], "cannot use the server address"),
        (["--url", "localhost:1", "--repository", "x"], "--repository is for a started server"),
        (["--repository", "/nonexistent/repo"], "aesthetic export"),
    ],
)
def test_usage_errors(
    photos: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(photos), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


@pytest.mark.triton
class TestScore:
    @pytest.fixture
    def score(self, tiny_server: Any, capsys: pytest.CaptureFixture[str]) -> Any:
        def run(*arguments: object) -> tuple[int, str, str]:
            code = main(["score", *map(str, arguments), "--url", tiny_server.grpc_url])
            output = capsys.readouterr()
            return code, output.out, output.err

        return run

    def test_table_is_ranked_and_warns_of_seeded_weights(self, score: Any, photos: Path) -> None:
        code, out, err = score(photos)
        assert code == 0 and "seeded, scores are meaningless" in err
        header, *rows = out.splitlines()
        assert header.split() == ["#", "score", "image"] and len(rows) == 3
        scores = [float(row.split()[1]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert [row.split()[0] for row in rows] == ["1", "2", "3"]

    def test_formats_agree(self, score: Any, photos: Path, tmp_path: Path) -> None:
        _, as_json, _ = score(photos, "--format", "json", "--heads", "all")
        _, as_lines, _ = score(photos, "--format", "jsonl", "--heads", "all")
        target = tmp_path / "scores.csv"
        code, nothing, _ = score(photos, "--format", "csv", "--heads", "all", "--output", target)
        assert code == 0 and nothing == ""
        ranked = json.loads(as_json)
        lines = [json.loads(line) for line in as_lines.splitlines()]
        rows = list(csv.DictReader(io.StringIO(target.read_text())))
        assert {row["path"] for row in ranked} == {row["path"] for row in lines}
        assert [row["score"] for row in ranked] == sorted(
            (row["score"] for row in ranked), reverse=True
        )
        assert [Path(row["path"]).name for row in rows] == ["a.jpg", "b.PNG", "c.webp"]
        for row, line in zip(rows, lines, strict=True):
            assert set(line["scores"]) == {head.name for head in HEADS}
            for name, value in line["scores"].items():
                assert float(row[name]) == pytest.approx(value, abs=1e-4)

    def test_unreadable_files_are_listed_and_the_others_scored(
        self, score: Any, photos: Path
    ) -> None:
        (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
        code, out, err = score(photos, photos / "gone.png")
        assert code == 1 and len(out.splitlines()) == 4
        assert "broken.jpg: " in err and "[corrupt]" in err
        assert "gone.png: " in err and "[unreadable]" in err
        code, out, _ = score(photos, "--format", "jsonl")
        rows = [json.loads(line) for line in out.splitlines()]
        assert code == 1 and sum("error" in row for row in rows) == 1
        code, out, _ = score(photos, "--format", "csv")
        assert [row["error"] != "" for row in csv.DictReader(io.StringIO(out))].count(True) == 1

    def test_top_and_bottom(self, score: Any, photos: Path) -> None:
        everything = [row.split()[-1] for row in score(photos)[1].splitlines()[1:]]
        assert [row.split()[-1] for row in score(photos, "--top", 1)[1].splitlines()[1:]] == (
            everything[:1]
        )
        both = score(photos, "--top", 1, "--bottom", 1, "--format", "jsonl")[1].splitlines()
        assert [json.loads(row)["path"] for row in both] == [everything[0], everything[2]]

    def test_the_first_head_ranks(self, score: Any, photos: Path) -> None:
        names = f"{HEADS[3].name},{HEADS[0].name}"
        rows = json.loads(score(photos, "--heads", names, "--format", "json")[1])
        assert [list(row["scores"]) for row in rows] == [names.split(",")] * 3
        values = [row["scores"][HEADS[3].name] for row in rows]
        assert values == sorted(values, reverse=True) == [row["score"] for row in rows]

    def test_decoding_here_gives_the_same_table(self, score: Any, photos: Path) -> None:
        assert score(photos)[1] == score(photos, "--decode", "client")[1]


@pytest.mark.triton
def test_score_starts_a_server_for_the_run(
    tiny_repository: Path, photos: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("aesthetic"), "score", photos),
            *("--format", "jsonl", "--repository", tiny_repository),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 and "starting Triton" in done.stderr


@pytest.mark.triton
def test_embed_writes_rows_and_their_index(
    tiny_server: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    target = tmp_path / "photos.npy"
    code = main(["embed", str(photos), "-o", str(target), "--url", tiny_server.http_url])
    assert code == 1 and "broken.jpg" in capsys.readouterr().err
    embeddings = np.load(target)
    index = [json.loads(line) for line in target.with_suffix(".jsonl").read_text().splitlines()]
    assert embeddings.shape == (3, 768) and embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert [(row["row"], Path(row["path"]).name) for row in index] == [
        (0, "a.jpg"),
        (1, "b.PNG"),
        (2, "c.webp"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("photos", "photos.jsonl", "photos.npy")
    ]
    assert main(["embed", str(photos), "-o", "x.bin", "--url", tiny_server.http_url]) == 2
