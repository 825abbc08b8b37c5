"""fp16 beside fp32: one tower in two files, each with its provenance, never of two towers."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aesthetic_client import contract
from aesthetic_client.errors import InputError
from aesthetic_export import artifacts, cli, folders, parity, ranges, sources
from aesthetic_export.files import sha256_of
from aesthetic_export.heads import seeded_heads
from aesthetic_export.modules import ClipImage
from aesthetic_export.onnx_export import ExportError
from aesthetic_export.parity import ParityError, ScoreDifference, Tolerance
from aesthetic_export.provenance import same_tower, tower_provenance
from aesthetic_export.repository import build_repository
from aesthetic_export.samples import made_up_images
from aesthetic_export.towers import Tower, seeded_tower
from towers import TINY, tiny_tower

FP16 = "clip_image/1/model.fp16.onnx"


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A tiny repository with both files, made by asking for fp16 alone."""
    target = tmp_path_factory.mktemp("both") / "repository"
    reports = build_repository(
        target, tower=tiny_tower(), precisions=["fp16"], heads=seeded_heads(0)
    )
    assert [report.name for report in reports] == [
        "aesthetic_heads",
        "clip_image",
        "clip_image (model.fp16.onnx)",
    ]
    return target


@pytest.fixture
def repository(both, tmp_path) -> Path:
    return shutil.copytree(both, tmp_path / "repository")


def provenance_of(repository: Path, profile: contract.Profile) -> dict[str, object]:
    name = f"provenance.{profile.name}.json" if profile.name else "provenance.json"
    found: dict[str, object] = json.loads((repository / "clip_image" / "1" / name).read_text())
    return found


def test_both_files_are_there_each_with_its_own_weights_and_provenance(both):
    folder = both / "clip_image" / "1"
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("model.onnx", "model.onnx.data", "provenance.json"),
        *("model.fp16.onnx", "model.fp16.onnx.data", "provenance.onnx-cuda.json"),
    }
    for profile in (contract.DEFAULT_PROFILE, contract.ONNX_CUDA):
        known = provenance_of(both, profile)
        assert known["precision"] == profile.precision
        files = (profile.artifact, f"{profile.artifact}.data")
        assert known["artifact_sha256"] == {name: sha256_of(folder / name) for name in files}
        assert ("fp16_ranges" in known) == (profile is contract.ONNX_CUDA)
    found = known["fp16_ranges"]
    assert isinstance(found, dict)
    assert 0 < found["value"] < found["limit"] == 65504
    assert found["operations"] > 50


def test_configs_carry_their_own_artifacts_and_a_missing_one_leaves_its_config_plain(both):
    source = folders.source_repository() / "clip_image"
    folder = both / "clip_image"
    assert (folder / "configs/tensorrt.pbtxt").read_bytes() == (
        source / "configs/tensorrt.pbtxt"
    ).read_bytes()
    for name, precision in (("config.pbtxt", "fp32"), ("configs/onnx-cuda.pbtxt", "fp16")):
        text = (folder / name).read_text()
        assert text.startswith((source / name).read_text().rstrip("\n"))
        parameters = text_format.Parse(text, ModelConfig()).parameters
        assert parameters["provenance.precision"].string_value == precision


def test_a_config_is_matched_by_the_file_that_it_serves(both, tmp_path):
    config = tmp_path / "config.pbtxt"
    for text, served in (
        ('backend: "onnxruntime"', "model.onnx"),
        ('platform: "onnxruntime_onnx"', "model.onnx"),
        ('platform: "tensorrt_plan"', "model.plan"),
        ('backend: "onnxruntime" default_model_filename: "model.fp16.onnx"', "model.fp16.onnx"),
        ('backend: "python"', "model.py"),
        ('platform: "ensemble"', ""),
    ):
        config.write_text(text)
        assert artifacts._served_file(config) == served
    config.write_text("backend:")
    with pytest.raises(InputError, match="not a Triton model configuration"):
        artifacts._served_file(config)


def test_exporting_one_file_keeps_the_other_to_the_byte(repository):
    data = repository / "clip_image/1/model.onnx.data"
    inode, before = os.stat(data).st_ino, provenance_of(repository, contract.DEFAULT_PROFILE)
    build_repository(repository, tower=tiny_tower(), precisions=["fp16"])
    assert os.stat(data).st_ino == inode
    assert provenance_of(repository, contract.DEFAULT_PROFILE) == before
    inode = os.stat(repository / FP16).st_ino
    before = provenance_of(repository, contract.ONNX_CUDA)
    build_repository(repository, tower=tiny_tower())
    assert os.stat(repository / FP16).st_ino == inode
    assert provenance_of(repository, contract.ONNX_CUDA) == before
    build_repository(repository, heads=seeded_heads(1))
    assert os.stat(repository / FP16).st_ino == inode


def test_a_repository_never_holds_two_towers(repository):
    said: list[str] = []
    build_repository(repository, tower=tiny_tower(7), say=said.append)
    assert "model.fp16.onnx is of other weights and was left out; export it anew" in said
    assert not list((repository / "clip_image/1").glob("*fp16*"))
    assert not (repository / "clip_image/1/provenance.onnx-cuda.json").exists()
    plain = (repository / "clip_image/configs/onnx-cuda.pbtxt").read_text()
    assert "provenance" not in plain
    reports = build_repository(repository, tower=tiny_tower(8), precisions=["fp16"])
    assert len(reports) == 2  # the fp32 file was seed 7's: it is made again too
    for profile in (contract.DEFAULT_PROFILE, contract.ONNX_CUDA):
        assert provenance_of(repository, profile)["seed"] == 8


