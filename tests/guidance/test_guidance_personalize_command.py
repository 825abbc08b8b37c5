"""`aesthetic guide personalize` in this process, and recipes as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from aesthetic_client.errors import InputError
from aesthetic_export import sources
from aesthetic_guidance.cli import personalize as command
from aesthetic_guidance.embeddings import AestheticEmbedding
from aesthetic_guidance.personalize import Recipe, personalize
from aesthetic_guidance.recipe_json import recipe_as_json, recipe_from_json
from text_towers import tiny_text_tower

OPTIONS = ("--steps", "2", "--lr", "0.05", "--optimizer", "ascent", "--weight", "0.5", "--slerp")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """`--weights seeded:N` builds tiny towers; one thread, for they are too small for two."""
    monkeypatch.setattr(sources, "seeded_text_tower", lambda seed, shape: tiny_text_tower(seed))
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    vector = np.random.default_rng(7).standard_normal(768)
    AestheticEmbedding.of(vector, "holidays").write(path)
    return path


def run(*options: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(option) for option in options]))


def test_it_writes_what_personalize_gives_and_says_meaningless(mine, tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    given = ("a cat", "", "--embedding", mine, "--weights", "seeded:3", "-o", output)
    assert run(*given, *OPTIONS) == 0
    tensors = load_file(output)
    tower, vector = tiny_text_tower(3), AestheticEmbedding.read(mine).vector
    for row, prompt in enumerate(("a cat", "")):
        expected = personalize(
            prompt, vector, tower, steps=2, lr=0.05, optimizer="ascent", weight=0.5, slerp=True
        )
        assert torch.equal(tensors["prompt_embeds"][row], expected.last_hidden_state)
        assert torch.equal(tensors["text_embeddings"][row], expected.embedding)
        assert tensors["agreement"][row].tolist() == pytest.approx(expected.agreement)
    with safe_open(output, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["prompts"]) == ["a cat", ""]
    assert json.loads(metadata["recipe"])["steps"] == 2
    assert metadata["aesthetic_embedding"] == "holidays"
    assert metadata["provenance.source"] == "seeded:3"
    printed = capsys.readouterr().out
    assert "MEANINGLESS" in printed and str(output) in printed
    assert f"{tensors['agreement'][0, 0]:.4f}" in printed
    assert f"{tensors['agreement'][0, -1]:.4f}" in printed
    assert "another tower" not in printed  # the embedding's is unknown


def test_an_embedding_of_another_tower_is_told_of(tmp_path, capsys):
    path = tmp_path / "other.safetensors"
    AestheticEmbedding.of(np.ones(768), model={"weights": "openai"}).write(path)
    given = ("a cat", "--embedding", path, "--weights", "seeded:3", "--steps", "0")
    assert run(*given, "-o", tmp_path / "out.safetensors") == 0
    printed = capsys.readouterr().out
    assert f"WARNING: {path} was made by another tower (openai) than the one" in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-o", "out.pt"), "must end in .safetensors"),
        (("--url", "localhost:8001", "--weights", "seeded:0"), "for this process, without --url"),
        (("--steps", "-1"), "steps=-1"),
        (("--lr", "nan"), "lr=nan"),
        (("--weight", "2"), "weight"),
        (("--embedding", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_what_the_user_must_mend_is_said(mine, tmp_path, options, says):
    given = ("a cat", "--embedding", mine, "-o", tmp_path / "out.safetensors")
    with pytest.raises(InputError, match=says):
        run(*given, *options)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_prompt_that_is_no_utf_8_is_refused_before_anything_is_loaded(
    mine, tmp_path, monkeypatch
):
    monkeypatch.setattr(command, "load_text_tower", lambda *_: pytest.fail("loaded"))
    given = ("a cat", "\udcff", "--embedding", mine, "-o", tmp_path / "out.safetensors")
    with pytest.raises(InputError, match=r"prompts\[1\]: .*UTF-8"):
        run(*given)


def test_numbers_of_numpy_and_torch_are_taken_and_travel():
    given = Recipe(
        np.int64(3), np.float32(0.5), "ascent", torch.tensor(0.25), np.bool_(True), np.bool_(False)
    )
    assert given == Recipe(3, 0.5, "ascent", 0.25, slerp=True, negative=False)
    assert recipe_from_json(recipe_as_json(given).encode()) == given
    assert [type(value) for value in vars(given).values()] == [int, float, str, float, bool, bool]


def test_recipes_travel_as_json():
    recipe = Recipe(3, 0.5, "ascent", 0.25, slerp=True, negative=True)
    assert recipe_from_json(recipe_as_json(recipe).encode()) == recipe
    assert recipe_from_json(b"{}") == Recipe()
    assert recipe_from_json(b'{"lr": 1, "weight": 0}') == Recipe(lr=1, weight=0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a JSON object"),
        (b"\xff", "not a JSON object"),
        (b"null", "got NoneType"),
        (b'{"step": 1}', "'step' is no field of a recipe; use steps, lr"),
        (b'{"steps": 1.0}', "steps=1.0 is not int"),
        (b'{"steps": true}', "steps=True is not int"),
        (b'{"lr": true}', "lr=True is not int or float"),
        (b'{"lr": Infinity}', "lr=inf"),
        (b'{"slerp": "no"}', "slerp='no' is not bool"),
        (b'{"optimizer": "sgd"}', "optimizer='sgd'"),
        (b'{"weight": 1.5}', "weight"),
        (b"[" * 1001, "1001 bytes, more than 1000"),
        (b"[" * 1000, "not a JSON object"),
    ],
)
def test_what_is_no_recipe_is_named(data, says):
    with pytest.raises(InputError, match=rf"^recipe\[2\]: .*{says}"):
        recipe_from_json(data, position="recipe[2]")
