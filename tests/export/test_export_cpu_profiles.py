"""bf16 and int8 beside fp32: files, figures, provenance, and what the fp32 files have of it."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aesthetic_client import contract
from aesthetic_client.contract import BF16, CLIP_IMAGE, DEFAULT_PROFILE, INT8, Profile
from aesthetic_client.errors import InputError
from aesthetic_export import cli, openvino_export, samples, sources, tower_export
from aesthetic_export.files import sha256_of
from aesthetic_export.measures import distinct, rank_correlation
from aesthetic_export.modules import ClipImage
from aesthetic_export.parity import ParityError
from aesthetic_export.repository import build_repository
from aesthetic_export.samples import made_up_images
from towers import allow_for_tiny, tiny_tower

PROFILES = (BF16, INT8)
FP32_FILES = ("model.onnx", "model.onnx.data", "provenance.json")


def hashes(repository: Path) -> dict[str, str]:
    return {name: sha256_of(repository / "clip_image/1" / name) for name in FP32_FILES}


def known_of(repository: Path, profile: Profile) -> dict[str, Any]:
    text = (repository / "clip_image/1" / profile.provenance_file).read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_fp32_files_stay_as_they_were_to_the_byte(
    tiny_repository: Path, tiny_cpu_repository: Path
) -> None:
    assert hashes(tiny_cpu_repository) == hashes(tiny_repository)
    assert (tiny_cpu_repository / "clip_image/config.pbtxt").read_bytes() == (
        tiny_repository / "clip_image/config.pbtxt"
    ).read_bytes()


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_says_where_its_numbers_come_from(
    tiny_cpu_repository: Path, profile: Profile
) -> None:
    known, folder = known_of(tiny_cpu_repository, profile), tiny_cpu_repository / "clip_image" / "1"
    assert known["precision"] == profile.name and known["weights"] == contract.SEEDED_WEIGHTS
    files = (f"model.{profile.name}.xml", f"model.{profile.name}.bin")
    assert known["artifact_sha256"] == {name: sha256_of(folder / name) for name in files}
    assert openvino.__version__.startswith(known["versions"]["openvino"])
    assert known["cpu"] and "fp32" in known["cpu_computes"]
    made_up = samples.images_to_compare(None, many=True).calibration
    calibration = {
        "calibration": "16 made-up images",
        "calibration_sha256": hashlib.sha256(made_up.tobytes()).hexdigest(),
    }
    expected = calibration if profile is INT8 else {}
    assert {key: known[key] for key in known if key.startswith("calibration")} == expected
    config = text_format.Parse(
        (tiny_cpu_repository / "clip_image" / profile.config_file).read_text(), ModelConfig()
    )
    assert config.parameters["provenance.precision"].string_value == profile.name
    model: Any = openvino.Core().read_model(folder / profile.artifact)
    assert model.get_rt_info(["aesthetic", "provenance.weights"]).astype(str) == known["weights"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_the_report_is_in_scores_of_every_head(tiny_cpu_repository: Path, profile: Profile) -> None:
    report = known_of(tiny_cpu_repository, profile)["parity"]
    assert report["passed"] is True and report["reference"] == "its fp32 torch module"
    assert report["items"] == samples.MANY_MADE_UP and report["inputs"] == "made-up images"
    assert contract.SEEDED_WEIGHTS in report["remark"]
    assert list(report["scores"]) == [head.name for head in contract.HEADS]
    for score in report["scores"].values():
        assert 0 < score["mean"] <= score["p99"] <= score["max"]
        assert 0.9 < score["rank_correlation"] <= 1


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_the_files_compute_the_tower_as_they_are_served(
    tiny_cpu_repository: Path, profile: Profile
) -> None:
    pixels = made_up_images(3)
    expected = ClipImage(tiny_tower().module)(torch.from_numpy(pixels)).numpy()
    path = tiny_cpu_repository / "clip_image" / "1" / profile.artifact
    found = openvino_export.openvino_embedder(path)(pixels)
    differences = np.linalg.norm(found - expected, axis=1)
    others = np.linalg.norm(expected[0] - expected[1:], axis=1)
    assert differences.max() < others.min() / 3
    if profile.name in openvino_export.this_cpu().types:
        assert differences.max() > 1e-4, "this is fp32"
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_the_cpp_backend_can_give_it_its_fixed_batch(
    tiny_cpu_repository: Path, profile: Profile
) -> None:
    """What src/openvino.cc of the C++ backend does to a model before it compiles it."""
    path = tiny_cpu_repository / "clip_image" / "1" / profile.artifact
    model: Any = openvino.Core().read_model(path)
    steps: Any = openvino.preprocess.PrePostProcessor(model)
    steps.input("pixels").tensor().set_element_type(openvino.Type.u8)
    steps.input("pixels").tensor().set_layout(openvino.Layout("N..."))
    model = steps.build()
    openvino.set_batch(model, CLIP_IMAGE.max_batch)
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.output("embedding").tensor().set_element_type(openvino.Type.f32)
    model = steps.build()
    assert list(model.output("embedding").shape) == [CLIP_IMAGE.max_batch, contract.EMBEDDING_DIM]
    hint = openvino_export.PRECISION_HINT
    compiled: Any = openvino.Core().compile_model(model, "CPU", hint)
    pixels = np.zeros((CLIP_IMAGE.max_batch, *contract.PIXELS.dims), np.uint8)
    pixels[:3] = made_up_images(3)
    padded = compiled(pixels)["embedding"][:3]
    plain = openvino_export.openvino_embedder(path)(pixels[:3])
    np.testing.assert_allclose(padded, plain, atol=2e-3)


def test_a_profile_beyond_its_tolerance_is_not_exported(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = shutil.copytree(tiny_repository, tmp_path / "repository")
    exact = openvino_export.openvino_embedder

    def skewed(path: Path) -> Any:
        embed = exact(path)

        def run(pixels: Any) -> Any:
            found = embed(pixels)
            found[-1, 0] += 0.1
            return found

        return run

    monkeypatch.setattr(openvino_export, "openvino_embedder", skewed)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    with pytest.raises(ParityError, match=r"clip_image \(model\.bf16\.xml\) differs"):
        build_repository(target, tower=tiny_tower(), precisions=["bf16"])
    after = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    assert after == before


def run(*options: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args([str(option) for option in options]))


def test_the_command_adds_a_precision_once(
    tiny_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = shutil.copytree(tiny_repository, tmp_path / "repository")
    monkeypatch.setattr(sources, "seeded_tower", tiny_tower)
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path / "cache"))
    allow_for_tiny(monkeypatch)
    seeded = ("--weights", "seeded:0", "--head-weights", "seeded:0")
    options = (*seeded, "--precision", "bf16", "--if-missing", "--repository", target)
    assert run(*options) == 0
    assert "PASS clip_image (model.bf16.xml)" in " ".join(capsys.readouterr().err.split())
    assert hashes(target) == hashes(tiny_repository)
    assert run(*options) == 0
    assert "already exported" in capsys.readouterr().err


def test_without_openvino_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_export.importlib.util, "find_spec", lambda name: None)
    options = ("--weights", "seeded:0", "--head-weights", "seeded:0", "--precision", "int8")
    with pytest.raises(InputError, match=r"pip install 'aesthetic-triton\[openvino\]'"):
        run(*options, "--repository", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_cpu_without_the_instructions_is_told() -> None:
    old = openvino_export.Cpu("an old one", ("fp32",))
    assert old.lacking(INT8) == ["int8", "bf16"] and old.lacking(BF16) == ["bf16"]
    assert not openvino_export.Cpu("a new one", ("fp32", "bf16", "int8")).lacking(INT8)
    assert set(tower_export.PROFILES) >= {DEFAULT_PROFILE, *PROFILES}


def test_many_photographs_calibrate_and_others_are_compared() -> None:
    few = np.arange(10, dtype=np.uint8)[:, None]
    chosen = samples.images_to_compare(few, many=True)
    assert not chosen.apart and "on which it was compared too" in chosen.calibration_note
    assert chosen.compared.ravel().tolist() == chosen.calibration.ravel().tolist()
    many = np.arange(80, dtype=np.uint8)[:, None]
    chosen = samples.images_to_compare(many, many=True)
    assert chosen.apart and chosen.calibration_note == "16 photographs"
    assert (len(chosen.compared), len(chosen.calibration)) == (64, 16)
    assert not set(chosen.compared.ravel()) & set(chosen.calibration.ravel())
    assert {chosen.calibration.min(), chosen.calibration.max()} == {0, 79}


def test_ranks_are_compared_by_spearman() -> None:
    a, b = np.float32([3, 1, 2, 2]), np.float32([30, 10, 20, 25])
    ranks = np.array([[3, 0, 1.5, 1.5], [3, 0, 1, 2]])  # equal values share the mean of theirs
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert rank_correlation(b, b**3) == pytest.approx(1)
    assert rank_correlation(b, -b) == pytest.approx(-1)
    assert rank_correlation(a * 0, b) is None


def test_what_is_nearly_the_same_is_compared_once() -> None:
    unit = np.eye(3, dtype=np.float32)
    rows = np.stack([unit[0], unit[0] + 1e-3 * unit[1], unit[1], 5 * unit[0], unit[2]])
    assert distinct(rows, 1e-4) == [0, 2, 4]
