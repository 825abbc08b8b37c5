"""What is meaningless is said to be: random towers behind embeddings, heads and servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aesthetic_client.contract import CLIP_IMAGE, DEFAULT_HEAD, HEADS, SEEDED_WEIGHTS, Head
from aesthetic_client.errors import UnavailableError
from aesthetic_client.results import ScoreResult
from aesthetic_export.files import PinnedFile
from aesthetic_export.head_files import FITTED_ON_SEEDED
from aesthetic_export.heads import HeadSource, HeadWeights
from aesthetic_guidance import served_weights
from aesthetic_guidance.embeddings import AestheticEmbedding, mean_of, similarity
from aesthetic_guidance.remote import RemoteAestheticScorer
from aesthetic_guidance.reward_terms import parse_terms
from aesthetic_guidance.rewards import aesthetic_reward
from aesthetic_guidance.scorer import AestheticScorer
from towers import tiny_tower

IMAGES = np.zeros((2, 8, 8, 3), np.uint8)
VECTOR = np.random.default_rng(2).standard_normal(768)
OPENAI = {"weights": "openai", "weights_sha256": "ab" * 32}
OTHER = {"weights": "openai", "weights_sha256": "cd" * 32}


class Served:
    """A client's answers, without a server; the tower's weights can be changed."""

    def __init__(self, tower: dict[str, str], heads: Sequence[dict[str, str]] = ()) -> None:
        self.tower, self.rows, self.away, self.asked = tower, list(heads), False, 0

    def provenance(self, models: Any = None) -> dict[str, Any]:
        self.asked += 1
        return {
            CLIP_IMAGE.name: self.tower,
            "aesthetic_gradient": {**self.tower, "heads": self.rows[:5]},
            "aesthetic_heads": {"heads": self.rows},
        }

    def heads(self) -> tuple[Head, ...]:
        return (*HEADS, Head("mine", "mine"))

    def score_many(self, images: Sequence[Any], **_: Any) -> list[ScoreResult]:
        if self.away:
            return [ScoreResult(error=UnavailableError("away")) for _ in images]
        embedding = np.full(768, 768**-0.5, np.float32)
        return [ScoreResult({DEFAULT_HEAD.name: 1.0}, embedding) for _ in images]

    def infer(self, model: Any, inputs: Any, **_: Any) -> dict[str, np.ndarray]:
        return {model.outputs[0].name: (inputs["embedding"] @ VECTOR)[:, None]}

    def embed_text(self, prompts: Sequence[str]) -> Any:
        assert list(prompts) == ["a cat", "a dog"]

        class Text:
            embeddings = np.eye(768, dtype=np.float32)[:2]

        return Text


def test_a_reward_asks_again_whether_weights_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(served_weights.time, "monotonic", lambda: now[0])
    client = Served(OPENAI)
    reward = aesthetic_reward(client)  # type: ignore[arg-type]
    assert "meaningless" not in reward(IMAGES)[1]
    client.tower = {"weights": SEEDED_WEIGHTS}
    assert "meaningless" not in reward(IMAGES)[1] and client.asked == 1
    now[0] += served_weights.RECHECK_S + 1
    assert reward(IMAGES)[1]["meaningless"] == SEEDED_WEIGHTS and client.asked == 2
    # A server that was away may be another one now.
    client.tower, client.away = OPENAI, True
    with pytest.raises(UnavailableError):
        reward(IMAGES)
    client.away = False
    assert "meaningless" not in reward(IMAGES)[1] and client.asked == 3


def test_rewards_by_an_embedding_tell_of_its_tower() -> None:
    seeded = AestheticEmbedding.of(VECTOR, model={"weights": SEEDED_WEIGHTS})
    assert parse_terms([(DEFAULT_HEAD.name, 1), (VECTOR, 1), (seeded, 1)]).meaningless
    assert not parse_terms(AestheticEmbedding.of(VECTOR, model=OPENAI)).meaningless
    with pytest.warns(UserWarning, match="MEANINGLESS: like was made by a tower with weights"):
        _, info = aesthetic_reward(Served(OPENAI), seeded)(IMAGES)  # type: ignore[arg-type]
    assert info["meaningless"] == SEEDED_WEIGHTS
    same = AestheticEmbedding.of(VECTOR, model=OPENAI)
    assert "meaningless" not in aesthetic_reward(Served(OPENAI), same)(IMAGES)[1]  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"another tower \(openai, sha256 abab"):
        aesthetic_reward(Served(OTHER), same)(IMAGES)  # type: ignore[arg-type]


def test_a_head_that_was_fitted_on_a_random_tower_is_meaningless() -> None:
    published = [{"name": head.name, "weights": "published"} for head in HEADS]
    client = Served(OPENAI, [*published, {"name": "mine", "weights": FITTED_ON_SEEDED}])
    assert RemoteAestheticScorer(client, "mine").meaningless  # type: ignore[arg-type]
    assert not RemoteAestheticScorer(client).meaningless  # type: ignore[arg-type]
    client.rows[-1] = {"name": "mine", "weights": "fitted"}
    assert not RemoteAestheticScorer(client, "mine").meaningless  # type: ignore[arg-type]
    tower = tiny_tower()
    object.__setattr__(tower, "weights", "openai")  # as if it were real
    for weights in (FITTED_ON_SEEDED, "fitted"):
        source = HeadSource("x", PinnedFile("x", "", "0" * 64, 0), "", "affine", ((1, 768),))
        head = HeadWeights(source, ((VECTOR[None], np.zeros(1)),), weights)
        assert AestheticScorer(tower, head).meaningless == (weights == FITTED_ON_SEEDED)


def test_similarity_is_of_prompts_too_and_tells_of_another_tower() -> None:
    embedding = AestheticEmbedding.of(VECTOR, model=OPENAI)
    words = ["a cat", "a dog"]
    found = similarity(words, embedding, Served(OPENAI), prompts=True)  # type: ignore[arg-type]
    assert np.abs(found - embedding.vector[:2]).max() < 1e-7
    with pytest.warns(UserWarning, match="another tower"):
        similarity(words, embedding, Served(OTHER), prompts=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need a client"):
        similarity(words, embedding, prompts=True)
    with pytest.raises(ValueError, match="a prompt, or a list"):
        similarity(VECTOR[None], embedding, Served(OPENAI), prompts=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e200, 1e306])
def test_means_and_cosines_are_of_vectors_of_any_size(size: float) -> None:
    rows = np.random.default_rng(4).standard_normal((3, 768))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = mean_of(rows * size).vector
    expected = units.mean(0) / np.linalg.norm(units.mean(0))
    assert np.abs(found - expected).max() < 1e-7
    cosines = similarity(rows * size, AestheticEmbedding.of(expected))
    assert np.abs(cosines - units @ expected).max() < 1e-6
