"""Add-ons: only what is missing is exported, of the weights that are served, and never outlived."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aesthetic_client.contract import (
    AESTHETIC_GRADIENT,
    AESTHETIC_PERSONALIZE,
    DALI,
    GRADIENT,
    PERSONALIZE,
    TEXT,
)
from aesthetic_client.errors import InputError
from aesthetic_export import add_ons, cli, repository, sources, text_export
from aesthetic_export.files import sha256_of
from aesthetic_export.heads import seeded_heads
from aesthetic_export.parity import MIN_SPREAD, ParityError
from aesthetic_export.provenance import heads_provenance, tower_provenance, write_provenance
from aesthetic_export.repository import build_repository
from aesthetic_export.text_parity import text_parity
from aesthetic_export.text_weights import TEXT_WEIGHTS, read_text_weights
from aesthetic_export.towers import ActivationError
from text_towers import tiny_text_tower
from towers import tiny_tower

SEEDED = ("--weights", "seeded:0", "--head-weights", "seeded:0")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command builds tiny towers, and keeps its cache in a folder of its own."""
    monkeypatch.setattr(sources, "seeded_tower", tiny_tower)
    monkeypatch.setattr(sources, "seeded_text_tower", lambda seed, shape: tiny_text_tower(seed))
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def target(tiny_repository: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_repository, tmp_path / "repository")


def export(*options: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args([str(option) for option in options]))


def add_personalize(target: Path, seed: int = 0) -> Path:
    """The add-on as an export of before has left it; its version folder."""
    made = add_ons.makers([PERSONALIZE], text_tower=tiny_text_tower(seed))
    build_repository(target, add_ons=[PERSONALIZE], makers=made)
    return target / AESTHETIC_PERSONALIZE.name / "1"


def add_gradient(target: Path, tower: int = 0, heads: int = 0) -> Path:
    """The provenance of the add-on, its files empty; its folder."""
    folder = target / AESTHETIC_GRADIENT.name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").touch()
    rows = heads_provenance(seeded_heads(heads))["heads"]
    hashes = {"artifact_sha256": {"config.pbtxt": ""}}
    (folder / "1/config.pbtxt").touch()
    write_provenance(folder / "1", {**tower_provenance(tiny_tower(tower)), "heads": rows, **hashes})
    return folder


def test_if_missing_adds_an_add_on_and_leaves_the_rest(target, capsys):
    tower = target / "clip_image/1/model.onnx"
    before = sha256_of(tower), tower.stat().st_mtime_ns
    asked = ("--repository", target, *SEEDED, "--if-missing", "--with", "personalize")
    assert export(*asked) == 0
    said = capsys.readouterr().err
    assert "writing the weights of aesthetic_personalize" in said
    assert "exporting" not in said
    assert (sha256_of(tower), tower.stat().st_mtime_ns) == before
    folder = target / AESTHETIC_PERSONALIZE.name
    known = json.loads((folder / "1/provenance.json").read_text())
    assert known["artifact_sha256"] == {TEXT_WEIGHTS: sha256_of(folder / "1" / TEXT_WEIGHTS)}
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    assert config.parameters["provenance.source"].string_value == "seeded:0"
    assert config.parameters["max_steps"].string_value == "200"
    assert export(*asked[:2], "--weights", "seeded:1", *asked[-3:]) == 0
    said = capsys.readouterr().err
    assert "already exported: clip_image of seeded, scores are meaningless (seeded:0)" in said


def test_the_written_weights_are_the_towers(target):
    version = add_personalize(target, seed=3)
    again, tower = read_text_weights(version / TEXT_WEIGHTS), tiny_text_tower(3)
    assert (again.weights, again.source) == (tower.weights, "seeded:3")
    state = tower.module.state_dict()
    assert again.module.state_dict().keys() == state.keys()
    for name, tensor in again.module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    (version / TEXT_WEIGHTS).write_bytes(b"not a tensor")
    with pytest.raises(InputError, match="cannot be read"):
        read_text_weights(version / TEXT_WEIGHTS)


