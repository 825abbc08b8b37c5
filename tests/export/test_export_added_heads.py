"""Heads of one's own beside the published ones: exported, configured, kept, served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aesthetic_client import Client, contract
from aesthetic_client.cli import main
from aesthetic_client.errors import InputError
from aesthetic_curate.local_heads import LocalHeads
from aesthetic_export.added_heads import add_to_configs
from aesthetic_export.files import sha256_of
from aesthetic_export.head_files import FITTED_ON_SEEDED, fitted_head, read_head, write_head
from aesthetic_export.heads import seeded_heads
from aesthetic_export.provenance import read_provenance
from aesthetic_export.repository import build_repository
from aesthetic_export.samples import unit_vectors
from aesthetic_guidance.fitting import fit_ridge

SEEDED_TOWER = {
    "provenance.weights": contract.SEEDED_WEIGHTS,
    "provenance.source": "seeded:0",
    "provenance.model": "clip_image",
}
NAMES = ("mine.v1", "net")
OUTPUTS = ("mine_v1", "net")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A linear head that was fitted to ratings, and a network in the same format."""
    folder, random = tmp_path_factory.mktemp("heads"), np.random.default_rng(0)
    x = unit_vectors(900, seed=9)
    tower = {key.removeprefix("provenance."): text for key, text in SEEDED_TOWER.items()}
    fitted = fit_ridge(x, 5 + 12 * x[:, 0] - 9 * x[:, 5], name="mine.v1", folds=2, model=tower)
    network = [
        (random.standard_normal((32, 768)), random.standard_normal(32)),
        (random.standard_normal((1, 32)) / 6, np.array([5.0])),
    ]
    paths = folder / "mine.safetensors", folder / "net.safetensors"
    fitted.write(paths[0])
    assert fitted.report.figures["Spearman"] > 0.5  # of fewer ratings than there are axes
    assert np.abs(fitted.score(x) - evaluated(paths[0], x)).max() < 1e-7
    write_head(paths[1], fitted_head("net", "relu_mlp", network), SEEDED_TOWER)
    return paths


