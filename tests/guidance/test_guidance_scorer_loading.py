"""The differentiable scorer by name: whose weights and heads are loaded, and what is announced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scored_images import images

from aesthetic_client import contract
from aesthetic_client.errors import InputError
from aesthetic_export.files import FileStore, UnreachableError
from aesthetic_export.heads import published_heads, seeded_heads
from aesthetic_export.towers import Tower
from aesthetic_guidance.scorer import AestheticScorer
from towers import tiny_tower

HEADS = seeded_heads(0)


@pytest.fixture(scope="module")
def tower() -> Tower:
    return tiny_tower()


def test_loading_goes_through_the_exporters_sources(tower, shared_data, tmp_path, monkeypatch):
    """The architecture is made tiny: the full one is in the slow test."""
    from aesthetic_export import sources

    monkeypatch.setattr(sources, "seeded_tower", lambda seed: tiny_tower(seed))
    folder = shared_data / "heads"
    scorer = AestheticScorer.load("seeded:0", weights_dir=folder, cache=tmp_path)
    assert (scorer.head_name, scorer.weights) == (
        contract.DEFAULT_HEAD.name,
        contract.SEEDED_WEIGHTS,
    )
    published = published_heads(FileStore(tmp_path, (folder,)))
    assert torch.equal(scorer.score(images()), AestheticScorer(tower, published[0]).score(images()))
    by_output = AestheticScorer.load("seeded:0", "ava_logos_l14_reluMSE", head_weights="seeded:0")
    assert torch.equal(by_output.score(images()), AestheticScorer(tower, HEADS[2]).score(images()))
    assert by_output.meaningless
    given = AestheticScorer.load("seeded:0", HEADS[2], cache=tmp_path)
    assert torch.equal(by_output.score(images()), given.score(images()))
    like = AestheticScorer.load("seeded:0", np.ones(768), cache=tmp_path, round_to_8bit=True)
    assert like.head_name == "vector" and like.round_to_8bit
    with pytest.raises(InputError, match=r"'nice' is no head; use one of sac\+logos"):
        AestheticScorer.load("openai", "nice")
    with pytest.raises(InputError, match="expected 768 numbers"):
        AestheticScorer.load("openai", np.ones(512))  # before anything is downloaded
    with pytest.raises(InputError, match="names no weights"):
        AestheticScorer.load("clip")


def test_random_weights_that_stand_in_are_announced(tmp_path, monkeypatch):
    from aesthetic_export import sources

    def unreachable(*_):
        raise UnreachableError("the host is silent")

    monkeypatch.setattr(sources, "seeded_tower", lambda seed: tiny_tower(seed))
    monkeypatch.setattr(sources, "tower_file", unreachable)
    monkeypatch.setattr(sources, "published_heads", unreachable)
    with pytest.warns(UserWarning, match="SCORES WILL BE MEANINGLESS"):
        scorer = AestheticScorer.load("auto", cache=tmp_path)
    assert scorer.meaningless
    with pytest.raises(UnreachableError, match="silent"):
        AestheticScorer.load("openai", np.ones(768), cache=tmp_path)
