"""Every common layout of CLIP weights gives the same tower; nothing hostile is read."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aesthetic_client.errors import InputError
from aesthetic_export.checkpoints import open_clip_names, tower_state
from aesthetic_export.towers import tower_from_state
from text_towers import transformers_layers
from towers import TINY, tiny_tower

PIXELS = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def original() -> nn.Module:
    """A tower whose every parameter differs from its neighbours', biases and norms included."""
    module = tiny_tower(3).module
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


def transformers_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's tower as Hugging Face's CLIPModel names it, written out by hand."""
    outer = {
        "class_embedding": "embeddings.class_embedding",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_pre.weight": "pre_layrnorm.weight",
        "ln_pre.bias": "pre_layrnorm.bias",
        "ln_post.weight": "post_layernorm.weight",
        "ln_post.bias": "post_layernorm.bias",
    }
    renamed = {f"vision_model.{outer[n]}": t for n, t in state.items() if n in outer}
    renamed["visual_projection.weight"] = state["proj"].t().contiguous()
    renamed |= transformers_layers(state, "vision_model.")
    # What a whole CLIPModel has besides.
    renamed["vision_model.embeddings.position_ids"] = torch.arange(257)[None]
    renamed["text_model.final_layer_norm.weight"] = torch.ones(8)
    renamed["text_projection.weight"] = torch.ones(8, 8)
    renamed["logit_scale"] = torch.tensor(4.6)
    return renamed


def whole_clip_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same as OpenAI and open_clip name a whole CLIP, with a text transformer beside it."""
    text = {"transformer.resblocks.0.ln_1.weight": torch.zeros(9), "text_projection": torch.ones(2)}
    return {**{f"visual.{name}": tensor for name, tensor in state.items()}, **text}


def assert_same(state: dict[str, torch.Tensor], original: nn.Module) -> None:
    tower = tower_from_state(state, sha256="0" * 64, source="test", shape=TINY)
    assert torch.equal(tower.module(PIXELS), original(PIXELS))


def test_every_naming_gives_the_same_tower(original, tmp_path):
    state = dict(original.state_dict())
    for number, names in enumerate(
        (
            state,
            whole_clip_names(state),
            transformers_names(state),
            {f"module.{name}": tensor for name, tensor in whole_clip_names(state).items()},
        )
    ):
        assert_same(open_clip_names(names), original)
        path = tmp_path / f"{number}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in names.items()}, path)
        assert_same(tower_state(path), original)
        torch.save(names, tmp_path / f"{number}.pt")
        assert_same(tower_state(tmp_path / f"{number}.pt"), original)


def test_a_training_checkpoint_is_read(original, tmp_path):
    nested = {"epoch": 3, "state_dict": whole_clip_names(dict(original.state_dict()))}
    torch.save(nested, tmp_path / "epoch_3.pt")
    assert_same(tower_state(tmp_path / "epoch_3.pt"), original)


class WholeClip(nn.Module):
    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.visual(pixels)


def test_a_torchscript_archive_in_fp16_is_read_as_openai_published_it(tmp_path):
    module = tiny_tower(4).module
    path = tmp_path / "ViT-L-14.pt"
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript's end is announced; this test needs it
        archive = torch.jit.trace(WholeClip(module), PIXELS[:1], check_trace=False)
        torch.jit.save(archive.half(), str(path))
    torch.backends.mha.set_fastpath_enabled(fastpath)
    state = tower_state(path)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert_same(state, module.half().float())


def test_q_k_and_v_keep_their_order(original):
    names = transformers_names(dict(original.state_dict()))
    layer = "vision_model.encoder.layers.0.self_attn."
    names[f"{layer}q_proj.bias"], names[f"{layer}k_proj.bias"] = (
        names[f"{layer}k_proj.bias"],
        names[f"{layer}q_proj.bias"],
    )
    with pytest.raises(AssertionError):
        assert_same(open_clip_names(names), original)


def test_missing_left_over_and_misshapen_tensors_are_named(original):
    state = open_clip_names(original.state_dict())
    lacking = {name: tensor for name, tensor in state.items() if name != "ln_post.bias"}
    surplus = {**state, "ln_extra.bias": torch.zeros(1)}
    for wrong, named in ((lacking, "ln_post.bias"), (surplus, "ln_extra.bias")):
        with pytest.raises(InputError, match=named):
            tower_from_state(wrong, sha256="0", source="test", shape=TINY)
    with pytest.raises(InputError, match="size mismatch"):
        tower_from_state(state, sha256="0", source="test", shape=replace(TINY, width=32))
    names = transformers_names(dict(original.state_dict()))
    del names["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(InputError, match="lacks one of q, k and v"):
        open_clip_names(names)


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.mark.parametrize("form", ["torch", "pickle", "text", "list"])
def test_a_file_that_is_more_than_tensors_is_refused_unexecuted(tmp_path, form):
    path = tmp_path / "tower.pt"
    match form:
        case "torch":
            torch.save({"visual.proj": Hostile()}, path)
        case "pickle":
            path.write_bytes(pickle.dumps(Hostile()))
        case "text":
            path.write_text("<html>404</html>")
        case "list":
            torch.save([torch.ones(1)], path)
    with pytest.raises(InputError, match=r"tower\.pt"):
        tower_state(path)


def test_something_else_is_no_tower(tmp_path):
    save_file({"weight": torch.ones(1)}, tmp_path / "head.safetensors")
    with pytest.raises(InputError, match="no CLIP image tower"):
        tower_state(tmp_path / "head.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0")
    with pytest.raises(InputError, match="broken"):
        tower_state(tmp_path / "broken.safetensors")
