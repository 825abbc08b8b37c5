"""The exported heads against published numbers and against the original layers in float64."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from aesthetic_client import contract
from aesthetic_client.errors import InputError
from aesthetic_export.files import FileStore, WrongFileError
from aesthetic_export.golden import GOLDEN_EMBEDDINGS, GOLDEN_HEADS
from aesthetic_export.heads import (
    HEAD_SOURCES,
    fold,
    layers_from_state,
    published_heads,
    seeded_heads,
)
from aesthetic_export.modules import AestheticHeads
from aesthetic_export.onnx_export import onnx_from_module
from aesthetic_export.samples import unit_vectors

TOLERANCE = 2e-5  # points


@pytest.fixture(scope="module")
def heads(shared_data, tmp_path_factory):
    return published_heads(FileStore(tmp_path_factory.mktemp("cache"), (shared_data / "heads",)))


@pytest.fixture(scope="module")
def score(heads, tmp_path_factory):
    """(n, 768) fp32 -> scores (n,) by head name, through ONNX Runtime."""
    folder = tmp_path_factory.mktemp("heads")
    path, *_ = onnx_from_module(AestheticHeads(heads), contract.AESTHETIC_HEADS, folder)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(embeddings: np.ndarray) -> dict[str, np.ndarray]:
        outputs = [head.output for head in contract.HEADS]
        found = session.run(outputs, {"embedding": embeddings.astype(np.float32)})
        assert all(array.shape == (len(embeddings), 1) for array in found)
        return {head.name: array[:, 0] for head, array in zip(contract.HEADS, found, strict=True)}

    return run


def read_embedding(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path).astype(np.float64).reshape(768)
    tensor = torch.load(path, map_location="cpu", weights_only=True)
    return tensor.detach().double().numpy().reshape(768)


@pytest.fixture(scope="module")
def golden(shared_data):
    """The stored golden scores, and every embedding as saved: (n, 768) float64, names."""
    stored = json.loads((shared_data / "golden_scores.json").read_text())
    names = list(stored["scores"])
    folder = shared_data / "aesthetic_embeddings"
    return stored, np.stack([read_embedding(folder / name) for name in names]), names


def original(name: str, shared_data: Path) -> nn.Sequential:
    """The published network as its authors wrote it, in float64."""
    state = torch.load(shared_data / "heads" / f"{name}.pth", map_location="cpu", weights_only=True)
    sizes = [768, 1024, 128, 64, 16, 1]
    if len(state) == 2:
        module = nn.Sequential(nn.Linear(768, 1))
        renamed = {f"0.{key.rpartition('.')[2]}": tensor for key, tensor in state.items()}
    else:
        relu = "relu" in name
        parts: list[nn.Module] = []
        for index in range(5):
            parts.append(nn.Linear(sizes[index], sizes[index + 1]))
            if index < 3:
                parts += [nn.ReLU(), nn.Dropout(0.2)] if relu else [nn.Dropout(0.2)]
            elif index == 3 and relu:
                parts.append(nn.ReLU())
        module = nn.Sequential(*parts)
        renamed = {key.removeprefix("layers."): tensor for key, tensor in state.items()}
    module.load_state_dict(renamed)
    return module.double().eval()


def test_published_embeddings_get_their_published_scores(golden, score):
    stored, embeddings, names = golden
    found = score(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    for row, name in enumerate(names):
        for head, expected in stored["scores"][name].items():
            assert found[head][row] == pytest.approx(expected, rel=0, abs=TOLERANCE), (name, head)
    assert set(found) == set(stored["scores"][names[0]])


def test_unnormalised_embeddings_get_the_wrong_scores_that_are_known(golden, score):
    stored, embeddings, names = golden
    found = score(embeddings)
    for name, heads in stored["negative_control_unnormalised_input"].items():
        row = names.index(name)
        for head, wrong in heads.items():
            assert found[head][row] == pytest.approx(wrong, abs=1e-4), (name, head)
            right = stored["scores"][name][head]
            normalises = head.startswith("sac_public")
            assert (abs(found[head][row] - right) < TOLERANCE) == normalises


@pytest.mark.parametrize("name", list(HEAD_SOURCES))
def test_unseen_embeddings_score_as_the_original_layers_in_float64(name, shared_data, score):
    embeddings = unit_vectors(4096, seed=7)
    exact = torch.from_numpy(embeddings).double()
    if name.startswith("sac_public"):
        exact = nn.functional.normalize(exact, dim=-1) * 768**0.5
    with torch.no_grad():
        expected = original(name, shared_data)(exact).numpy()[:, 0]
    assert expected.std() > 0.3
    assert np.abs(score(embeddings)[name] - expected).max() < TOLERANCE


def test_folded_weights_have_the_known_lengths(golden, heads):
    stored = golden[0]["affine_collapse"]
    for head in heads:
        if head.source.kind == "relu_mlp":
            assert head.source.name not in stored
            with pytest.raises(ValueError, match="cannot be folded"):
                fold(head)
            continue
        weight, bias = fold(head)
        known = stored[head.source.name]
        assert np.linalg.norm(weight) == pytest.approx(known["weight_norm"], rel=1e-9)
        assert bias == pytest.approx(known["bias"], rel=1e-9)


def test_the_table_of_heads_is_the_contracts_and_the_files(shared_data, golden):
    assert list(HEAD_SOURCES) == [head.name for head in contract.HEADS] == list(GOLDEN_HEADS)
    for name, source in HEAD_SOURCES.items():
        known = golden[0]["heads"][name]
        assert source.file.sha256 == known["sha256"]
        assert source.file.size_bytes == known["bytes"]
        assert source.file.name == known["file"]
        assert "+" not in source.file.url
        assert source.file.url.replace("%2B", "+").endswith(f"/{known['file']}")


def test_the_table_of_golden_embeddings_is_the_stored_one(golden, shared_data):
    stored = golden[0]["scores"]
    assert {row.file.name for row in GOLDEN_EMBEDDINGS} == set(stored)
    store = FileStore(Path("unused"), (shared_data / "aesthetic_embeddings",))
    for row in GOLDEN_EMBEDDINGS:
        assert dict(zip(GOLDEN_HEADS, row.scores, strict=True)) == stored[row.file.name]
        assert store.obtain(row.file).name == row.file.name  # the hash is right


def test_a_wrong_head_file_is_refused_by_name_with_both_hashes(shared_data, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(shared_data / "heads", given)
    name = "ava+logos-l14-reluMSE.pth"
    (given / name).chmod(0o644)
    data = bytearray((given / name).read_bytes())
    data[len(data) // 2] ^= 1
    (given / name).write_bytes(data)
    published_heads(FileStore(tmp_path / "cache", (shared_data / "heads",)))  # a warm cache
    with pytest.raises(WrongFileError) as caught:
        published_heads(FileStore(tmp_path / "cache", (given,)))
    expected = HEAD_SOURCES["ava+logos-l14-reluMSE"].file.sha256
    assert name in str(caught.value)
    assert expected in str(caught.value)
    assert (
        len({word for word in str(caught.value).replace(",", "").split() if len(word) == 64}) == 1
    )


def test_a_head_is_read_from_its_safetensors_the_second_time(shared_data, tmp_path, monkeypatch):
    store = FileStore(tmp_path, (shared_data / "heads",))
    first = published_heads(store)
    made = sorted(path.name for path in (tmp_path / "heads").iterdir())
    assert made == sorted(f"{row.file.sha256}.safetensors" for row in HEAD_SOURCES.values())
    monkeypatch.setattr("aesthetic_export.checkpoints.read_pickle", pytest.fail)
    again = published_heads(FileStore(tmp_path))  # and without the .pth
    for one, other in zip(first, again, strict=True):
        for (weight, bias), (weight_again, bias_again) in zip(
            one.layers, other.layers, strict=True
        ):
            assert np.array_equal(weight, weight_again)
            assert np.array_equal(bias, bias_again)


def test_a_damaged_safetensors_is_made_again(shared_data, tmp_path):
    store = FileStore(tmp_path, (shared_data / "heads",))
    published_heads(store)
    path = next((tmp_path / "heads").iterdir())
    good = path.read_bytes()
    path.write_bytes(good[:50])
    published_heads(store)
    assert path.read_bytes() == good


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_a_hostile_pickle_is_refused_even_with_an_accepted_hash(tmp_path, monkeypatch):
    source = HEAD_SOURCES["sa_0_4_vit_l_14_linear"]
    (tmp_path / source.file.name).write_bytes(pickle.dumps({"weight": Hostile()}, protocol=2))
    monkeypatch.setattr("aesthetic_export.heads.checked", lambda path, _: path)
    monkeypatch.setattr(contract, "HEADS", (contract.Head(source.name, "s"),))
    with pytest.raises(InputError, match=r"sa_0_4_vit_l_14_linear\.pth is refused"):
        published_heads(FileStore(tmp_path / "cache", (tmp_path,)))
    assert not (tmp_path / "cache" / "heads").exists()


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.ones(1, 768)},
        {"weight": torch.ones(1, 512), "bias": torch.ones(1)},
        {"weight": torch.ones(1, 768), "bias": torch.ones(1), "extra": torch.ones(1)},
    ],
)
def test_other_layers_are_refused(state):
    with pytest.raises(InputError, match="has layers"):
        layers_from_state(state, HEAD_SOURCES["sa_0_4_vit_l_14_linear"])


def test_seeded_heads_have_the_true_shapes_and_say_what_they_are():
    heads = seeded_heads(1)
    assert all(head.weights == contract.SEEDED_WEIGHTS and head.seed == 1 for head in heads)
    for head in heads:
        assert tuple(weight.shape for weight, _ in head.layers) == head.source.shapes
    other = seeded_heads(2)
    assert not np.array_equal(heads[0].layers[0][0], other[0].layers[0][0])
    scores = AestheticHeads(heads)(torch.from_numpy(unit_vectors(256)))
    assert all(0.05 < float(score.std()) < 40 for score in scores)
