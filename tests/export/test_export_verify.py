"""`aesthetic verify` passes a right server, and fails a wrong, a seeded and an incomplete one."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aesthetic_client import ScoreResult, contract
from aesthetic_export import files, golden, verify_cli
from aesthetic_export.files import FileStore, PinnedFile, UnreachableError
from aesthetic_export.golden import GoldenImage
from aesthetic_export.heads import published_heads
from aesthetic_export.modules import AestheticHeads
from aesthetic_export.verify import verify

REAL = {"clip_image": {"weights": "openai"}, "aesthetic_heads": {"weights": "published"}}


class TorchServer:
    """Stands in for the client of a server with the real heads."""

    def __init__(self, heads, provenance=REAL, *, off_by=0.0, without=()):
        self.heads = AestheticHeads(heads)
        self.served = provenance
        self.off_by = off_by
        self.without = without
        self.images: list[bytes] = []

    def provenance(self):
        return self.served

    def score_embeddings_by_head(self, embeddings, *, normalize):
        assert normalize
        assert embeddings.dtype == np.float32
        unit = torch.nn.functional.normalize(torch.from_numpy(embeddings), dim=-1)
        scores = [score.numpy()[:, 0] for score in self.heads(unit)]
        scores[-1][3] += self.off_by
        return {
            head.name: score
            for head, score in zip(contract.HEADS, scores, strict=True)
            if head.name not in self.without
        }

    def score(self, image: bytes) -> ScoreResult:
        assert image.startswith(b"\x89PNG")
        self.images.append(image)
        return argparse.Namespace(score=4.5 + self.off_by)


@pytest.fixture(scope="module")
def heads(shared_data, tmp_path_factory):
    return published_heads(FileStore(tmp_path_factory.mktemp("cache"), (shared_data / "heads",)))


@pytest.fixture
def store(shared_data, tmp_path) -> FileStore:
    return FileStore(tmp_path / "cache", (shared_data,))


def test_a_right_server_passes_on_every_embedding_and_head(heads, store):
    result = verify(TorchServer(heads), store)
    assert result
    assert len(result.checks) == 12 * 5
    assert max(check.difference for check in result.checks) < 1e-5
    assert any("image checks were not run" in note for note in result.notes)


@pytest.mark.parametrize("off_by", [3e-5, -1.0, float("nan")])
def test_one_wrong_score_fails_and_is_named(heads, store, off_by):
    result = verify(TorchServer(heads, off_by=off_by), store)
    assert not result
    (wrong,) = [check for check in result.checks if not check]
    assert (wrong.item, wrong.head) == ("gloomcore.pt", "sac_public_2022_06_29_vit_l_14_linear")


def test_a_missing_head_fails_and_is_named(heads, store):
    result = verify(TorchServer(heads, without=("ava+logos-l14-reluMSE",)), store)
    assert not result
    assert result.failures == ("the server has no head ava+logos-l14-reluMSE",)


def test_seeded_heads_fail_with_the_reason_and_without_any_file(heads, tmp_path):
    seeded = {**REAL, "aesthetic_heads": {"weights": contract.SEEDED_WEIGHTS}}
    result = verify(TorchServer(heads, seeded), FileStore(tmp_path))
    assert not result
    assert result.failures == ("the served heads are seeded, scores are meaningless",)


def test_a_server_without_provenance_is_checked_all_the_same(heads, store):
    assert any("does not say" in note for note in verify(TorchServer(heads, {}), store).notes)
    assert verify(TorchServer(heads, {}), store)
    assert not verify(TorchServer(heads, {}, off_by=1), store)


@pytest.fixture
def published_image(tmp_path, monkeypatch) -> Path:
    name = "aesthetic_export.verify.GOLDEN_IMAGES"
    monkeypatch.setattr(name, (GoldenImage("I03.bmp", "repository folder/I03.bmp", 4.5),))
    folder = tmp_path / "images" / "deeper"
    folder.mkdir(parents=True)
    Image.new("RGB", (30, 20), "red").save(folder / "I03.bmp")
    return tmp_path / "images"


def test_published_images_are_scored_as_png(heads, store, published_image):
    server = TorchServer(heads)
    assert verify(server, store, published_image)
    assert len(server.images) == 1
    result = verify(TorchServer(heads, off_by=0.03), store, published_image)
    assert [check.item for check in result.checks if check.tolerance == 0.02 and not check] == [
        "I03.bmp"
    ]


def test_a_seeded_tower_scores_no_published_image_and_says_why(heads, store, published_image):
    server = TorchServer(heads, {**REAL, "clip_image": {"weights": contract.SEEDED_WEIGHTS}})
    result = verify(server, store, published_image)
    assert result
    assert server.images == []
    assert any("served tower is seeded" in note for note in result.notes)


def test_a_folder_without_published_images_is_named(heads, store, tmp_path):
    (note,) = verify(TorchServer(heads), store, tmp_path).notes
    assert str(tmp_path) in note


def test_without_files_or_network_it_says_how_to_give_them(heads, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(files, "_fetch", refuse)
    with pytest.raises(UnreachableError, match=r"aivazovsky\.pt .*--golden"):
        verify(TorchServer(heads), FileStore(tmp_path))


def test_a_wrong_embedding_file_is_refused(heads, tmp_path):
    (tmp_path / "aivazovsky.pt").write_bytes(b"other")
    with pytest.raises(files.WrongFileError, match=r"aivazovsky\.pt"):
        verify(TorchServer(heads), FileStore(tmp_path / "cache", (tmp_path,)))


@pytest.mark.parametrize(("off_by", "code", "verdict"), [(0, 0, "PASS: 60"), (1, 1, "FAIL: 59")])
def test_the_command_prints_a_table_and_a_verdict(
    heads, shared_data, tmp_path, monkeypatch, capsys, off_by, code, verdict
):
    class Connected(TorchServer):
        def __init__(self, url: str) -> None:
            assert url == "localhost:9001"
            super().__init__(heads, off_by=off_by)

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to close."""

    monkeypatch.setattr("aesthetic_client.Client", Connected)
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path))
    parser = argparse.ArgumentParser()
    verify_cli.add_arguments(parser)
    arguments = parser.parse_args(["--url", "localhost:9001", "--golden", str(shared_data)])
    assert verify_cli.run(arguments) == code
    printed = capsys.readouterr().out
    assert f"{verdict} of 60 scores of localhost:9001" in printed
    assert all(row.file.name in printed for row in golden.GOLDEN_EMBEDDINGS)


def test_golden_files_are_pinned():
    for row in golden.GOLDEN_EMBEDDINGS:
        assert isinstance(row.file, PinnedFile)
        assert row.file.url.endswith(f"/{row.file.name}")
        assert len(row.file.sha256) == 64