def test_an_add_on_without_its_artifact_is_missing(target):
    assert not add_ons.is_there(target, PERSONALIZE)
    version = add_personalize(target)
    assert add_ons.is_there(target, PERSONALIZE)
    (version / TEXT_WEIGHTS).unlink()
    assert not add_ons.is_there(target, PERSONALIZE)
    assert not add_ons.is_there(target, TEXT)
    build_repository(target, add_ons=[DALI])
    assert add_ons.is_there(target, DALI)  # it has no artifacts


def test_an_add_on_of_other_weights_than_are_served_is_refused(target):
    asked = ("--repository", target, "--if-missing", "--with", "personalize")
    with pytest.raises(InputError, match=r"seeded:5.*serves a clip_image of .*seeded:0"):
        export(*asked, "--weights", "seeded:5", "--head-weights", "seeded:0")
    assert not (target / AESTHETIC_PERSONALIZE.name).exists()
    asked = ("--repository", target, "--if-missing", "--with", "gradient")
    with pytest.raises(InputError, match="other heads than"):
        export(*asked, "--weights", "seeded:0", "--head-weights", "seeded:5")


def source_of(folder: Path) -> str:
    source = json.loads((folder / "1/provenance.json").read_text())["source"]
    assert isinstance(source, str)
    return source


@pytest.mark.parametrize(("seed", "again"), [(1, True), (0, False)])
def test_if_missing_renews_the_add_ons_of_another_tower_than_the_exported_one(
    target, monkeypatch, capsys, seed, again
):
    folder = add_personalize(target).parent
    shutil.rmtree(target / "clip_image")
    monkeypatch.setattr(repository, "export_tower", lambda *_: {})
    asked = ("--repository", target, "--head-weights", "seeded:0", "--weights", f"seeded:{seed}")
    assert export(*asked, "--if-missing", "--with", "personalize") == 0
    assert source_of(folder) == f"seeded:{seed}"
    said = capsys.readouterr().err
    assert ("writing the weights of aesthetic_personalize" in said) == again
    assert "removed" not in said


@pytest.mark.parametrize(("seed", "again"), [(1, True), (0, False)])
def test_if_missing_renews_gradients_of_other_heads_than_the_exported_ones(
    target, monkeypatch, seed, again
):
    add_gradient(target)
    shutil.rmtree(target / "aesthetic_heads")
    made: list[str] = []

    def maker(tower, heads):
        return lambda version, say: made.append(f"{tower.source} {heads[0].seed}")

    monkeypatch.setattr(add_ons, "_gradient_maker", maker)
    asked = ("--repository", target, "--head-weights", f"seeded:{seed}", "--weights", "seeded:0")
    assert export(*asked, "--if-missing", "--with", "gradient") == 0
    assert made == ["seeded:0 1"] * again
    assert (target / AESTHETIC_GRADIENT.name / "config.pbtxt").is_file()


def test_an_add_on_of_other_weights_than_are_served_is_missing(target):
    """As an export leaves it that is killed between two renames."""
    folder = add_personalize(target, seed=1).parent
    assert not add_ons.is_there(target, PERSONALIZE)
    assert export("--repository", target, *SEEDED, "--if-missing", "--with", "personalize") == 0
    assert source_of(folder) == source_of(target / "clip_image") == "seeded:0"
    assert add_ons.is_there(target, PERSONALIZE)
    for weights, there in (((0, 0), True), ((0, 1), False), ((1, 0), False)):
        gradient = add_gradient(target, *weights)
        assert add_ons.is_there(target, GRADIENT) == there, weights
        shutil.rmtree(gradient)


