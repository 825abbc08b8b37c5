"""Aesthetic embeddings: published files read safely, means, similarities, the command."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from aesthetic_client import Client
from aesthetic_client.contract import SEEDED_WEIGHTS
from aesthetic_client.errors import EmbeddingError, ImageError, InputError
from aesthetic_client.vectors import read_vector
from aesthetic_guidance.embeddings import AestheticEmbedding, mean_of, similarity

NORMS = {"sac_8plus": 3.2579, "fantasy": 15.3554, "cloudcore": 18.5955}
PUBLISHED = ("aivazovsky.pt", "cloudcore.pt", "fantasy.pt", "gloomcore.pt", "sac_8plus.pt")


@pytest.fixture
def features() -> np.ndarray[Any, Any]:
    """Raw features: around one direction, of lengths from 5 to 40."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((12, 768)) + 2
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.linspace(5, 40, 12)[:, None]


def stored(folder: Path) -> dict[str, AestheticEmbedding]:
    paths = sorted((folder / "aesthetic_embeddings").iterdir())
    return {path.name: AestheticEmbedding.read(path) for path in paths}


def test_published_files_give_their_published_cosines(shared_data):
    golden = json.loads((shared_data / "golden_scores.json").read_text())["cosine"]
    found = stored(shared_data)
    assert set(found) == set(golden) and set(PUBLISHED) < set(found)
    for name, row in golden.items():
        for other, cosine in row.items():
            # The published figures have five decimals.
            near = pytest.approx(cosine, abs=5.1e-6)
            assert float(similarity(found[name].vector[None], found[other])[0]) == near


def test_published_files_give_their_published_scores(shared_data):
    golden = json.loads((shared_data / "golden_scores.json").read_text())
    state = torch.load(
        shared_data / "heads" / "sa_0_4_vit_l_14_linear.pth", weights_only=True, map_location="cpu"
    )
    weight, bias = state["weight"][0].double().numpy(), float(state["bias"])
    for name, embedding in stored(shared_data).items():
        expected = golden["scores"][name]["sa_0_4_vit_l_14_linear"]
        assert embedding.vector.astype(np.float64) @ weight + bias == pytest.approx(
            expected, abs=5e-6
        )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_widened_before_it_is_normalised(shared_data, name):
    path = shared_data / "aesthetic_embeddings" / name
    tensor = torch.load(path, weights_only=True, map_location="cpu").reshape(-1).double()
    if path.stem in NORMS:
        assert float(tensor.norm()) == pytest.approx(NORMS[path.stem], abs=1e-3)
    embedding = AestheticEmbedding.read(path)
    assert embedding.vector.dtype == np.float32 and embedding.vector.shape == (768,)
    assert np.abs(embedding.vector - (tensor / tensor.norm()).numpy()).max() < 1e-7
    assert (embedding.images, embedding.normalize_each, embedding.model) == (None, None, {})
    assert embedding.source == str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_what_is_written_reads_back_bit_for_bit(tmp_path, features, suffix):
    model = {"model": "clip_image", "weights": "openai", "weights_sha256": "ab" * 32, "seed": None}
    written = mean_of(features, normalize_each=False, source="folder/", model=model)
    path = tmp_path / f"mine{suffix}"
    written.write(path)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    read = AestheticEmbedding.read(path)
    assert read.vector.tobytes() == written.vector.tobytes()
    if suffix == ".pt":
        tensor = torch.load(path, weights_only=True)
        assert (tensor.shape, tensor.dtype) == ((1, 768), torch.float32)
        return
    assert (read.images, read.normalize_each, read.source) == (12, False, "folder/")
    assert read.model == {name: value for name, value in model.items() if value}
    assert not read.seeded
    with safe_open(path, "numpy") as file:
        assert file.metadata()["provenance.weights"] == "openai"
    # The base install's reader, which has no safetensors, reads the same.
    assert np.array_equal(read_vector(path).values.astype(np.float32), written.vector)


def test_random_weights_stay_marked(tmp_path, features):
    mean_of(features, model={"weights": SEEDED_WEIGHTS}).write(tmp_path / "a.safetensors")
    assert AestheticEmbedding.read(tmp_path / "a.safetensors").seeded


def test_the_two_means_are_the_papers_and_the_codes(features):
    each = mean_of(features, normalize_each=True).vector
    raw = mean_of(features, normalize_each=False).vector
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for found, rows in ((each, unit), (raw, features)):
        expected = rows.mean(0) / np.linalg.norm(rows.mean(0))
        assert np.abs(found - expected).max() < 1e-7
    assert float(each @ raw) < 0.999  # they are different directions
    scaled = features * np.linspace(1, 9, 12)[:, None]
    assert np.abs(mean_of(scaled, normalize_each=True).vector - each).max() < 1e-7


