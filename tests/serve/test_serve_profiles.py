"""The CPU profiles served: the right files, the right scores, and a word where they are not."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from aesthetic_client import Client, contract
from aesthetic_client.cli import _server
from aesthetic_client.errors import InputError
from aesthetic_serve import EmbeddedServer, RepositoryError, SetupError, cli
from aesthetic_serve.profiles import check_profile, slow_here
from aesthetic_serve.repository import check_repository


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    from aesthetic_export.samples import made_up_images

    return made_up_images(9)


@pytest.mark.triton
@pytest.mark.parametrize("profile", ["fp32", "bf16", "int8"])
def test_each_profile_serves_its_own_numbers_and_fp32_stays_bit_equal(
    profile: str,
    tiny_cpu_repository: Path,
    tiny_server: EmbeddedServer,
    pixels: np.ndarray,
) -> None:
    from aesthetic_export.openvino_export import openvino_embedder

    chosen = contract.CPU_PROFILES[profile]
    with Client(tiny_server.grpc_url) as client:
        plain = client.score_many(list(pixels), embedding=True)
        plain = [(result.score, result.embedding) for result in plain]
    with (
        EmbeddedServer(tiny_cpu_repository, config_name=chosen.name) as server,
        Client(server.grpc_url) as client,
    ):
        assert server.provenance()["precision"] == profile
        found = [
            (result.score, result.embedding)
            for result in client.score_many(list(pixels), embedding=True)
        ]
    if profile == "fp32":
        assert [score for score, _ in found] == [score for score, _ in plain]
        return
    path = tiny_cpu_repository / "clip_image" / "1" / chosen.artifact
    expected = openvino_embedder(path)(pixels)
    np.testing.assert_allclose(np.stack([e for _, e in found]), expected, atol=5e-3)
    differences = [abs(a[0] - b[0]) for a, b in zip(found, plain, strict=True)]
    assert 0 < max(differences) < 1


@pytest.mark.triton
def test_a_profile_that_was_not_exported_names_the_command(
    tiny_repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(RepositoryError) as caught:
        EmbeddedServer(tiny_repository, config_name="int8").start()
    message = str(caught.value)
    assert "clip_image/1/model.int8.xml, clip_image/1/model.int8.bin" in message
    assert message.endswith(
        f"aesthetic export --repository {tiny_repository} --model clip_image --precision int8"
    )
    with pytest.raises(RepositoryError, match=r"no model of .* has configs/int9\.pbtxt; .* bf16"):
        check_profile(tiny_repository, "int9")
    check_profile(tiny_repository, "onnx-cuda")  # Triton itself says what that one lacks


def test_without_openvino_its_profiles_say_what_to_install(
    tiny_cpu_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_profile(tiny_cpu_repository, "bf16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install 'aesthetic-triton\[openvino\]'"):
        check_profile(tiny_cpu_repository, "bf16")
    check_profile(tiny_cpu_repository, None)


def test_a_repository_of_openvino_files_is_complete(tiny_cpu_repository: Path) -> None:
    assert contract.CLIP_IMAGE.name in check_repository(tiny_cpu_repository, "bf16")


def test_a_cpu_without_the_instructions_is_told(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx2 avx512f avx512_vnni\n")
    assert slow_here("int8", info) is None and slow_here("fp32", info) is None
    message = slow_here("bf16", info)
    assert message is not None and "avx512_bf16, amx_bf16" in message
    assert slow_here("bf16", tmp_path / "none") is None


def test_the_introduction_says_how_far_a_profile_is_off(tiny_cpu_repository: Path) -> None:
    path = tiny_cpu_repository / "clip_image" / "1" / contract.INT8.provenance_file
    parity = json.loads(path.read_text())["parity"]
    said, *_ = cli._precision("clip_image", {"precision": "int8", "parity": json.dumps(parity)})
    largest = parity["scores"][contract.DEFAULT_HEAD.name]["max"]
    assert said.startswith(f"  clip_image is int8: scores within {largest:.2g} of fp32's")
    assert said.endswith(f"over {parity['items']} made-up images")
    assert list(cli._precision("clip_image", {"precision": "fp32"})) == []


def test_profiles_are_chosen_by_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert parser.parse_args(["--profile", "int8"]).profile == "int8"
    for wrong in (["--profile", "int4"], ["--profile", "int8", "--config-name", "x"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
    assert "not allowed with argument" in capsys.readouterr().err
    parser = argparse.ArgumentParser()
    _server.add_server_arguments(parser)
    arguments = parser.parse_args(["--url", "localhost:1", "--profile", "bf16"])
    with (
        pytest.raises(InputError, match="--profile is for a started server"),
        _server.connected(arguments),
    ):
        pass
