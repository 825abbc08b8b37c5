"""The heads' weights as data: complete, compared, hashed, kept, and no hindrance to Triton."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from aesthetic_client import HEADS, Client, contract
from aesthetic_export import heads_data, repository
from aesthetic_export.exporting import Job
from aesthetic_export.files import FileStore, sha256_of
from aesthetic_export.heads import HEAD_SOURCES, HeadWeights, published_heads, seeded_heads
from aesthetic_export.heads_data import heads_data_scorer
from aesthetic_export.parity import ParityError
from aesthetic_export.repository import build_repository

HEADS_FOLDER = Path(contract.AESTHETIC_HEADS.name) / "1"
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version folder of a repository with the published heads."""
    folder = tmp_path_factory.mktemp("published")
    heads = published_heads(FileStore(folder / "cache", (shared_data / "heads",)))
    build_repository(folder / "repository", heads=heads)
    return folder / "repository" / HEADS_FOLDER


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "numpy") as file:
        return dict(file.metadata())


def test_the_file_says_what_it_holds(published: Path) -> None:
    path = published / contract.HEADS_DATA
    metadata = metadata_of(path)
    assert metadata["format"] == "aesthetic-heads-1"
    assert metadata["provenance.weights"] == "published"
    rows = json.loads(metadata["provenance.heads"])
    assert [(row["name"], row["output"]) for row in rows] == [(h.name, h.output) for h in HEADS]
    for row in rows:
        source = HEAD_SOURCES[row["name"]]
        assert (row["kind"], row["sha256"]) == (source.kind, source.file.sha256)
    tensors = load_file(path)
    relu = contract.output_name("ava+logos-l14-reluMSE")
    affine = {head.output for head in HEADS} - {relu}
    layers = {f"{relu}.layers.{number}" for number in range(5)}
    names = affine | layers
    assert set(tensors) == {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    for output in affine:
        assert tensors[f"{output}.weight"].shape == (768,)
        assert tensors[f"{output}.weight"].dtype == tensors[f"{output}.bias"].dtype == np.float64
    assert tensors[f"{relu}.layers.0.weight"].shape == (1024, 768)
    assert tensors[f"{relu}.layers.4.bias"].dtype == np.float32
    # The default head's folded length is a published figure, and so is the widest head's.
    assert np.linalg.norm(tensors["aesthetic_score.weight"]) == pytest.approx(17.9956, abs=1e-4)
    widest = contract.output_name("sac_public_2022_06_29_vit_l_14_linear")
    assert np.linalg.norm(tensors[f"{widest}.weight"]) == pytest.approx(374, abs=1)


def test_its_hash_and_its_comparison_are_in_the_provenance(published: Path) -> None:
    known = json.loads((published / "provenance.json").read_text())
    path = published / contract.HEADS_DATA
    assert known["artifact_sha256"][path.name] == sha256_of(path)
    assert set(known["artifact_sha256"]) == {"model.onnx", path.name}
    parity = known["data_parity"]
    assert parity["passed"] is True
    assert parity["artifact"] == path.name
    assert set(parity["scores"]) == {head.name for head in HEADS}
    assert 0 < parity["max_score_difference"] <= TOLERANCE == parity["tolerance"]["score"]


def test_numpy_alone_gives_the_golden_scores(published: Path, shared_data: Path) -> None:
    score = heads_data_scorer(published / contract.HEADS_DATA)
    golden = json.loads((shared_data / "golden_scores.json").read_text())["scores"]
    names = [name for name in golden if name.endswith(".npy")]
    assert len(names) == 7
    raw = [np.load(shared_data / "aesthetic_embeddings" / name).reshape(-1) for name in names]
    unit = np.stack(raw).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for head, found in zip(HEADS, score(unit), strict=True):
        expected = [golden[name][head.name] for name in names]
        assert np.abs(found[:, 0] - expected).max() <= TOLERANCE


def test_wrong_data_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is off by what fp16 would make of it, and two heads that changed places."""
    target = tmp_path / "repository"
    build_repository(target, heads=seeded_heads(0))
    before = sha256_of(target / HEADS_FOLDER / contract.HEADS_DATA)
    write = heads_data.write_heads_data

    def rounded(folder: Path, *arguments: object) -> Path:
        path = write(folder, *arguments)  # type: ignore[arg-type]
        tensors, metadata = load_file(path), metadata_of(path)
        name = "aesthetic_score.weight"
        tensors[name] = tensors[name].astype(np.float16).astype(np.float64)
        save_file(tensors, path, metadata)
        return path

    def swapped(folder: Path, heads: tuple[HeadWeights, ...], known: object) -> Path:
        path = write(folder, heads, known)  # type: ignore[arg-type]
        metadata = metadata_of(path)
        rows = json.loads(metadata["provenance.heads"])
        metadata["provenance.heads"] = json.dumps([rows[1], rows[0], *rows[2:]])
        save_file(load_file(path), path, metadata)
        return path

    for wrong in (rounded, swapped):
        monkeypatch.setattr(repository, "write_heads_data", wrong)
        with pytest.raises(ParityError, match=r"aesthetic_heads \(heads.safetensors\) differs"):
            build_repository(target, heads=seeded_heads(1))
    assert sha256_of(target / HEADS_FOLDER / contract.HEADS_DATA) == before


def test_it_is_kept_with_its_onnx_file_and_made_where_it_lacks(tmp_path: Path) -> None:
    target = tmp_path / "repository"
    path = target / HEADS_FOLDER / contract.HEADS_DATA
    build_repository(target, heads=seeded_heads(0))
    before = sha256_of(path)
    build_repository(target)  # exports neither: everything is kept
    assert sha256_of(path) == before
    job = Job(
        target,
        weights="auto",
        sha256=None,
        head_weights=None,
        models=frozenset({contract.AESTHETIC_HEADS.name}),
        precisions=frozenset({"fp32"}),
        plan=False,
        opt_batch=None,
        add_ons=(),
        images=None,
        cache=tmp_path / "cache",
        weights_folders=(),
    )
    assert job.missing().is_empty()
    path.unlink()  # as an export of before left it
    assert job.missing().models == {contract.AESTHETIC_HEADS.name}


def test_triton_serves_what_the_data_says(tiny_server, tiny_repository: Path) -> None:
    score = heads_data_scorer(tiny_repository / HEADS_FOLDER / contract.HEADS_DATA)
    random = np.random.default_rng(4).standard_normal((300, 768))
    unit = (random / np.linalg.norm(random, axis=1, keepdims=True)).astype(np.float32)
    with Client(tiny_server.grpc_url) as client:
        served = client.score_embeddings_by_head(unit)
        known = client.provenance()[contract.AESTHETIC_HEADS.name]
    for head, found in zip(HEADS, score(unit), strict=True):
        assert np.abs(served[head.name] - found[:, 0]).max() <= TOLERANCE
    path = tiny_repository / HEADS_FOLDER / contract.HEADS_DATA
    assert known["artifact_sha256"][path.name] == sha256_of(path)
