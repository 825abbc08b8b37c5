"""Heads in numpy: published scores, the server's scores, and each row judged as it deserves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curate_datasets import unit_embeddings as random_units
from safetensors.numpy import load_file, save_file

from aesthetic_client import HEADS, Client, EmbeddingError, contract
from aesthetic_client._wire import unit_embeddings
from aesthetic_client.errors import InputError
from aesthetic_curate import vectors
from aesthetic_curate.local_heads import LocalHeads, heads_file
from aesthetic_curate.vectors import Blocks, score_rows, unit_block
from aesthetic_export.files import FileStore
from aesthetic_export.heads import published_heads
from aesthetic_export.heads_data import write_heads_data
from aesthetic_export.provenance import heads_provenance

TOLERANCE = 2e-5
DEFAULT = HEADS[:1]


@pytest.fixture(scope="module")
def file(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    heads = published_heads(FileStore(folder / "cache", (shared_data / "heads",)))
    return write_heads_data(folder, heads, heads_provenance(heads))


@pytest.fixture(scope="module")
def local(file: Path) -> LocalHeads:
    return LocalHeads.read(file)


def original_scores(folder: Path, unit: np.ndarray) -> dict[str, np.ndarray]:
    """The published files evaluated layer by layer in float64, by output name."""
    found = {}
    for head in HEADS:
        state = torch.load(folder / f"{head.name}.pth", weights_only=True, map_location="cpu")
        weights = [name for name in state if name.endswith("weight")]
        value = unit.astype(np.float64)
        if head.name.startswith("sac_public"):
            value = value / np.linalg.norm(value, axis=1, keepdims=True) * 768**0.5
        for at, name in enumerate(weights):
            bias = state[name.replace("weight", "bias")]
            value = value @ state[name].double().numpy().T + bias.double().numpy()
            if "relu" in head.name and at < len(weights) - 1:
                value = np.maximum(value, 0)
        found[head.output] = value[:, 0]
    return found


def test_the_golden_scores(local: LocalHeads, shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_scores.json").read_text())["scores"]
    raw = []
    for name in golden:
        path = shared_data / "aesthetic_embeddings" / name
        if path.suffix == ".npy":
            array = np.load(path)
        else:
            array = torch.load(path, weights_only=True, map_location="cpu").detach().numpy()
        raw.append(array.reshape(-1).astype(np.float64))
    assert len(raw) == 12
    found = local.score(np.stack(raw), normalize=True)
    for head in HEADS:
        expected = [golden[name][head.name] for name in golden]
        assert np.abs(found[head.output] - expected).max() <= TOLERANCE, head.name


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_unseen_vectors_in_float64(local: LocalHeads, shared_data: Path, dtype: str) -> None:
    given = random_units(3000, seed=5).astype(dtype)
    found = local.score(given)
    expected = original_scores(shared_data / "heads", given)
    assert set(found) == {head.output for head in HEADS}
    for output, values in found.items():
        assert values.dtype == np.float32
        assert np.abs(values - expected[output]).max() <= TOLERANCE, output


@pytest.mark.parametrize("length", [1e-3, 0.5, 13.0, 60000.0])
def test_normalised_vectors_in_float64(local: LocalHeads, shared_data: Path, length: float) -> None:
    unit = random_units(500, seed=6).astype(np.float64)
    for dtype in ("float16", "float32"):
        given = (unit * length).astype(dtype)
        exact = given.astype(np.float64)
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        expected = original_scores(shared_data / "heads", exact)
        for output, values in local.score(given, normalize=True).items():
            assert np.abs(values - expected[output]).max() <= TOLERANCE, (output, dtype)


@pytest.mark.triton
def test_the_server_of_the_same_repository(tiny_server: Any, tiny_repository: Path) -> None:
    local = LocalHeads.read(
        tiny_repository / contract.AESTHETIC_HEADS.name / "1" / contract.HEADS_DATA
    )
    given = random_units(5000, seed=7).astype(np.float16)
    found = local.score(given)
    with Client(tiny_server.grpc_url) as client:
        served = client.score_embeddings_by_head(given)
        assert client.heads() == local.heads
        known = client.provenance()[contract.AESTHETIC_HEADS.name]
    for head in HEADS:
        assert np.abs(found[head.output] - served[head.name]).max() <= TOLERANCE
    ours = local.provenance[contract.AESTHETIC_HEADS.name]
    assert ours["weights"] == contract.SEEDED_WEIGHTS
    assert {name: known[name] for name in ours if name != "format"} == ours


def test_provenance_has_each_heads_hash(local: LocalHeads) -> None:
    known = local.provenance[contract.AESTHETIC_HEADS.name]
    assert known["weights"] == "published"
    hashes = {row["name"]: row["sha256"] for row in known["heads"]}
    assert len(hashes) == 5
    assert hashes[HEADS[0].name].startswith("21dd590f3ccd")


def test_every_half_is_widened_as_numpy_does(local: LocalHeads) -> None:
    """All 65536 of them: subnormals, both zeros, and what is not finite ends as not finite."""
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = np.resize(every, (86, 768))
    buffer = np.empty((86, 768), np.float32)
    found = vectors._widened(halves, buffer).ravel()
    finite = np.isfinite(np.resize(every, 86 * 768))
    expected = np.resize(every, 86 * 768).astype(np.float32)
    assert np.array_equal(found[finite].view(np.int32), expected[finite].view(np.int32))
    assert (np.abs(found[~finite]) >= 65536).all()


BAD = {
    3: ("holds NaN or infinity", np.nan),
    4: ("holds NaN or infinity", np.inf),
    5: ("has norm 12.3, expected 1: pass --normalize for raw CLIP features", 12.3),
    6: ("has norm 0, expected 1: pass --normalize for raw CLIP features", 0.0),
    7: ("has norm 0.998, expected 1: pass --normalize for raw CLIP features", 0.998),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("blocks", [Blocks(4, 1), Blocks(4, 2), Blocks(64, 2)])
def test_bad_rows_are_told_of_and_the_others_scored(
    local: LocalHeads, dtype: str, blocks: Blocks
) -> None:
    given = random_units(12, seed=1).astype(np.float64)
    for row, (_, value) in BAD.items():
        if np.isfinite(value):
            given[row] *= value
        else:
            given[row, 700] = value
    given = given.astype(dtype)
    before = given.copy()
    rows = score_rows(given, local.score_units, HEADS, keep_units=True, blocks=blocks)
    assert np.array_equal(given, before, equal_nan=True)
    assert set(rows.problems) == set(BAD)
    for row, (expected, _) in BAD.items():
        # Rounding to fp16 moves a norm a little.
        assert rows.problems[row].split()[0] == expected.split()[0]
        assert rows.problems[row] == expected or dtype == "float16"
    good = [row for row in range(12) if row not in BAD]
    alone = local.score(given[good])
    for head in HEADS:
        assert np.isnan(rows.scores[head.output][list(BAD)]).all()
        assert np.abs(rows.scores[head.output][good] - alone[head.output]).max() < 1e-6
    assert rows.units is not None
    assert np.isnan(rows.units[list(BAD)]).all()
    assert np.array_equal(rows.units[good], given[good].astype(np.float32))


def test_the_rule_is_the_clients() -> None:
    """Around both edges of the tolerance, row by row, for lengths that float32 cannot decide."""
    unit = random_units(1, seed=2)[0].astype(np.float64)
    lengths = 1 + np.concatenate([edge + np.linspace(-2e-6, 2e-6, 101) for edge in (-1e-3, 1e-3)])
    for dtype in ("float32", "float64"):
        given = (unit * lengths[:, None]).astype(dtype)
        _, problems = unit_block(given, np.empty(given.shape, np.float32), normalize=False)
        refused = set()
        for row, vector in enumerate(given):
            try:
                unit_embeddings(vector[None], normalize=False)
            except EmbeddingError:
                refused.add(row)
        assert set(problems) == refused
        assert 90 < len(refused) < 112  # half of them


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e150])
def test_lengths_beyond_float32_are_normalised(local: LocalHeads, size: float) -> None:
    unit = random_units(3, seed=3).astype(np.float64)
    rows = score_rows(unit * size, local.score_units, DEFAULT, normalize=True)
    if size == 1e-300:  # their squares are zero in float64 too, as they are for the client
        assert rows.problems == dict.fromkeys(range(3), "is all zero and has no direction")
        return
    assert rows.problems == {}
    expected = local.score(unit, DEFAULT)["aesthetic_score"]
    assert np.abs(rows.scores["aesthetic_score"] - expected).max() <= TOLERANCE


def test_normalising_leaves_what_has_no_direction(local: LocalHeads) -> None:
    given = random_units(6, seed=4) * 7
    given[1], given[2, 0], given[3, 5] = 0, np.nan, -np.inf
    rows = score_rows(given, local.score_units, DEFAULT, normalize=True)
    assert rows.problems == {
        1: "is all zero and has no direction",
        2: "holds NaN or infinity",
        3: "holds NaN or infinity",
    }
    assert np.isnan(rows.scores["aesthetic_score"][1:4]).all()
    assert np.isfinite(rows.scores["aesthetic_score"][[0, 4, 5]]).all()


def test_odd_arrays_are_scored_the_same(local: LocalHeads) -> None:
    plain = random_units(700, seed=8)
    expected = local.score(plain, DEFAULT)["aesthetic_score"]
    for other in (
        np.asfortranarray(plain),
        plain.astype(">f4"),
        np.repeat(plain, 2, axis=0)[::2],
        np.lib.stride_tricks.as_strided(plain, plain.shape, plain.strides, writeable=False),
    ):
        assert np.array_equal(local.score(other, DEFAULT)["aesthetic_score"], expected)
    halves = plain.astype(np.float16)
    expected = local.score(halves, DEFAULT)["aesthetic_score"]
    for other in (np.asfortranarray(halves), halves.astype(">f2")):
        assert np.array_equal(local.score(other, DEFAULT)["aesthetic_score"], expected)
    assert local.score(plain[:0], DEFAULT)["aesthetic_score"].shape == (0,)


def test_wrong_shapes_types_and_heads_are_refused(local: LocalHeads) -> None:
    with pytest.raises(EmbeddingError, match=r"expected shape \(n, 768\).*got \(4, 512\)"):
        local.score(np.zeros((4, 512), np.float32))
    with pytest.raises(EmbeddingError, match=r"got \(768,\)"):
        local.score(np.zeros(768, np.float32))
    with pytest.raises(EmbeddingError, match="floating point embeddings, got int64"):
        local.score(np.zeros((4, 768), np.int64))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no head named 'mine' is in the file; these are: sac"):
        local.score(random_units(1), [contract.Head("mine", "mine")])


def test_a_missing_file_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path))
    path = tmp_path / "model_repository" / "aesthetic_heads" / "1" / "heads.safetensors"
    assert heads_file(tmp_path / "model_repository") == path
    with pytest.raises(InputError) as raised:
        LocalHeads.read()
    assert str(path) in str(raised.value)
    assert "`aesthetic export --model aesthetic_heads`" in str(raised.value)


def test_files_that_are_no_heads(file: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    broken = {
        "cut": file.read_bytes()[:5000],
        "empty": b"",
        "text": b"not a tensor in sight",
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    save_file(tensors, tmp_path / "no metadata")
    save_file(tensors, tmp_path / "later", {"format": "aesthetic-heads-2"})
    rows = json.dumps([{"name": "a", "output": "a", "kind": "affine"}])
    metadata = {"format": "aesthetic-heads-1", "provenance.heads": rows}
    save_file(tensors, tmp_path / "other head", metadata)
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="is no file of heads that this version reads") as e:
            LocalHeads.read(path)
        assert str(path) in str(e.value) and "aesthetic export" in str(e.value)
    with pytest.raises(InputError, match="its format is aesthetic-heads-2, expected aesthetic-h"):
        LocalHeads.read(tmp_path / "later")
