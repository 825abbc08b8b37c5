"""The text tower computes what open_clip's and transformers' do, from weights of every naming."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aesthetic_client.contract import SEEDED_WEIGHTS
from aesthetic_client.errors import InputError
from aesthetic_client.tokenizer import PAD_END, PAD_ZERO, tokenize
from aesthetic_export import sources
from aesthetic_export.files import FileStore, UnreachableError, WrongFileError, sha256_of
from aesthetic_export.openclip import open_clip_transformer
from aesthetic_export.sources import load_text_tower
from aesthetic_export.text_checkpoints import open_clip_text_names, text_tower_state
from aesthetic_export.text_towers import (
    VIT_L_14_TEXT,
    build_text_transformer,
    seeded_text_tower,
    text_tower_from_state,
)
from aesthetic_export.towers import check_quick_gelu
from aesthetic_export.weights import parse_weights
from text_towers import (
    TINY_TEXT,
    tiny_text_tower,
    transformers_text_model,
    transformers_text_names,
)

PROMPTS = ["", "a cat", "Hills of Tuscany, oil on canvas, 1867", "long " * 75]
TOKENS = torch.from_numpy(tokenize(PROMPTS))


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return tiny_text_tower(3).module


def assert_same(state: dict[str, torch.Tensor], original: nn.Module) -> None:
    tower = text_tower_from_state(state, sha256="0" * 64, source="test", shape=TINY_TEXT)
    for found, expected in zip(tower.module(TOKENS), original(TOKENS), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("pad", [PAD_ZERO, PAD_END])
@pytest.mark.parametrize("eos", [2, 49407])  # what OpenAI's own config says, and what is true
def test_transformers_computes_the_same(original, pad, eos):
    tokens = torch.from_numpy(tokenize(PROMPTS, pad=pad))
    model = transformers_text_model(tiny_text_tower(3), eos_token_id=eos)
    with torch.no_grad():
        expected = model(input_ids=tokens)
        embedding, hidden = original(tokens)
    assert hidden.shape == (4, 77, 32)
    assert embedding.shape == (4, 768)
    assert (hidden - expected.last_hidden_state).abs().max() < 1e-5
    assert (embedding - expected.text_embeds).abs().max() < 1e-5
    assert (embedding[1] - embedding[2]).abs().max() > 0.1  # prompts are told apart


def test_the_padding_changes_hidden_states_after_the_end_and_nothing_else(original):
    zero, end = (original(torch.from_numpy(tokenize(PROMPTS, pad=p))) for p in (PAD_ZERO, PAD_END))
    assert torch.allclose(zero[0], end[0], atol=1e-6)
    assert torch.allclose(zero[1][1, :4], end[1][1, :4], atol=1e-6)  # start, a, cat, end
    assert (zero[1][1, 4:] - end[1][1, 4:]).abs().amax(dim=-1).min() > 0.01


def test_every_naming_gives_the_same_tower(original, tmp_path):
    state = dict(original.state_dict())
    openai = {
        **state,
        "visual.proj": torch.ones(2),
        "visual.class_embedding": torch.ones(2),
        "logit_scale": torch.tensor(4.6),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    hub = {
        **transformers_text_names(state),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.post_layernorm.weight": torch.ones(8),
        "visual_projection.weight": torch.ones(8, 8),
        "logit_scale": torch.tensor(4.6),
    }
    custom = {f"text.{name}": tensor for name, tensor in state.items()}
    custom["text.attn_mask"] = torch.zeros(77, 77)
    wrapped = {f"module.{name}": tensor for name, tensor in openai.items()}
    for number, names in enumerate((openai, hub, custom, wrapped)):
        assert_same(open_clip_text_names(names), original)
        path = tmp_path / f"{number}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in names.items()}, path)
        assert_same(text_tower_state(path), original)
        torch.save(names, tmp_path / f"{number}.pt")
        assert_same(text_tower_state(tmp_path / f"{number}.pt"), original)


def test_fp16_weights_become_fp32(original):
    halves = {name: tensor.half() for name, tensor in original.state_dict().items()}
    state = open_clip_text_names(halves)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(state["text_projection"], original.text_projection.half().float())


def test_missing_left_over_and_misshapen_tensors_are_named(original):
    state = open_clip_text_names(original.state_dict())
    lacking = {name: tensor for name, tensor in state.items() if name != "text_projection"}
    surplus = {**state, "transformer.extra": torch.zeros(1)}
    for wrong, named in ((lacking, "text_projection"), (surplus, "transformer.extra")):
        with pytest.raises(InputError, match=f"no ViT-L/14 text tower.*{named}"):
            text_tower_from_state(wrong, sha256="0", source="test", shape=TINY_TEXT)
    with pytest.raises(InputError, match="size mismatch"):
        text_tower_from_state(state, sha256="0", source="test", shape=replace(TINY_TEXT, width=48))
    with pytest.raises(InputError, match="no CLIP text tower"):
        open_clip_text_names({"visual.proj": torch.ones(1), "positional_embedding": torch.ones(1)})


def test_the_activation_is_quick_gelu_in_every_layer(original):
    assert check_quick_gelu(original) == 2


def test_a_seed_names_one_tower_and_says_that_it_is_random():
    one, same, other = (seeded_text_tower(seed, TINY_TEXT) for seed in (0, 0, 1))
    assert one.seeded
    assert one.weights == SEEDED_WEIGHTS
    assert torch.equal(one.module.text_projection, same.module.text_projection)
    assert not torch.equal(one.module.text_projection, other.module.text_projection)


def test_the_shape_is_that_of_openais_checkpoint():
    """Names and sizes of open_clip's own `ViT-L-14`, built without memory for its weights."""
    open_clip_transformer()
    from open_clip.factory import get_model_config
    from open_clip.model import CLIP

    with torch.device("meta"):
        theirs = CLIP(**get_model_config("ViT-L-14")).state_dict()
        ours = build_text_transformer(VIT_L_14_TEXT).state_dict()
    text = {n: t for n, t in theirs.items() if not n.startswith(("visual.", "logit_"))}
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in text.items()}
    assert sum(tensor.numel() for tensor in ours.values()) == 123_650_304


