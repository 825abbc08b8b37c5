"""The report command: where the page goes, and what it refuses."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from curate_report_pages import scored

from aesthetic_client.errors import InputError
from aesthetic_curate.cli import report as command
from aesthetic_curate.errors import NoSamplesError, OutputError
from aesthetic_curate.report import make_report


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_command_writes_the_page_and_prints_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = scored(tmp_path)
    target = tmp_path / "new" / "report.html"
    assert run(results.folder.url, "-o", str(target)) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert target.read_text(encoding="utf-8") == make_report(results)
    assert list(target.parent.iterdir()) == [target]
    assert run(results.folder.url, "-o", str(target), "--no-gallery") == 0
    assert "data:image" not in target.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--per-bucket", "0"], "--per-bucket takes a number from 1 to 200"),
        (["--gallery-shards", "0"], "--gallery-shards takes a number above 0"),
        (["--seed", "-1"], "--seed takes a number from 0 up"),
        (["-o", "report.txt"], "--output must end in .html"),
        (["--head", "nobody"], "no scores of 'nobody'"),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    results = scored(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(sentence)):
        run(results.folder.url, *words)
    assert not list(tmp_path.glob("report*"))


def test_a_folder_without_scores_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoSamplesError, match="no scores in"):
        run(str(tmp_path))


def test_an_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    results = scored(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        run(results.folder.url, "--no-gallery", "-o", str(tmp_path / "file" / "report.html"))
