"""A reader finds the GPU path in three commands, and what they touch exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from aesthetic_container import preflight
from aesthetic_container.flags import ADMIN_HEADER
from aesthetic_container.settings import Settings, settings_from
from deploy_files import DEPLOY, ROOT

from aesthetic_client import contract
from aesthetic_client.cli import COMMANDS

GUIDE = DEPLOY / "README.md"
README = ROOT / "README.md"


def commands(path: Path) -> list[list[str]]:
    """The shell lines of a document, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def gpu_path(path: Path) -> list[list[str]]:
    """From the first docker line to the score."""
    lines = commands(path)
    first = next((i for i, words in enumerate(lines) if words[0] == "docker"), None)
    if first is None:
        pytest.skip(f"{path.name} does not show the GPU path")
    return lines[first : first + 3]


@pytest.mark.parametrize("path", [GUIDE, README], ids=["guide", "readme"])
def test_the_gpu_path_is_three_commands(path: Path, compose: dict[str, Any]) -> None:
    export, up, score = gpu_path(path)
    prefix = ["docker", "compose", "-f", "serve/deploy/compose.yaml"]
    assert export == [*prefix, "run", "--rm", "export"]
    assert up == [*prefix, "up", "--detach", "--wait"]
    assert " ".join(export) == preflight.EXPORT  # what a server without models tells its reader
    assert "export" in compose["services"]
    assert score[:2] == ["aesthetic", "score"] and score[1] in {c.name for c in COMMANDS}
    address = score[score.index("--url") + 1].removeprefix("grpc://")
    published = [port.split("-")[-1].replace("}", "") for port in published_ports(compose)]
    assert f"{address}:8001" in published


def published_ports(compose: dict[str, Any]) -> list[str]:
    return list(compose["services"]["triton"]["ports"])


@pytest.mark.parametrize("path", [GUIDE, README], ids=["guide", "readme"])
def test_every_path_that_is_named_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    for name in re.findall(r"(serve/deploy/[\w./-]*\w|tests/deploy)", text):
        assert (ROOT / name).exists(), name
    if path == GUIDE:
        for name in re.findall(r"`((?:kubernetes|prometheus|grafana)/[\w./-]+)`", text):
            assert (DEPLOY / name).exists(), name


def test_the_tables_are_the_code() -> None:
    text = GUIDE.read_text("utf-8")
    profiles = re.findall(r"^\| `([\w-]+)`[^|]*\| (?:fp16|fp32|bf16|int8)", text, re.MULTILINE)
    assert sorted(profiles) == sorted(profile.name or "default" for profile in contract.PROFILES)
    variables = re.findall(r"^\| `AESTHETIC_(\w+)` \|(?! serves)", text, re.MULTILINE)
    fields = {name.upper() for name in Settings.__dataclass_fields__}
    assert {*variables, "PROFILE"} - {"BIND"} == fields
    assert ADMIN_HEADER in text
    assert settings_from({}).http_max_input_bytes == 64 * 2**20