def test_towers_are_told_apart_by_their_weights():
    module = seeded_tower(0, TINY).module
    one = tower_provenance(Tower(module, "openai", "https://one", "ab"))
    assert same_tower(one, tower_provenance(Tower(module, "openai", "a file", "ab")))
    assert not same_tower(one, tower_provenance(Tower(module, "openai", "https://one", "cd")))
    seeds = [tower_provenance(seeded_tower(seed, TINY)) for seed in (0, 0, 1)]
    assert same_tower(seeds[0], seeds[1])
    assert not same_tower(seeds[0], seeds[2])
    assert not same_tower(one, seeds[0])
    assert not same_tower(seeds[0], one)
    assert not same_tower(None, one)


def test_a_file_of_unknown_weights_is_not_kept_beside_a_new_tower(repository):
    (repository / "clip_image/1/provenance.onnx-cuda.json").unlink()
    build_repository(repository, heads=seeded_heads(1))
    assert (repository / FP16).is_file()  # nothing is known against it
    build_repository(repository, tower=tiny_tower())
    assert not (repository / FP16).exists()


def test_a_failed_fp16_comparison_changes_nothing(repository, monkeypatch):
    exact = parity.run_onnx

    def skewed(session, array):
        outputs = exact(session, array)
        outputs[0][-1, 0] += 0.02
        return outputs

    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
    monkeypatch.setattr(parity, "run_onnx", skewed)
    with pytest.raises(ParityError, match=r"clip_image \(model\.fp16\.onnx\) differs") as caught:
        build_repository(repository, tower=tiny_tower(), precisions=["fp16"])
    assert not caught.value.report
    after = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
    assert after == before


def test_weights_that_fp16_does_not_hold_are_refused(repository, monkeypatch):
    tower = tiny_tower()
    with torch.no_grad():
        tower.module.transformer.resblocks[1].mlp.c_proj.bias[3] = 70_000
    with pytest.raises(ExportError, match="do not fit fp16: fp16 values up to inf"):
        build_repository(repository, tower=tower, precisions=["fp16"])
    monkeypatch.setattr(ranges, "LIMIT", 1e-3)
    with pytest.raises(ExportError, match="do not fit fp16"):
        build_repository(repository, tower=tiny_tower(), precisions=["fp16"])


def test_each_head_keeps_its_own_tolerance():
    scores = {"a": ScoreDifference(0, 0.005), "b": ScoreDifference(0, 0.15)}

    def report(tolerance: Tolerance) -> parity.ParityReport:
        return parity.ParityReport("clip_image", 8, (8,), scores, tolerance, 0.1)

    assert report(Tolerance(0.01, heads={"b": 0.2}))
    assert not report(Tolerance(0.01, heads={"b": 0.1}))
    assert not report(Tolerance(0.01))
    assert not report(Tolerance(0.001, heads={"b": 0.2}))
    assert "others by their weights' lengths" in report(Tolerance(0.01, heads={"b": 0.2})).summary()


def run(*options: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args([str(option) for option in options]))


def test_the_command_adds_fp16_and_if_missing_looks_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "seeded_tower", tiny_tower)
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AESTHETIC_WEIGHTS_DIR", raising=False)
    options = ("--weights", "seeded:0", "--head-weights", "seeded:0", "--if-missing")
    repository = tmp_path / "cache" / "model_repository"
    assert run(*options) == 0
    assert not (repository / FP16).exists()
    assert run(*options, "--precision", "fp16", "--model", "clip_image") == 0
    assert (repository / FP16).is_file()
    printed = " ".join(capsys.readouterr().err.split())
    assert "PASS clip_image (model.fp16.onnx) against its fp32 torch module" in printed
    assert "already exported" not in printed
    written = (repository / FP16).stat().st_mtime_ns
    assert run(*options, "--precision", "fp16", "--precision", "fp32") == 0
    assert (repository / FP16).stat().st_mtime_ns == written
    assert "already exported" in capsys.readouterr().err


@pytest.mark.slow
def test_the_full_tower_in_fp16_scores_photographs_as_fp32_does(full_fp16_repository):
    known = provenance_of(full_fp16_repository, contract.ONNX_CUDA)
    report = known["parity"]
    assert isinstance(report, dict)
    assert report["passed"] is True
    assert report["min_cosine"] > 0.999999  # random weights: what real ones give is not known here
    assert report["scores"][contract.DEFAULT_HEAD.name]["max"] < 0.003
    assert (full_fp16_repository / f"{FP16}.data").stat().st_size < 620e6  # 304 M of two bytes
    pixels = made_up_images(9)[8:]
    session = onnxruntime.InferenceSession(
        str(full_fp16_repository / FP16), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"pixels": pixels})
    expected = ClipImage(seeded_tower(0).module)(torch.from_numpy(pixels)).numpy()
    assert float(np.sum(found.astype(np.float64) * expected)) > 0.999999
    assert report["items"] == 3
