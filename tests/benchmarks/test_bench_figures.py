"""The claims follow from the measurements, and the tables from the claims."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import report
from aesthetic_bench import figures, tables
from aesthetic_bench.errors import BenchError
from rich.console import Console

Records = list[dict[str, Any]]


def test_the_engine_is_taken_at_its_best_right_before_and_after(bare: Records) -> None:
    assert [run["step"] for run in figures.neighbours(bare, [3])] == [0, 4]
    assert [run["step"] for run in figures.neighbours(bare, [5])] == [4, 6]
    assert [run["step"] for run in figures.neighbours(bare, [7])] == [6]
    assert figures.best_rate(bare[:2]) == (8, 1.25)
    with pytest.raises(BenchError, match="batch 3"):
        figures.mean_rate(bare, 3)


def test_saturation(served: Records, bare: Records) -> None:
    point = figures.saturation(served, bare, "aesthetic", instances=1)
    assert point is not None
    assert point["concurrency"] == 16
    assert point["bare_engine_batch"] == 8
    assert point["bare_engine_steps"] == [0, 4]
    assert point["share_of_time_outside_engine"] == pytest.approx(1 - 1.0 / 1.25)
    time_ms = point["time_per_image_ms"]
    assert time_ms == pytest.approx(
        {
            "total": 1000.0,
            "bare_engine": 800.0,
            "tower_slower_than_bare": 150.0,  # 7600 ms for eight images
            "tower_input_and_output": 0.5,
            "tower_waiting": 49.5,
        }
    )
    assert sum(time_ms.values()) == pytest.approx(2 * time_ms["total"])
    assert set(point["beside_the_tower_ms_per_image"]) == {"preprocess", "aesthetic_heads"}
    assert figures.saturation(served, bare, "aesthetic_pixels", instances=1) is None


def test_ratios(record: dict[str, Any]) -> None:
    ratios = record["ratios"]
    assert ratios["served_over_bare_engine"] == {"aesthetic": pytest.approx(0.8)}
    assert ratios["served_over_torch_loop_batch_1"] == {"aesthetic": pytest.approx(1.25)}
    assert ratios["served_over_torch_loop_batch_8"] == {"aesthetic": pytest.approx(2.0)}
    assert ratios["last_over_first_bare_engine"] == pytest.approx(6.0 / 1.3)


def test_ratios_without_a_torch_loop(served: Records, bare: Records) -> None:
    assert not [key for key in figures.ratios(served, bare, [], 1) if "torch" in key]


def test_markdown(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(record))
    assert report.main([str(file)]) == 0
    text = capsys.readouterr().out
    assert "| aesthetic | 1 | 1.25 | 0.800 | 1.25x | 2.00x |" in text
    assert "| share of time outside the engine | 20.0% |" in text
    assert "| aesthetic_heads x 256 | 4 | 54,321 | 901 | 955 | 1,234 | 512 |" in text
    assert "seeded, scores are meaningless" in text
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_a_skipped_torch_loop_is_told(record: dict[str, Any]) -> None:
    record["torch_loop"] = {"runs": [], "skipped": "other weights"}
    assert "- no torch loop: other weights" in tables.markdown(record)


def test_a_busy_machine_is_told(record: dict[str, Any]) -> None:
    assert "QUIET" not in tables.markdown(record)
    record["torch_loop"]["runs"][0]["other_processes_share_of_cpu"] = 0.31
    assert "NOT A QUIET MACHINE: others took up to 31%" in tables.markdown(record)


def test_terminal_tables_show_what_the_markdown_shows(record: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=200)
    for table in tables.rich_tables(tables.tables(record)):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for table in tables.tables(record):
        for row in table.rows:
            assert all(cell in shown for cell in row)


def test_readme_shows_profiles_side_by_side(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = json.loads(json.dumps(record))
    other["parameters"]["profile"] = "int8"
    other["saturation"]["aesthetic"]["images_per_s"] = 4.5
    for loop in [key for key in other["ratios"] if key.endswith("batch_8")]:
        del other["ratios"][loop]
    other["bare_engine"][0]["stolen_share_of_cpu"] = 0.2
    files = [str(tmp_path / name) for name in ("fp32.json", "int8.json")]
    for file, content in zip(files, (record, other), strict=True):
        Path(file).write_text(json.dumps(content))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
    assert report.main([*files, "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text == f"before\n{tables.readme_block([record, other])}\nafter\n"
    assert "| fp32 | aesthetic | 1 | 1.25 | 0.800 | 1.25x | 2.00x |" in text
    assert "| int8 | aesthetic | 4.5 | 1.25 | 0.800 | 1.25x |  |" in text
    assert "- int8: NOT A QUIET MACHINE: others took up to 21%" in text
    with pytest.raises(SystemExit):
        report.main(files)
    assert "fp32.json and " in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"schema": 0}'])
def test_report_of_another_file(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as stop:
        report.main([str(file)])
    assert stop.value.code == 1
    assert "other.json" in capsys.readouterr().err