def evaluated(path: Path, embeddings: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A head file in a few lines, in float64."""
    value = embeddings.astype(np.float64)
    for weight, bias in (layers := read_head(path).layers)[:-1]:
        value = np.maximum(value @ weight.T + bias, 0)
    return (value @ layers[-1][0].T + layers[-1][1])[:, 0]


@pytest.fixture(scope="module")
def repository(
    files: tuple[Path, Path], tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny repository, to which the command added both heads."""
    target = tmp_path_factory.mktemp("added") / "repository"
    shutil.copytree(tiny_repository, target)
    assert export(target, "--add-head", files[0], "--add-head", files[1]) == 0
    return target


def export(target: Path, *more: object) -> int:
    arguments = ["--repository", target, "--model", "aesthetic_heads", "--head-weights", "seeded:0"]
    return main(["export", *map(str, (*arguments, *more))])


def config_of(folder: Path, name: str = "config.pbtxt") -> Any:
    return text_format.Parse((folder / name).read_text(), ModelConfig())


def test_every_config_names_the_added_heads_and_the_tower_is_untouched(repository, tiny_repository):
    expected = [*(head.output for head in contract.HEADS), *OUTPUTS]
    for model in (contract.AESTHETIC, contract.AESTHETIC_PIXELS):
        config = config_of(repository / model.name)
        assert [output.name for output in config.output] == [*expected, "embedding"]
        heads_step = config.ensemble_scheduling.step[-1]
        assert heads_step.model_name == "aesthetic_heads"
        assert dict(heads_step.output_map) == {name: name for name in expected}
        assert {tuple(output.dims) for output in config.output} == {(1,), (768,)}
    heads = config_of(repository / "aesthetic_heads")
    assert [output.name for output in heads.output] == expected
    for name in ("clip_image", "preprocess"):
        before, after = tiny_repository / name, repository / name
        for path in (path for path in before.rglob("*") if path.is_file()):
            if "__pycache__" not in path.parts:
                assert sha256_of(after / path.relative_to(before)) == sha256_of(path)
    # Comments and order of the hand-written text stay.
    text = (repository / "aesthetic" / "config.pbtxt").read_text()
    assert text.startswith((tiny_repository / "aesthetic" / "config.pbtxt").read_text()[:400])


def test_provenance_says_whose_heads_they_are_and_on_what_they_were_fitted(repository, files):
    known: Any = read_provenance(repository / "aesthetic_heads" / "1")
    rows = known["heads"][len(contract.HEADS) :]
    assert [row["name"] for row in rows] == list(NAMES)
    assert [row["output"] for row in rows] == list(OUTPUTS)
    assert [row["kind"] for row in rows] == ["affine", "relu_mlp"]
    for row, path in zip(rows, files, strict=True):
        assert (row["sha256"], row["source"]) == (sha256_of(path), path.name)
        assert row["weights"] == FITTED_ON_SEEDED and row["licence"] is None
    assert set(known["parity"]["scores"]) == {*(head.name for head in contract.HEADS), *NAMES}
    assert known["parity"]["max_score_difference"] < 2e-5


def test_stored_embeddings_are_scored_by_added_heads_without_a_server(repository, files):
    vectors = unit_vectors(20, seed=3)
    local = LocalHeads.read(repository / "aesthetic_heads" / "1" / contract.HEADS_DATA)
    scores = local.score(vectors)
    for output, path in zip(OUTPUTS, files, strict=True):
        assert np.abs(scores[output] - evaluated(path, vectors)).max() < 2e-5


@pytest.mark.triton
def test_added_heads_are_served_as_they_are_locally(repository, files, photographs):
    from aesthetic_serve import EmbeddedServer

    vectors = unit_vectors(50, seed=4)
    with EmbeddedServer(repository) as server, Client(server.grpc_url) as client:
        assert [head.name for head in client.heads()][-2:] == list(NAMES)
        stored = client.score_embeddings_by_head(vectors)
        image = client.score(photographs[0], heads="all", embedding=True)
    for name, path in zip(NAMES, files, strict=True):
        assert np.abs(stored[name] - evaluated(path, vectors)).max() < 2e-5
        expected = evaluated(path, image.embedding[None])[0]
        assert image.scores[name] == pytest.approx(expected, abs=2e-5)
    assert len(image.scores) == len(contract.HEADS) + 2


def test_added_heads_stay_until_heads_are_exported_without_them(repository, tmp_path):
    target = tmp_path / "repository"
    shutil.copytree(repository, target)
    build_repository(target)  # renews the configs, and keeps both artifacts
    names = [output.name for output in config_of(target / "aesthetic").output]
    assert names[-3:] == [*OUTPUTS, "embedding"]
    said: list[str] = []
    build_repository(target, heads=seeded_heads(0), say=said.append)
    assert any("mine.v1, net: added before, not now" in line for line in said)
    names = [output.name for output in config_of(target / "aesthetic").output]
    assert set(names).isdisjoint(OUTPUTS) and len(names) == 6


def test_if_missing_looks_at_the_added_heads(repository, files, tmp_path, capsys):
    target = tmp_path / "repository"
    shutil.copytree(repository, target)
    both = ("--add-head", files[0], "--add-head", files[1])
    # Without --add-head too: what starts a server with --if-missing must not remove a user's heads.
    for asked in (both, both[2:], ()):
        assert export(target, *asked, "--if-missing") == 0
        assert "already exported" in capsys.readouterr().err
    new = tmp_path / "new.safetensors"
    write_head(new, fitted_head("new", "affine", list(read_head(files[0]).layers)), {})
    assert export(target, *both, "--add-head", new, "--if-missing") == 0
    known: Any = read_provenance(target / "aesthetic_heads" / "1")
    assert [row["name"] for row in known["heads"]][5:] == [*NAMES, "new"]
    assert export(target, "--add-head", tmp_path / "gone.safetensors", "--if-missing") == 2


def test_a_head_of_another_tower_is_called_meaningless(tiny_repository, files, tmp_path, capsys):
    target = tmp_path / "repository"
    shutil.copytree(tiny_repository, target)
    other = tmp_path / "other.safetensors"
    openai = {"provenance.weights": "openai", "provenance.weights_sha256": "ab" * 32}
    write_head(other, fitted_head("other", "affine", list(read_head(files[0]).layers)), openai)
    assert export(target, "--add-head", files[0], "--add-head", other) == 0
    warned = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert warned.count("fitted on embeddings of another tower (openai)") == 1
    assert warned.count("another tower") == 1
    known: Any = json.loads((target / "aesthetic_heads" / "1" / "provenance.json").read_text())
    assert [row["weights"] for row in known["heads"]][-2:] == [FITTED_ON_SEEDED, "fitted"]


def test_what_cannot_be_added_is_refused_and_nothing_changes(repository, files, tmp_path, capsys):
    before = sha256_of(repository / "aesthetic_heads" / "1" / "model.onnx")
    twin = tmp_path / "twin.safetensors"
    head = read_head(files[0])
    write_head(twin, fitted_head("mine+v1", "affine", list(head.layers)), {})
    cases = [
        (("--add-head", files[0], "--add-head", twin), "would share the output mine_v1"),
        (("--add-head", tmp_path / "none.safetensors"), "not a readable safetensors file"),
        (("--add-head", files[0], "--target", "tensorrt"), "--add-head exports aesthetic_heads"),
    ]
    for more, words in cases:
        assert export(repository, *more) == 2
        assert words in capsys.readouterr().err
    tower_only = ["--model", "clip_image", "--weights", "seeded:0", "--add-head", str(files[0])]
    assert main(["export", "--repository", str(repository), *tower_only]) == 2
    assert "--add-head exports aesthetic_heads" in capsys.readouterr().err
    assert sha256_of(repository / "aesthetic_heads" / "1" / "model.onnx") == before


def test_the_optional_models_and_other_profiles_name_them_too(files, tmp_path):
    target = tmp_path / "repository"
    heads = (*seeded_heads(0), read_head(files[0]))
    build_repository(target, heads=heads, add_ons=[contract.DALI])
    config = config_of(target / "aesthetic_dali")
    assert [output.name for output in config.output][-2:] == ["mine_v1", "embedding"]
    source = Path("model_repository/aesthetic_heads")
    shutil.copytree(source, tmp_path / "heads", ignore=shutil.ignore_patterns("1"))
    add_to_configs(tmp_path / "heads", ["mine.v1"])
    config = config_of(tmp_path / "heads", "configs/tensorrt.pbtxt")
    assert [output.name for output in config.output][-1] == "mine_v1"


def test_a_config_that_is_written_otherwise_is_refused(tmp_path):
    last = contract.HEADS[-1].output
    (tmp_path / "config.pbtxt").write_text(f'name: "x"\noutput {{\n  name: "{last}"\n}}\n')
    with pytest.raises(InputError, match="cannot be added to this configuration"):
        add_to_configs(tmp_path, ["mine"])