def test_weights_come_from_the_sources_of_the_image_tower(original, tmp_path):
    """A file with its hash, a seed, and `auto` where nothing can be reached."""
    path = tmp_path / "clip.safetensors"
    save_file(dict(original.state_dict()), path)
    sha256 = sha256_of(path)
    store = FileStore(tmp_path / "cache")
    load = partial(load_text_tower, store=store, warn=pytest.fail, shape=TINY_TEXT)
    tower = load(parse_weights(str(path), sha256=sha256))
    assert (tower.sha256, tower.source, tower.weights) == (sha256, path.name, path.name)
    assert torch.equal(tower.module.text_projection, original.text_projection)
    seeded = load(parse_weights("seeded:4")).module
    expected = seeded_text_tower(4, TINY_TEXT).module
    assert torch.equal(seeded.text_projection, expected.text_projection)
    with pytest.raises(WrongFileError, match=sha256):
        load(parse_weights(str(path)))


def test_auto_goes_on_with_random_weights_and_says_so(monkeypatch, tmp_path):
    def unreachable(*_: object) -> None:
        raise UnreachableError("the hub does not answer")

    monkeypatch.setattr(sources, "tower_file", unreachable)
    said: list[str] = []
    store = FileStore(tmp_path)
    tower = load_text_tower(parse_weights("auto"), store, said.append, TINY_TEXT)
    assert tower.seeded
    assert "MEANINGLESS" in said[0]
    with pytest.raises(UnreachableError, match="seeded:0"):
        load_text_tower(parse_weights("openai"), store, pytest.fail, TINY_TEXT)