def test_half_precision_features_do_not_overflow(features):
    # A component of 300 is 90 000 squared, which fp16 has not.
    large = (features * 100).astype(np.float16)
    exact = large.astype(np.float64)
    expected = exact.mean(0) / np.linalg.norm(exact.mean(0))
    assert np.abs(mean_of(large, normalize_each=False).vector - expected).max() < 1e-7


def test_the_raw_mean_of_unit_vectors_is_refused(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    with pytest.raises(EmbeddingError, match=r"the server does not give.*--raw"):
        mean_of(unit, normalize_each=False)


def test_means_without_a_direction_are_refused(features):
    with pytest.raises(EmbeddingError, match="cancel out"):
        mean_of(np.stack([features[0], -features[0]]))
    with pytest.raises(EmbeddingError, match=r"features\[1\]: is all zero"):
        mean_of(np.stack([features[0], np.zeros(768)]))
    with pytest.raises(EmbeddingError, match=r"features \(n, 768\), n > 0; got \(0, 768\)"):
        mean_of(np.empty((0, 768)))


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


BAD = {
    "wide.pt": (torch.ones(1, 512), r"expected one CLIP ViT-L/14 vector of shape \(768,\), got"),
    "nan.pt": (torch.full((768,), torch.nan), "NaN or infinity"),
    "zero.pt": (torch.zeros(768), "all zero"),
    "whole.pt": (torch.ones(768, dtype=torch.int64), "torch.int64, expected floating"),
    "dict.pt": ({"embedding": torch.ones(768)}, "holds a dict, expected one tensor"),
    "code.pt": (Code(), "refused: not a plain file of tensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_published_files_are_refused_with_their_reason(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, words = BAD[name]
    torch.save(content, tmp_path / name)
    with pytest.raises(InputError, match=words) as raised:
        AestheticEmbedding.read(tmp_path / name)
    assert name in str(raised.value)
    assert not (tmp_path / "owned").exists()


def test_other_bad_files_are_refused_with_their_reason(tmp_path):
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1})[:-3])
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "matrix.npy", np.ones((2, 768)))
    (tmp_path / "short.npy").write_bytes(b"\x93NUMPY")
    save_file({"a": np.ones(768), "b": np.ones(768)}, tmp_path / "two.safetensors")
    save_file({"a": np.ones(767)}, tmp_path / "narrow.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "list.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0[]")
    (tmp_path / "deep.safetensors").write_bytes((9000).to_bytes(8, "little") + b"[" * 9000)
    (tmp_path / "large.safetensors").write_bytes(b"\0" * (1 << 21))
    words = {
        "plain.pt": "refused",
        "objects.npy": "no .npy file of one vector",
        "matrix.npy": r"got \(2, 768\)",
        "short.npy": "no .npy file",
        "two.safetensors": "holds 2 tensors",
        "narrow.safetensors": r"got \(767,\)",
        "cut.safetensors": "no .safetensors file",
        "list.safetensors": "no .safetensors file",
        "deep.safetensors": "no .safetensors file",
        "large.safetensors": "too large",
        "absent.safetensors": "cannot be read",
        "other.bin": "ends in .safetensors, .npy, .pt",
    }
    for name, expected in words.items():
        with pytest.raises(InputError, match=expected) as raised:
            AestheticEmbedding.read(tmp_path / name)
        assert name in str(raised.value)
    with pytest.raises(EmbeddingError, match=r"ends in \.safetensors or \.pt"):
        AestheticEmbedding.of(np.ones(768)).write(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_the_small_reader_agrees_with_safetensors(tmp_path, dtype):
    from safetensors.torch import load_file
    from safetensors.torch import save_file as save_torch

    tensor = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 768)))
    save_torch({"e": tensor.to(getattr(torch, dtype))}, tmp_path / "e.safetensors", {"k": "v"})
    found = read_vector(tmp_path / "e.safetensors")
    expected = load_file(tmp_path / "e.safetensors")["e"].double().numpy()[0]
    assert np.array_equal(found.values, expected) and found.metadata == {"k": "v"}


@pytest.mark.triton
def test_similarity_of_images_is_that_of_their_embeddings(tiny_server, photographs, features):
    embedding = mean_of(features)
    with Client(tiny_server.grpc_url) as client:
        vectors = np.stack([client.embed(path) for path in photographs[:3]])
        found = similarity(photographs[:3], embedding, client)
        with pytest.raises(ImageError):
            similarity([photographs[0], b"no image"], embedding, client)
    expected = [np.dot(v, embedding.vector) for v in vectors.astype(np.float64)]
    assert np.abs(found - expected).max() < 1e-6
    assert np.abs(similarity(vectors * 17, embedding) - expected).max() < 1e-6
    with pytest.raises(ValueError, match="need a client"):
        similarity(photographs[:1], embedding)