@pytest.mark.parametrize(("tower", "stays", "kept"), [(0, True, []), (1, False, [GRADIENT])])
def test_an_export_of_another_tower_removes_what_is_of_the_one_before(
    target, monkeypatch, tower, stays, kept
):
    folder = add_personalize(target).parent
    gradient = add_gradient(target)
    build_repository(target, add_ons=[DALI])
    said: list[str] = []
    monkeypatch.setattr(repository, "export_tower", lambda *_: {})
    build_repository(target, tower=tiny_tower(tower), add_ons=kept, say=said.append)
    assert folder.is_dir() == gradient.is_dir() == stays
    assert all((target / model.name).is_dir() for model in DALI.models)
    told = "".join(said)
    for add_on in (PERSONALIZE, GRADIENT):
        assert (f"add again with --with {add_on.name}" in told) != stays
    assert not list(target.glob(".*"))


def test_nothing_is_removed_when_the_export_fails(target, monkeypatch):
    folder = add_personalize(target).parent

    def fails(*_: object) -> None:
        tokens = np.zeros((2, 77), np.int64)
        same = [np.ones((2, 768), np.float32), np.ones((2, 77, 768), np.float32)]
        raise ParityError(text_parity(lambda _: same, same, tokens, batches=[[0, 1]]))

    monkeypatch.setattr(repository, "export_tower", fails)
    with pytest.raises(ParityError):
        build_repository(target, tower=tiny_tower(1))
    assert (folder / "1" / TEXT_WEIGHTS).is_file()


@pytest.mark.parametrize(("heads", "stays"), [(0, True), (1, False)])
def test_an_export_of_other_heads_removes_gradients_alone(target, monkeypatch, heads, stays):
    personalize, gradient = add_personalize(target).parent, add_gradient(target)
    report = json.loads((target / "aesthetic_heads/1/provenance.json").read_text())
    monkeypatch.setattr(repository, "export_heads", lambda *_: ({}, report))
    build_repository(target, heads=seeded_heads(heads))
    assert gradient.is_dir() == stays
    assert personalize.is_dir()


def test_a_text_tower_without_quick_gelu_is_refused(tmp_path):
    tower = tiny_text_tower()
    tower.module.transformer.resblocks[1].mlp.gelu = torch.nn.GELU()
    for make in (text_export.export_text_tower, text_export.export_text_weights):
        with pytest.raises(ActivationError, match="layer 1"):
            make(tmp_path, tower, print)
    assert not list(tmp_path.iterdir())


def test_another_vocabulary_is_not_exported(tmp_path, monkeypatch):
    other = tmp_path / "other.gz"
    other.write_bytes(b"merges")
    monkeypatch.setattr(text_export, "default_vocabulary", lambda: other)
    with pytest.raises(InputError, match="not OpenAI's vocabulary"):
        text_export.export_vocabulary(tmp_path, print)


def test_the_comparison_of_texts_sees_every_kind_of_difference():
    random = np.random.default_rng(0)
    unit = random.standard_normal((4, 768)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    hidden = random.standard_normal((4, 77, 768)).astype(np.float32)
    tokens = np.arange(4)[:, None].repeat(77, 1)
    batches = [[0], range(4)]

    def compared(embedding, states):
        answer = lambda rows: [embedding[rows[:, 0]], states[rows[:, 0]]]  # noqa: E731
        return text_parity(answer, [unit, hidden], tokens, batches=batches)

    assert compared(unit, hidden)
    assert compared(unit, hidden).batch_sizes == (1, 4)
    assert not compared(unit[[1, 0, 2, 3]], hidden)
    assert not compared(unit, hidden[:, ::-1])
    assert not compared(unit, hidden * 1.001)
    assert not compared(unit, np.where(hidden == hidden[2, 5, 7], np.nan, hidden))
    report = compared(unit, hidden)
    assert report.spread > MIN_SPREAD and report.as_dict()["passed"] is True
    alike = [np.ones_like(unit), hidden]
    assert not text_parity(lambda _: alike, alike, tokens, batches=[range(4)])
